// SPDX-License-Identifier: GPL-2.0-only
/* Time, small files, futexes, names of results, seeded numbers. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "executor.h"

uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

void sleep_us(uint64_t us)
{
	struct timespec ts = {
		.tv_sec = us / 1000000,
		.tv_nsec = us % 1000000 * 1000,
	};

	nanosleep(&ts, NULL);
}

/* All of a small file, NUL-terminated and cut at size - 1; -errno on failure. */
ssize_t read_file(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t len = 0;
	ssize_t n = 0;

	if (fd < 0)
		return -errno;
	while (len < size - 1) {
		n = read(fd, buf + len, size - 1 - len);
		if (n <= 0)
			break;
		len += n;
	}
	if (n < 0)
		n = -errno;
	close(fd);
	buf[len] = '\0';
	return n < 0 ? n : (ssize_t)len;
}

/* One write, as attribute files of the kernel want it; 0 or an errno. */
int write_file(const char *path, const char *data, size_t len)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int err = 0;
	ssize_t n;

	if (fd < 0)
		return errno;
	n = write(fd, data, len);
	if (n < 0)
		err = errno;
	else if ((size_t)n < len)
		err = RES_SHORT;
	close(fd);
	return err;
}

long futex_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t timeout_us)
{
	struct timespec ts = {
		.tv_sec = timeout_us / 1000000,
		.tv_nsec = timeout_us % 1000000 * 1000,
	};

	return syscall(SYS_futex, word, FUTEX_WAIT, seen, timeout_us ? &ts : NULL, NULL, 0);
}

void futex_wake_all(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static const char * const pseudo_names[] = {
	[RES_SHORT - RES_FIRST_PSEUDO] = "SHORT",
	[RES_SIGBUS - RES_FIRST_PSEUDO] = "SIGBUS",
	[RES_SIGSEGV - RES_FIRST_PSEUDO] = "SIGSEGV",
	[RES_EXIT - RES_FIRST_PSEUDO] = "EXIT",
	[RES_SIGNAL - RES_FIRST_PSEUDO] = "SIGNAL",
	[RES_SKIPPED - RES_FIRST_PSEUDO] = "SKIPPED",
};

/* The name that scenarios and reports use, or NULL where there is none. */
const char *result_name(int res)
{
	if (res == RES_OK)
		return "ok";
	if (res >= RES_FIRST_PSEUDO && res < RES_MAX)
		return pseudo_names[res - RES_FIRST_PSEUDO];
	/* Numbers with two names: the kernel's own word for it. */
	if (res == EOPNOTSUPP)
		return "EOPNOTSUPP";
	return strerrorname_np(res);
}

int result_by_name(const char *name)
{
	for (int res = 0; res < RES_MAX; res++) {
		const char *known = result_name(res);

		if (known && !strcmp(known, name))
			return res;
	}
	return -1;
}

void result_add(struct result_set *set, int res)
{
	set->bits[res / 64] |= 1ULL << (res % 64);
}

bool result_has(const struct result_set *set, int res)
{
	if (set->any)
		return true;
	return res >= 0 && res < RESULT_BITS && set->bits[res / 64] >> (res % 64) & 1;
}

const char *signal_name(int sig)
{
	const char *name = sigabbrev_np(sig);

	return name ? name : "?";
}

uint64_t splitmix64(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

/*
 * The bytes that belong at @offset of whatever has this key. A reader needs
 * only the two numbers to tell whether what it read is what was written.
 */
void pattern_fill(unsigned char *buf, size_t len, uint64_t key, uint64_t offset)
{
	uint64_t word = 0;

	for (size_t i = 0; i < len; i++) {
		uint64_t at = offset + i;

		if (i == 0 || at % 8 == 0) {
			uint64_t state = key * 0xd6e8feb86659fd93ULL ^ at / 8;

			word = splitmix64(&state);
		}
		buf[i] = word >> (at % 8 * 8);
	}
}

void copy_name(char *to, size_t size, const char *from)
{
	size_t len = strnlen(from, size - 1);

	memcpy(to, from, len);
	to[len] = '\0';
}
