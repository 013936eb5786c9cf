// SPDX-License-Identifier: GPL-2.0-only
/*
 * Make one allocation fail: the Nth that a task asks for during one op
 * (Documentation/fault-injection, /proc/<pid>/fail-nth). What counts is every
 * slab and page allocation that may fail, whatever memory it is for, and each
 * call of a function that its author has opened to error injection.
 *
 * The kernel says on its console where it made something fail, except for
 * allocations that ask for silence (__GFP_NOWARN) from 5.19 on.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "executor.h"

#define DEBUG		"/sys/kernel/debug/"
#define FUNCTIONS	DEBUG "fail_function/"
#define NTH		"/proc/thread-self/fail-nth"
#define LOG		"/dev/kmsg"
#define NOTICE		"FAULT_INJECTION: forcing a failure"

/* By default only few allocations count: those that cannot wait, for one. */
static const struct { const char *path, *value; } settings[] = {
	{ DEBUG "failslab/ignore-gfp-wait", "N" },
	{ DEBUG "fail_page_alloc/ignore-gfp-wait", "N" },
	{ DEBUG "fail_page_alloc/ignore-gfp-highmem", "N" },
	{ DEBUG "fail_page_alloc/min-order", "0" },
};

static bool starts_with(const char *text, const char *head)
{
	return !strncmp(text, head, strlen(head));
}

/*
 * Not the system calls themselves, which would fail before anybody is asked,
 * nor the two that decide about slabs and pages.
 */
static bool is_wanted(const char *function)
{
	static const char * const not[] = {
		"__x64_", "__ia32_", "__x32_", "bpf_", "should_failslab",
		"should_fail_alloc_page",
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(not); i++) {
		if (starts_with(function, not[i]))
			return false;
	}
	return true;
}

/* Without a probability of their own they fail for nobody but fail-nth. */
static void open_functions(void)
{
	static const char enomem[] = "0xfffffffffffffff4";
	FILE *list = fopen(DEBUG "error_injection/list", "re");
	char line[512], path[640];

	if (!list)
		return;
	while (fgets(line, sizeof(line), list)) {
		char *type = strchr(line, '\t');

		line[strcspn(line, " \t\n")] = '\0';
		if (!is_wanted(line) || write_file(FUNCTIONS "inject", line, strlen(line)))
			continue;
		if (!type || !starts_with(type + 1, "ERRNO"))
			continue;
		snprintf(path, sizeof(path), FUNCTIONS "%s/retval", line);
		write_file(path, enomem, strlen(enomem));
	}
	fclose(list);
}

void fail_prepare(void)
{
	if (!channel_in_guest())
		return;
	for (unsigned int i = 0; i < ARRAY_SIZE(settings); i++) {
		int err = write_file(settings[i].path, settings[i].value,
				     strlen(settings[i].value));

		if (err)
			tell_trouble(settings[i].path, err);
	}
	open_functions();
}

/* What was opened is no residue. */
void fail_finish(void)
{
	if (channel_in_guest())
		write_file(FUNCTIONS "inject", "\n", 1);
}

/* What the actor is going to touch must be there before: its faults would count. */
void fail_open(struct ctx *c)
{
	c->fail.fd = c->fail.log = -1;
	if (!c->prog->nfails)
		return;
	c->fail.fd = open(NTH, O_RDWR | O_CLOEXEC);
	if (channel_in_guest())
		c->fail.log = open(LOG, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	memset(c->buf, 0xff, 2 * MAX_IO);
}

void fail_close(struct ctx *c)
{
	if (c->fail.fd >= 0)
		close(c->fail.fd);
	if (c->fail.log >= 0)
		close(c->fail.log);
}

/* Whether the kernel has said since fail_arm() that it made something fail. */
static bool has_told(const struct ctx *c)
{
	bool told = false;
	char record[8192];	/* as long as the kernel makes them */
	ssize_t len;

	if (c->fail.log < 0)
		return false;
	/* EPIPE: some were overwritten before they were read. */
	while ((len = read(c->fail.log, record, sizeof(record) - 1)) > 0 ||
	       (len < 0 && errno == EPIPE)) {
		record[len > 0 ? len : 0] = '\0';
		told |= strstr(record, NOTICE) != NULL;
	}
	return told;
}

static int set_nth(const struct ctx *c, uint32_t nth)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%u", nth);

	if (c->fail.fd < 0)
		return ENOENT;
	return pwrite(c->fail.fd, text, len, 0) == len ? 0 : errno;
}

static uint32_t get_nth(const struct ctx *c)
{
	char text[16];
	ssize_t len = pread(c->fail.fd, text, sizeof(text) - 1, 0);

	text[len > 0 ? len : 0] = '\0';
	return strtoul(text, NULL, 10);
}

/* From here on allocations of the calling task count, once for each op. */
void fail_arm(struct ctx *c)
{
	struct fail_task *fail = &c->fail;

	if (!fail->nth || fail->armed || fail->start_us)
		return;
	fail->left = fail->nth;
	if (fail->log >= 0)
		lseek(fail->log, 0, SEEK_END);
	fail->start_us = now_us();
	fail->err = set_nth(c, fail->nth);
	fail->armed = !fail->err;
}

/* Keeps errno: what comes after the op's system call is not for the op to see. */
void fail_disarm(struct ctx *c)
{
	struct fail_task *fail = &c->fail;
	int err = errno;

	if (!fail->armed)
		return;
	fail->left = get_nth(c);
	set_nth(c, 0);
	fail->armed = false;
	fail->end_us = now_us();
	fail->told = has_told(c);
	errno = err;
}

/* An op that never came to its system call has nothing armed, and nothing failed. */
void fail_note(struct ctx *c, uint32_t node, int res)
{
	uint32_t slot = atomic_fetch_add(&shared->nfails, 1);
	struct fail_task *fail = &c->fail;

	if (slot < MAX_FAILS) {
		struct fail_done *done = &shared->fail[slot];

		done->actor = c->index;
		done->node = node;
		done->left = fail->start_us ? fail->left : fail->nth;
		done->told = fail->told;
		done->err = fail->err;
		done->res = res;
		done->start_us = fail->start_us;
		done->end_us = fail->end_us;
		atomic_store(&done->ready, 1);
	}
	*fail = (struct fail_task){ .fd = fail->fd, .log = fail->log };
}
