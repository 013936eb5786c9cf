// SPDX-License-Identifier: GPL-2.0-only
/*
 * Ops on sockets: datagrams over the loopback interface, and the check of what
 * arrived. Nothing here leaves the machine. A socket lives in a slot like a
 * file: poll, read, write and close take it too.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "executor.h"

#define MAX_PORT	65535
#define MAX_PROTOCOL	255

static struct sockaddr_in loopback(int64_t port)
{
	return (struct sockaddr_in){
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
}

/*
 * A datagram socket that is bound to a port of 127.0.0.1 (0: to none), or a raw
 * one that gets every packet of an IP protocol.
 */
int op_socket(struct ctx *c, const struct node *n)
{
	int *fd = &c->fd[n->arg[0].i];
	struct sockaddr_in address = loopback(0);
	int type = n->arg[1].i, protocol = 0, err;

	if (n->arg[2].i > (type == SOCK_RAW ? MAX_PROTOCOL : MAX_PORT))
		return EINVAL;
	if (type == SOCK_RAW)
		protocol = n->arg[2].i;
	else
		address = loopback(n->arg[2].i);
	if (*fd >= 0)
		close(*fd);
	c->pos[n->arg[0].i] = 0;
	*fd = syscall(SYS_socket, AF_INET, type | SOCK_CLOEXEC, protocol);
	if (*fd < 0)
		return errno;
	if (type == SOCK_DGRAM && !n->arg[2].i)
		return 0;
	if (!syscall(SYS_bind, *fd, &address, (socklen_t)sizeof(address)))
		return 0;
	err = errno;
	close(*fd);
	*fd = -1;
	return err;
}

/* Each datagram stands for itself: its pattern starts at offset 0. */
int op_send(struct ctx *c, const struct node *n)
{
	struct sockaddr_in to = loopback(n->arg[1].i);
	int fd = c->fd[n->arg[0].i];
	size_t len = n->arg[2].i;
	ssize_t sent;

	if (fd < 0)
		return RES_SKIPPED;
	if (n->arg[1].i > MAX_PORT)
		return EINVAL;
	pattern_fill(c->buf, len, n->arg[3].i, 0);
	sent = syscall(SYS_sendto, fd, c->buf, len, MSG_NOSIGNAL, &to, (socklen_t)sizeof(to));
	if (sent < 0)
		return errno;
	return (size_t)sent < len ? RES_SHORT : 0;
}

/* What a raw socket reads starts with the header of IP. */
static size_t header_bytes(int fd, const unsigned char *buf, size_t len)
{
	socklen_t size = sizeof(int);
	size_t header;
	int type = 0;

	getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size);
	if (type != SOCK_RAW || !len)
		return 0;
	header = (buf[0] & 0xf) * 4;
	return header < len ? header : len;
}

/* Waits for a datagram for as long as it may; EAGAIN when none has come. */
int op_recv(struct ctx *c, const struct node *n)
{
	int fd = c->fd[n->arg[0].i];
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	struct timespec ts = {
		.tv_sec = n->arg[4].i / 1000,
		.tv_nsec = n->arg[4].i % 1000 * 1000000,
	};
	size_t header;
	ssize_t got;

	if (fd < 0)
		return RES_SKIPPED;
	if (n->arg[4].i && syscall(SYS_ppoll, &pfd, 1, &ts, NULL, 0) < 0)
		return errno;
	got = syscall(SYS_recvfrom, fd, c->buf, (size_t)n->arg[1].i, MSG_DONTWAIT, NULL, NULL);
	if (got < 0)
		return errno;
	header = header_bytes(fd, c->buf, got);
	got -= header;
	if (n->arg[2].set)
		check_pattern(c, c->buf + header, got, n->arg[2].i, 0);
	if (got < n->arg[3].i)
		data_lost(c, "short", got, NULL, 0, NULL, 0);
	return 0;
}
