// SPDX-License-Identifier: GPL-2.0-only
/* Ops on open files and mappings, and the check of what was read. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "executor.h"

#define PAGE	4096
#define MAX_GETDENTS	4096	/* calls before a directory counts as endless */

void data_lost(struct ctx *c, const char *what, uint64_t offset,
	       const unsigned char *expected, size_t nexpected,
	       const unsigned char *got, size_t ngot)
{
	uint32_t count = atomic_load(&c->st->ndata);
	struct data_event *event;

	if (count < MAX_DATA) {
		event = &c->st->data[count];
		event->node = c->node;
		event->offset = offset;
		event->what = what;
		event->nexpected = nexpected < sizeof(event->expected) ?
				   nexpected : sizeof(event->expected);
		event->ngot = ngot < sizeof(event->got) ? ngot : sizeof(event->got);
		if (event->nexpected)
			memcpy(event->expected, expected, event->nexpected);
		if (event->ngot)
			memcpy(event->got, got, event->ngot);
	}
	/* Published last: the agent reads the slots below the count. */
	atomic_store(&c->st->ndata, count + 1);
}

void check_pattern(struct ctx *c, const unsigned char *got, size_t len,
		   uint64_t key, uint64_t offset)
{
	size_t at;

	pattern_fill(c->want, len, key, offset);
	if (!memcmp(got, c->want, len))
		return;
	for (at = 0; got[at] == c->want[at]; at++)
		;
	len = len - at < 16 ? len - at : 16;
	data_lost(c, "differs", offset + at, c->want + at, len, got + at, len);
}

static int finish_read(struct ctx *c, ssize_t got, uint64_t offset, const struct arg *key,
		       uint64_t least)
{
	if (got < 0)
		return errno;
	if (key->set)
		check_pattern(c, c->buf, got, key->i, offset);
	if ((uint64_t)got < least)
		data_lost(c, "short", offset + got, NULL, 0, NULL, 0);
	return 0;
}

int op_open(struct ctx *c, const struct node *n)
{
	int *fd = &c->fd[n->arg[0].i];

	if (*fd >= 0)
		close(*fd);
	*fd = syscall(SYS_openat, AT_FDCWD, n->arg[1].s, (int)n->arg[2].i | O_CLOEXEC,
		      (mode_t)n->arg[3].i);
	c->pos[n->arg[0].i] = 0;
	return *fd < 0 ? errno : 0;
}

int op_close(struct ctx *c, const struct node *n)
{
	int fd = c->fd[n->arg[0].i];

	if (fd < 0)
		return RES_SKIPPED;
	/* Whatever close answers, the descriptor is gone. */
	c->fd[n->arg[0].i] = -1;
	return syscall(SYS_close, fd) ? errno : 0;
}

int op_read(struct ctx *c, const struct node *n)
{
	uint64_t offset = c->pos[n->arg[0].i];
	int fd = c->fd[n->arg[0].i];
	ssize_t got;

	if (fd < 0)
		return RES_SKIPPED;
	got = syscall(SYS_read, fd, c->buf, (size_t)n->arg[1].i);
	if (got > 0)
		c->pos[n->arg[0].i] += got;
	return finish_read(c, got, offset, &n->arg[2], n->arg[3].i);
}

int op_pread(struct ctx *c, const struct node *n)
{
	int fd = c->fd[n->arg[0].i];
	ssize_t got;

	if (fd < 0)
		return RES_SKIPPED;
	got = syscall(SYS_pread64, fd, c->buf, (size_t)n->arg[2].i, n->arg[1].i);
	return finish_read(c, got, n->arg[1].i, &n->arg[3], n->arg[4].i);
}

