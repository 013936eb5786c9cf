// SPDX-License-Identifier: GPL-2.0-only
/*
 * executor run FILE [--audit FILE]   run a program from FILE (- is standard
 *                                    input), report to standard output
 * executor agent [--audit FILE]      in a guest: wait for a program, run it,
 *                                    report to the debug console, power off
 * executor relay PORT ARGV...        in a guest: serve TCP connections with a
 *                                    program that is ready before they come
 * executor check FILE                only read a program
 * executor tables                    what ops, flags, limits and results it has
 *
 * Exit status of run: 0 when everything ended by itself, 1 when not, 2 for a
 * bad program or usage, 3 for trouble of its own. Build: gcc -O2 -static *.c
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "executor.h"

static ssize_t read_all(int fd, char *buf, size_t size)
{
	size_t len = 0;
	ssize_t n;

	while (len < size) {
		n = read(fd, buf + len, size - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (!n)
			break;
		len += n;
	}
	return len;
}

static void tell_bad(const struct parse_error *err)
{
	ev_begin("bad-program");
	ev_u64("line", err->line);
	ev_str("why", err->why);
	ev_end_always();
}

/* The program in a file, or NULL after saying what is wrong. */
static const struct program *load(const char *file)
{
	/* One byte more than is allowed, so that the parser sees the excess. */
	static char text[MAX_PROGRAM + 1];
	struct parse_error err;
	const struct program *prog;
	int fd = strcmp(file, "-") ? open(file, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;
	ssize_t len = fd < 0 ? -1 : read_all(fd, text, sizeof(text));

	if (len < 0) {
		fprintf(stderr, "executor: %s: %s\n", file, strerror(errno));
		return NULL;
	}
	prog = program_parse(text, len, &err);
	if (!prog)
		tell_bad(&err);
	return prog;
}

static int check_main(const char *file)
{
	const struct program *prog = load(file);

	if (!prog)
		return 2;
	ev_begin("program");
	ev_str("name", prog->name);
	ev_u64("actors", prog->nactors);
	ev_u64("nodes", prog->nnodes);
	ev_end_always();
	return 0;
}

static int run_main(const char *file, const char *audit_file)
{
	const struct program *prog = load(file);

	if (!prog)
		return 2;
	if (audit_file && audit_load(audit_file)) {
		fprintf(stderr, "executor: %s: not an audit file\n", audit_file);
		return 2;
	}
	audit_baseline();
	return run_program(prog) ? 0 : 1;
}

static int usage(void)
{
	fprintf(stderr, "usage: executor run FILE [--audit FILE] | check FILE | "
			"agent [--audit FILE] | relay PORT ARGV... | tables\n");
	return 2;
}

int main(int argc, char **argv)
{
	const char *audit_file = NULL;

	if (argc >= 4 && !strcmp(argv[1], "relay")) {
		int port = atoi(argv[2]);

		return port > 0 && port < 65536 ? relay_main(port, argv + 3) : usage();
	}
	if (argc >= 4 && !strcmp(argv[argc - 2], "--audit")) {
		audit_file = argv[argc - 1];
		argc -= 2;
	}
	shared_alloc();
	channel_open_stdout();
	if (argc == 3 && !strcmp(argv[1], "run"))
		return run_main(argv[2], audit_file);
	if (argc == 3 && !strcmp(argv[1], "check"))
		return check_main(argv[2]);
	if (argc == 2 && !strcmp(argv[1], "agent"))
		return agent_main(audit_file);
	if (argc == 2 && !strcmp(argv[1], "tables")) {
		tables_print();
		return 0;
	}
	return usage();
}
