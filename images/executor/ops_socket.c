// SPDX-License-Identifier: GPL-2.0-only
/*
 * Ops on sockets: datagrams over the loopback interface, and the check of what
 * arrived; and what may be done with a socket of any family. Nothing here leaves
 * the machine. A socket lives in a slot like a file: poll, read, write and close
 * take it too.
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

/* Of any family. Whoever waits for a peer that never comes would hang: it does not wait. */
int op_open_socket(struct ctx *c, const struct node *n)
{
	int *fd = &c->fd[n->arg[0].i];
	int type = n->arg[2].i | SOCK_NONBLOCK | SOCK_CLOEXEC;

	if (*fd >= 0)
		close(*fd);
	c->pos[n->arg[0].i] = 0;
	*fd = syscall(SYS_socket, (int)n->arg[1].i, type, (int)n->arg[3].i);
	return *fd < 0 ? errno : 0;
}

#define ADDRESS_BYTES	16	/* of struct sockaddr */
#define SENT_BYTES	200

/* An address of the socket's own family: another one is refused before anybody looks at it. */
static void put_address(unsigned char *to, int fd, const char *text)
{
	socklen_t size = sizeof(int);
	sa_family_t family;
	int domain = 0;

	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size);
	family = domain;
	memset(to, 0, MAX_IO);
	memcpy(to, &family, sizeof(family));
	memcpy(to + sizeof(family), text, strnlen(text, MAX_IO - sizeof(family)));
}

/* write() would end whoever sends to a peer that has gone, by SIGPIPE. */
static long send_some(struct ctx *c, int fd, const void *address, socklen_t len)
{
	pattern_fill(c->want, SENT_BYTES, 0, 0);
	return syscall(SYS_sendto, fd, c->want, (size_t)SENT_BYTES, MSG_DONTWAIT | MSG_NOSIGNAL,
		       address, len);
}

static long call_with_address(struct ctx *c, int fd, int call, const char *text, socklen_t len)
{
	put_address(c->buf, fd, text);
	if (call == CALL_BIND)
		return syscall(SYS_bind, fd, c->buf, len);
	if (call == CALL_CONNECT)
		return syscall(SYS_connect, fd, c->buf, len);
	return send_some(c, fd, c->buf, len);
}

static long set_option(struct ctx *c, int fd, int level, int number, const char *text)
{
	size_t len = strnlen(text, MAX_IO);

	memset(c->buf, 0, sizeof(int));
	memcpy(c->buf, text, len);
	/* Most options are an int. */
	return syscall(SYS_setsockopt, fd, level, number, c->buf,
		       (socklen_t)(len > sizeof(int) ? len : sizeof(int)));
}

static long accept_and_close(int fd)
{
	int other = syscall(SYS_accept4, fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	return other < 0 ? -1 : close(other);
}

static long call_socket(struct ctx *c, const struct node *n, int fd)
{
	int call = n->arg[1].i, level = n->arg[2].i, number = n->arg[3].i;
	const char *text = n->arg[4].s;
	socklen_t room = MAX_IO;

	switch (call) {
	case CALL_LISTEN:
		return syscall(SYS_listen, fd, number);
	case CALL_ACCEPT:
		return accept_and_close(fd);
	case CALL_SEND:
		return send_some(c, fd, NULL, 0);
	case CALL_RECVFROM:
		return syscall(SYS_recvfrom, fd, c->want, (size_t)MAX_IO, MSG_DONTWAIT, c->buf,
			       &room);
	case CALL_GETSOCKOPT:
		return syscall(SYS_getsockopt, fd, level, number, c->buf, &room);
	case CALL_SETSOCKOPT:
		return set_option(c, fd, level, number, text);
	case CALL_GETSOCKNAME:
		return syscall(SYS_getsockname, fd, c->buf, &room);
	case CALL_GETPEERNAME:
		return syscall(SYS_getpeername, fd, c->buf, &room);
	case CALL_SHUTDOWN:
		return syscall(SYS_shutdown, fd, number);
	default:
		return call_with_address(c, fd, call, text, number ? number : ADDRESS_BYTES);
	}
}

/*
 * Level and number are those of an option; else the number is the length of an
 * address (0: that of most), a backlog, or the direction that is shut down.
 */
int op_socket_call(struct ctx *c, const struct node *n)
{
	int fd = c->fd[n->arg[0].i];

	if (fd < 0)
		return RES_SKIPPED;
	return call_socket(c, n, fd) < 0 ? errno : 0;
}