/* Where nobody has ever written there are zeros. */
int op_pread_hole(struct ctx *c, const struct node *n)
{
	size_t len = n->arg[2].i, at = 0;
	int fd = c->fd[n->arg[0].i];
	ssize_t got;

	if (fd < 0)
		return RES_SKIPPED;
	got = syscall(SYS_pread64, fd, c->buf, len, n->arg[1].i);
	if (got < 0)
		return errno;
	while (at < (size_t)got && !c->buf[at])
		at++;
	if (at < (size_t)got) {
		len = got - at < 16 ? got - at : 16;
		memset(c->want, 0, len);
		data_lost(c, "differs", n->arg[1].i + at, c->want, len, c->buf + at, len);
	} else if (at < len) {
		data_lost(c, "short", n->arg[1].i + at, NULL, 0, NULL, 0);
	}
	return 0;
}

int op_write(struct ctx *c, const struct node *n)
{
	size_t len = n->arg[1].i;
	int fd = c->fd[n->arg[0].i];
	ssize_t done;

	if (fd < 0)
		return RES_SKIPPED;
	pattern_fill(c->buf, len, n->arg[2].i, c->pos[n->arg[0].i]);
	done = syscall(SYS_write, fd, c->buf, len);
	if (done < 0)
		return errno;
	c->pos[n->arg[0].i] += done;
	return (size_t)done < len ? RES_SHORT : 0;
}

int op_pwrite(struct ctx *c, const struct node *n)
{
	size_t len = n->arg[2].i;
	int fd = c->fd[n->arg[0].i];
	ssize_t done;

	if (fd < 0)
		return RES_SKIPPED;
	pattern_fill(c->buf, len, n->arg[3].i, n->arg[1].i);
	done = syscall(SYS_pwrite64, fd, c->buf, len, n->arg[1].i);
	if (done < 0)
		return errno;
	return (size_t)done < len ? RES_SHORT : 0;
}

int op_lseek(struct ctx *c, const struct node *n)
{
	int fd = c->fd[n->arg[0].i];
	off_t pos;

	if (fd < 0)
		return RES_SKIPPED;
	pos = syscall(SYS_lseek, fd, n->arg[1].i, (int)n->arg[2].i);
	if (pos < 0)
		return errno;
	c->pos[n->arg[0].i] = pos;
	return 0;
}

int op_fsync(struct ctx *c, const struct node *n)
{
	int fd = c->fd[n->arg[0].i];

	if (fd < 0)
		return RES_SKIPPED;
	return syscall(SYS_fsync, fd) ? errno : 0;
}

int op_ftruncate(struct ctx *c, const struct node *n)
{
	int fd = c->fd[n->arg[0].i];

	if (fd < 0)
		return RES_SKIPPED;
	return syscall(SYS_ftruncate, fd, n->arg[1].i) ? errno : 0;
}

/* With text the argument is a buffer that starts with it, else a number. */
int op_ioctl(struct ctx *c, const struct node *n)
{
	int fd = c->fd[n->arg[0].i];
	unsigned long arg = n->arg[2].i;

	if (fd < 0)
		return RES_SKIPPED;
	if (*n->arg[3].s) {
		memset(c->buf, 0, MAX_IO);
		strncpy((char *)c->buf, n->arg[3].s, MAX_IO - 1);
		arg = (unsigned long)c->buf;
	}
	return syscall(SYS_ioctl, fd, (unsigned long)n->arg[1].i, arg) < 0 ? errno : 0;
}

int op_mmap(struct ctx *c, const struct node *n)
{
	unsigned int slot = n->arg[0].i;
	int fd = c->fd[n->arg[1].i];
	void *map;

	if (fd < 0)
		return RES_SKIPPED;
	if (c->map[slot])
		munmap(c->map[slot], c->map_len[slot]);
	map = mmap(NULL, n->arg[2].i, n->arg[3].i, n->arg[4].i, fd, n->arg[5].i);
	c->map[slot] = map == MAP_FAILED ? NULL : map;
	c->map_len[slot] = n->arg[2].i;
	c->map_offset[slot] = n->arg[5].i;
	return map == MAP_FAILED ? errno : 0;
}

