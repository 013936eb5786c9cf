// SPDX-License-Identifier: GPL-2.0-only
/*
 * The life of the executor in a guest. It is started once, while the template
 * is made, and is what a clone wakes up in.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "executor.h"

/* Above everything a program may ask for, so that no actor can starve it. */
#define AGENT_PRIORITY	95
#define CPIO_MAGIC	"070701"
#define SETUP		"/payload/setup"

/* Runs a shell command with some input; returns its wait status. */
static int run_shell(const char *command, const char *input, size_t len)
{
	FILE *pipe = popen(command, "w");
	int status;

	if (!pipe)
		return -1;
	if (fwrite(input, 1, len, pipe) != len)
		fprintf(stderr, "executor: `%s` did not take its input\n", command);
	status = pclose(pipe);
	return status;
}

/*
 * The guest is about to be saved again, with modules and set-up inside; what it
 * looks like now is what every trial is compared with.
 */
static void take_payload(const char *archive, size_t len)
{
	int status = run_shell("cd / && exec cpio -idmu", archive, len);
	uint64_t start;

	if (!status && !access(SETUP, X_OK))
		status = run_shell(SETUP, "", 0);
	if (status) {
		ev_begin("setup-failed");
		ev_int("status", status);
		ev_end_always();
		return;
	}
	sync();
	write_file("/proc/sys/vm/drop_caches", "3", 1);
	start = now_us();
	park_prepare();
	kmemleak_baseline();
	detectors_baseline();
	audit_baseline();
	ev_begin("prepared");
	ev_u64("took_us", now_us() - start);
	ev_end_always();
}

static void run_text(const char *text, ssize_t len)
{
	struct parse_error err = { .why = "fw_cfg item holds no length and program" };
	const struct program *prog = len < 0 ? NULL : program_parse(text, len, &err);

	if (prog) {
		run_program(prog);
		return;
	}
	ev_begin("bad-program");
	ev_u64("line", err.line);
	ev_str("why", err.why);
	ev_end_always();
}

/* Somebody uses this guest over SSH; the agent has nothing more to do in it. */
static void stand_by(void)
{
	struct sched_param param = { 0 };

	sched_setscheduler(0, SCHED_OTHER, &param);
	for (;;)
		pause();
}

/*
 * Stops the machine, and looks what there is to do whenever it goes on: in a
 * clone the item holds what that clone is for.
 */
static void serve(void)
{
	char *content;
	ssize_t len;

	for (;;) {
		channel_pause_machine();
		len = channel_read_input(&content);
		if (!len)
			stand_by();
		if (len < 0 || strncmp(content, CPIO_MAGIC, strlen(CPIO_MAGIC))) {
			run_text(content, len);
			return;
		}
		take_payload(content, len);
		free(content);
	}
}

int agent_main(const char *audit_file)
{
	struct sched_param param = { .sched_priority = AGENT_PRIORITY };
	const char *why = NULL;
	int bad;

	if (channel_open_guest(&why)) {
		fprintf(stderr, "executor: %s\n", why);
		return 3;
	}
	bad = audit_file ? audit_load(audit_file) : 0;
	if (bad) {
		ev_begin("trouble");
		ev_str("what", "audit file");
		ev_int("line", bad);
		ev_end_always();
		return 3;
	}
	park_prepare();
	mlockall(MCL_CURRENT);
	sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param);
	ev_begin("ready");
	ev_str("channel", channel_kind());
	ev_end_always();
	serve();
	channel_exit_machine();
	return 3;
}
