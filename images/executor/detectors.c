// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the kernel's own detectors have to say, and whether they were still
 * awake to say it. Documentation/dev-tools/kmemleak.rst: an object counts as
 * leaked when a scan finds no pointer to it, it is older than 5 seconds, and its
 * content is what it was at the scan before (mm/kmemleak.c, update_checksum).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "executor.h"

#define KMEMLEAK	"/sys/kernel/debug/kmemleak"
#define MIN_AGE_US	5100000
#define MAX_LEAKS	8
#define LEAK_TEXT	2048

static int kmemleak_do(const char *command)
{
	return channel_in_guest() ? write_file(KMEMLEAK, command, strlen(command)) : ENODEV;
}

/* What is unreferenced already is not the module's doing. */
void kmemleak_baseline(void)
{
	if (!kmemleak_do("scan"))
		kmemleak_do("clear");
}

static void tell_leak(const char *text, size_t len, unsigned int number)
{
	if (number > MAX_LEAKS)
		return;
	ev_begin("leak");
	ev_strn("text", text, len < LEAK_TEXT ? len : LEAK_TEXT);
	ev_end();
}

/* Counts what the last scan found, and tells it. */
static unsigned int read_leaks(bool tell)
{
	static const char head[] = "unreferenced object";
	FILE *file = fopen(KMEMLEAK, "re");
	char *line = NULL, block[LEAK_TEXT];
	size_t room = 0, len = 0;
	unsigned int count = 0;
	ssize_t n;

	if (!file)
		return 0;
	while ((n = getline(&line, &room, file)) > 0) {
		if (!strncmp(line, head, strlen(head))) {
			if (tell && count)
				tell_leak(block, len, count);
			count++;
			len = 0;
		}
		if (len + n <= sizeof(block)) {
			memcpy(block + len, line, n);
			len += n;
		}
	}
	if (tell && count)
		tell_leak(block, len, count);
	free(line);
	fclose(file);
	return count;
}

void kmemleak_report(void)
{
	uint64_t start = now_us();
	unsigned int count = 0;
	int err;

	sleep_us(MIN_AGE_US);
	err = kmemleak_do("scan");
	if (!err)
		err = kmemleak_do("scan");
	/* What a scan has missed because it moved is there in the next one. */
	if (!err && read_leaks(false)) {
		err = kmemleak_do("scan");
		count = read_leaks(true);
	}
	ev_begin("leaks");
	ev_bool("alive", !err);
	ev_u64("count", count);
	if (err)
		ev_str("errno", result_name(err) ?: "?");
	ev_u64("took_us", now_us() - start);
	ev_end();
}

/* A number after @key in a file, or -1. */
static long number_in(const char *path, const char *key)
{
	char text[8192], *at = text;

	if (read_file(path, text, sizeof(text)) <= 0)
		return -1;
	if (key) {
		at = strstr(text, key);
		if (!at)
			return -1;
		at += strlen(key);
	}
	return strtol(at, NULL, 10);
}

/*
 * Records that the ring buffer has overwritten: the number of the oldest one
 * that is left. Documentation/ABI/testing/dev-kmsg: `level,sequence,...`.
 */
static long printk_lost(void)
{
	char record[8192];
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	long lost = -1;
	ssize_t n;

	if (fd < 0)
		return -1;
	n = read(fd, record, sizeof(record) - 1);
	if (n > 0) {
		record[n] = '\0';
		if (sscanf(record, "%*d,%ld,", &lost) != 1)
			lost = -1;
	}
	close(fd);
	return lost;
}

static long taint_before = -1;

/* How the kernel has tainted itself already is not the module's doing either. */
void detectors_baseline(void)
{
	taint_before = number_in("/proc/sys/kernel/tainted", NULL);
}

/* -1 stands for 'this kernel does not say'. */
void detectors_report(void)
{
	ev_begin("detectors");
	ev_int("lockdep", number_in("/proc/lockdep_stats", "debug_locks:"));
	/* Refused with EPERM once it has disabled itself (mm/kmemleak.c). */
	ev_bool("kmemleak", !kmemleak_do("scan=off"));
	ev_int("taint", number_in("/proc/sys/kernel/tainted", NULL));
	ev_int("taint_before", taint_before);
	ev_int("hung_task", number_in("/proc/sys/kernel/hung_task_timeout_secs", NULL));
	ev_bool("fault_injection", !access("/proc/self/fail-nth", F_OK));
	ev_int("printk_lost", printk_lost());
	ev_str("channel", channel_kind());
	ev_end_always();
}