int op_munmap(struct ctx *c, const struct node *n)
{
	unsigned int slot = n->arg[0].i;
	int err;

	if (!c->map[slot])
		return RES_SKIPPED;
	err = munmap(c->map[slot], c->map_len[slot]) ? errno : 0;
	c->map[slot] = NULL;
	return err;
}

static _Thread_local sigjmp_buf touch_jump;
static _Thread_local volatile sig_atomic_t touching;

static void on_fault(int sig)
{
	if (touching)
		siglongjmp(touch_jump, sig);
	signal(sig, SIG_DFL);
	raise(sig);
}

static void on_signal(int sig)
{
	(void)sig;
}

/* SIGUSR1 only interrupts: no SA_RESTART, so system calls answer EINTR. */
void task_signals_init(void)
{
	struct sigaction fault = { .sa_handler = on_fault, .sa_flags = SA_NODEFER };
	struct sigaction usr1 = { .sa_handler = on_signal };

	sigaction(SIGBUS, &fault, NULL);
	sigaction(SIGSEGV, &fault, NULL);
	sigaction(SIGUSR1, &usr1, NULL);
}

/* A mapping ends in SIGBUS where its file has become too short. */
int op_touch(struct ctx *c, const struct node *n)
{
	unsigned int slot = n->arg[0].i;
	unsigned char *map = c->map[slot];
	size_t len = c->map_len[slot];
	int sig;

	if (!map)
		return RES_SKIPPED;
	sig = sigsetjmp(touch_jump, 1);
	if (sig) {
		touching = 0;
		return sig == SIGBUS ? RES_SIGBUS : RES_SIGSEGV;
	}
	touching = 1;
	if (n->arg[1].i) {
		pattern_fill(map, len, n->arg[2].i, c->map_offset[slot]);
	} else if (n->arg[2].set) {
		memcpy(c->buf, map, len);
	} else {
		for (size_t at = 0; at < len; at += PAGE)
			((volatile unsigned char *)c->buf)[0] = map[at];
	}
	touching = 0;
	if (!n->arg[1].i && n->arg[2].set)
		check_pattern(c, c->buf, len, n->arg[2].i, c->map_offset[slot]);
	return 0;
}

int op_poll(struct ctx *c, const struct node *n)
{
	struct pollfd pfd = { .fd = c->fd[n->arg[0].i], .events = n->arg[1].i };
	struct timespec ts = {
		.tv_sec = n->arg[2].i / 1000,
		.tv_nsec = n->arg[2].i % 1000 * 1000000,
	};

	if (pfd.fd < 0)
		return RES_SKIPPED;
	return syscall(SYS_ppoll, &pfd, 1, &ts, NULL, 0) < 0 ? errno : 0;
}

/* Reads the whole directory; each name of the op's list must be there. */
int op_readdir(struct ctx *c, const struct node *n)
{
	int fd = c->fd[n->arg[0].i];
	uint32_t found = 0;
	ssize_t len;

	if (fd < 0)
		return RES_SKIPPED;
	if (syscall(SYS_lseek, fd, 0L, SEEK_SET) < 0)
		return errno;
	for (int calls = 0; ; calls++) {
		len = syscall(SYS_getdents64, fd, c->buf, PAGE);
		if (len < 0)
			return errno;
		if (!len)
			break;
		if (calls == MAX_GETDENTS)
			return ELOOP;
		for (ssize_t at = 0; at < len; ) {
			struct dirent64 *entry = (void *)(c->buf + at);

			for (unsigned int i = 0; i < n->nrest; i++) {
				if (!strcmp(entry->d_name, n->rest[i]))
					found |= 1U << i;
			}
			at += entry->d_reclen;
		}
	}
	for (unsigned int i = 0; i < n->nrest; i++) {
		if (!(found >> i & 1))
			data_lost(c, "missing", 0, (unsigned char *)n->rest[i],
				  strlen(n->rest[i]), NULL, 0);
	}
	return 0;
}
