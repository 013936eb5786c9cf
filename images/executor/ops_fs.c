// SPDX-License-Identifier: GPL-2.0-only
/* Ops on paths: names, mounts, and whole small files. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "executor.h"

#define MAX_MOUNTS	256

static int answer(long ret)
{
	return ret < 0 ? errno : 0;
}

int op_stat(struct ctx *c, const struct node *n)
{
	struct stat st;

	(void)c;
	return answer(syscall(SYS_newfstatat, AT_FDCWD, n->arg[0].s, &st, 0));
}

int op_mkdir(struct ctx *c, const struct node *n)
{
	(void)c;
	return answer(syscall(SYS_mkdir, n->arg[0].s, (mode_t)n->arg[1].i));
}

int op_rmdir(struct ctx *c, const struct node *n)
{
	(void)c;
	return answer(syscall(SYS_rmdir, n->arg[0].s));
}

int op_unlink(struct ctx *c, const struct node *n)
{
	(void)c;
	return answer(syscall(SYS_unlink, n->arg[0].s));
}

int op_rename(struct ctx *c, const struct node *n)
{
	(void)c;
	return answer(syscall(SYS_rename, n->arg[0].s, n->arg[1].s));
}

int op_chdir(struct ctx *c, const struct node *n)
{
	(void)c;
	return answer(syscall(SYS_chdir, n->arg[0].s));
}

int op_mount(struct ctx *c, const struct node *n)
{
	const char *data = n->arg[4].s;

	(void)c;
	return answer(syscall(SYS_mount, n->arg[0].s, n->arg[1].s, n->arg[2].s,
			      (unsigned long)n->arg[3].i, *data ? data : NULL));
}

int op_umount(struct ctx *c, const struct node *n)
{
	(void)c;
	return answer(syscall(SYS_umount2, n->arg[0].s, (int)n->arg[1].i));
}

static bool is_under(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	return !strncmp(path, dir, len) && (path[len] == '/' || !path[len]);
}

/* Unmounts whatever lies at or below a path, the last mounted first. */
int op_umount_all(struct ctx *c, const struct node *n)
{
	char *target[MAX_MOUNTS];
	struct mntent *entry;
	int count = 0, err = 0;
	FILE *mounts;

	(void)c;
	mounts = setmntent("/proc/self/mounts", "re");
	if (!mounts)
		return errno;
	while (count < MAX_MOUNTS && (entry = getmntent(mounts))) {
		if (!is_under(entry->mnt_dir, n->arg[0].s))
			continue;
		target[count] = strdup(entry->mnt_dir);
		if (!target[count])
			break;
		count++;
	}
	endmntent(mounts);
	while (count--) {
		if (syscall(SYS_umount2, target[count], (int)n->arg[1].i) < 0 && !err)
			err = errno;
		free(target[count]);
	}
	return err;
}

int op_sync(struct ctx *c, const struct node *n)
{
	(void)c;
	(void)n;
	sync();
	return 0;
}

int op_write_file(struct ctx *c, const struct node *n)
{
	(void)c;
	return write_file(n->arg[0].s, n->arg[1].s, strlen(n->arg[1].s));
}

/* With text, the file must hold just that; one newline at its end is free. */
int op_read_file(struct ctx *c, const struct node *n)
{
	const char *want = n->arg[1].s;
	ssize_t len = read_file(n->arg[0].s, (char *)c->buf, MAX_IO);

	if (len < 0)
		return -len;
	if (!*want)
		return 0;
	if (len && c->buf[len - 1] == '\n')
		len--;
	if ((size_t)len != strlen(want) || memcmp(c->buf, want, len))
		data_lost(c, "text", 0, (const unsigned char *)want, strlen(want), c->buf, len);
	return 0;
}

static bool has_line(const char *text, const char *line)
{
	size_t len = strlen(line);

	for (; *text; text += strcspn(text, "\n"), text += *text == '\n') {
		if (strcspn(text, "\n") == len && !memcmp(text, line, len))
			return true;
	}
	return false;
}

/*
 * Waits until a file holds a line. Files of the kernel that announce a change
 * (cgroup.events) do it with POLLPRI, counted from the last read.
 */
int op_await_line(struct ctx *c, const struct node *n)
{
	uint64_t deadline = now_us() + n->arg[2].i * 1000;
	int fd = open(n->arg[0].s, O_RDONLY | O_CLOEXEC), err = 0;
	struct pollfd pfd = { .fd = fd, .events = POLLPRI };

	if (fd < 0)
		return errno;
	for (;;) {
		ssize_t len = pread(fd, c->buf, MAX_IO - 1, 0);
		uint64_t now = now_us(), left = now < deadline ? deadline - now : 0;
		struct timespec ts = { left / 1000000, left % 1000000 * 1000 };

		if (len < 0) {
			err = errno;
			break;
		}
		c->buf[len] = '\0';
		if (has_line((char *)c->buf, n->arg[1].s))
			break;
		if (!left) {
			err = ETIMEDOUT;
			break;
		}
		if (syscall(SYS_ppoll, &pfd, 1, &ts, NULL, 0) < 0 && errno != EINTR) {
			err = errno;
			break;
		}
	}
	close(fd);
	return err;
}
