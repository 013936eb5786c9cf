// SPDX-License-Identifier: GPL-2.0-only
/*
 * The life of the executor in a guest. It is started once, while the template
 * is made, and is what a clone wakes up in: polling for its program.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "executor.h"

#define POLL_US		1000
#define SESSION_POLLS	10000
/* Above everything a program may ask for, so that no actor can starve it. */
#define AGENT_PRIORITY	95

static volatile sig_atomic_t prepare_asked;

static void on_usr1(int sig)
{
	(void)sig;
	prepare_asked = 1;
}

/* SSH sessions still under way: each is a dropbear besides the listener. */
static unsigned int count_sessions(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	unsigned int count = 0;
	char path[300], comm[32];

	if (!proc)
		return 0;
	while ((entry = readdir(proc))) {
		if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
			continue;
		snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
		if (read_file(path, comm, sizeof(comm)) > 0 && !strcmp(comm, "dropbear\n"))
			count++;
	}
	closedir(proc);
	return count ? count - 1 : 0;
}

/* How long it took, because every trial pays the same again. */
static void take_baseline(void)
{
	uint64_t start = now_us();

	kmemleak_baseline();
	ev_u64("kmemleak_us", now_us() - start);
	start = now_us();
	audit_baseline();
	ev_u64("audit_us", now_us() - start);
}

/* The guest is about to be saved again, with modules and set-up inside. */
static void prepare(void)
{
	static unsigned int times;
	unsigned int sessions = count_sessions();

	for (unsigned int i = 0; sessions && i < SESSION_POLLS; i++) {
		sleep_us(POLL_US);
		sessions = count_sessions();
	}
	sync();
	write_file("/proc/sys/vm/drop_caches", "3", 1);
	ev_begin("prepared");
	ev_u64("n", ++times);
	take_baseline();
	ev_u64("sessions", sessions);
	ev_end_always();
}

static ssize_t wait_for_program(char *text)
{
	ssize_t len;

	while (!(len = channel_poll_program(text, MAX_PROGRAM + 16))) {
		if (prepare_asked) {
			prepare_asked = 0;
			prepare();
		}
		sleep_us(POLL_US);
	}
	return len;
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

int agent_main(const char *audit_file)
{
	struct sched_param param = { .sched_priority = AGENT_PRIORITY };
	struct sigaction usr1 = { .sa_handler = on_usr1 };
	const char *why = NULL;
	char *text;
	int bad;

	if (channel_open_guest(&why)) {
		fprintf(stderr, "executor: %s\n", why);
		if (channel_in_guest()) {
			ev_begin("trouble");
			ev_str("what", why);
			ev_end_always();
		}
		return 3;
	}
	bad = audit_file ? audit_load(audit_file) : 0;
	text = malloc(MAX_PROGRAM + 16);
	if (bad || !text) {
		ev_begin("trouble");
		ev_str("what", text ? "audit file" : "out of memory");
		ev_int("line", bad);
		ev_end_always();
		return 3;
	}
	sigaction(SIGUSR1, &usr1, NULL);
	mlockall(MCL_CURRENT);
	sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param);
	ev_begin("ready");
	take_baseline();
	ev_str("channel", channel_kind());
	ev_end_always();
	run_text(text, wait_for_program(text));
	channel_exit_machine();
	return 3;
}
