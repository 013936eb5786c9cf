// SPDX-License-Identifier: GPL-2.0-only
/*
 * executor relay PORT ARGV...: a TCP server whose first answer is ready before
 * the first connection comes.
 *
 * ARGV speaks to its client through standard input and output (inetd style).
 * One is started ahead of time, and so are the threads that will carry what it
 * and its client say; when it has said its first bytes, this goes to the
 * background, and the guest is saved in that state. In an emulated kernel with
 * KASAN, starting a server is half of the time that a clone needs for its first
 * answer, and most of the rest is code that runs for the first time.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "executor.h"

/* A server, and its client once there is one. */
struct connection {
	int server;
	int client;
	sem_t has_client;
	/* How much the server said at first, once this is posted. */
	sem_t has_greeting;
	ssize_t greeting;
	atomic_int threads;
};

/* The last of its two threads closes a connection. */
static void leave(struct connection *conn)
{
	if (atomic_fetch_sub(&conn->threads, 1) > 1)
		return;
	close(conn->server);
	if (conn->client >= 0)
		close(conn->client);
	sem_destroy(&conn->has_client);
	sem_destroy(&conn->has_greeting);
	free(conn);
}

static bool write_all(int fd, const char *at, ssize_t len)
{
	ssize_t done;

	for (; len > 0; at += done, len -= done) {
		done = write(fd, at, len);
		if (done < 0)
			return false;
	}
	return true;
}

static void wait_for(sem_t *event)
{
	while (sem_wait(event))
		;
}

static void *to_server(void *arg)
{
	struct connection *conn = arg;
	char buf[16384];
	ssize_t len;

	wait_for(&conn->has_client);
	while ((len = read(conn->client, buf, sizeof(buf))) > 0) {
		if (!write_all(conn->server, buf, len))
			break;
	}
	/* The descriptors stay open: the other direction has them too. */
	shutdown(conn->server, SHUT_WR);
	shutdown(conn->client, SHUT_RD);
	leave(conn);
	return NULL;
}

static void *to_client(void *arg)
{
	struct connection *conn = arg;
	char buf[16384];
	/* What is said before anybody comes waits here. */
	ssize_t len = read(conn->server, buf, sizeof(buf));

	conn->greeting = len;
	sem_post(&conn->has_greeting);
	wait_for(&conn->has_client);
	while (len > 0 && write_all(conn->client, buf, len))
		len = read(conn->server, buf, sizeof(buf));
	shutdown(conn->client, SHUT_WR);
	shutdown(conn->server, SHUT_RD);
	leave(conn);
	return NULL;
}

/* Start the server program; its end of the conversation, or -1. */
static int start_server(char **argv)
{
	int fds[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds))
		return -1;
	pid = fork();
	if (!pid) {
		signal(SIGCHLD, SIG_DFL);
		signal(SIGPIPE, SIG_DFL);
		dup2(fds[1], STDIN_FILENO);
		dup2(fds[1], STDOUT_FILENO);
		execvp(argv[0], argv);
		_exit(127);
	}
	close(fds[1]);
	if (pid < 0) {
		close(fds[0]);
		return -1;
	}
	return fds[0];
}

static int listen_on(int port)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
	};
	int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) || listen(fd, 16)) {
		close(fd);
		return -1;
	}
	return fd;
}

static bool start_thread(void *(*run)(void *), struct connection *conn)
{
	pthread_attr_t detached;
	pthread_t thread;
	int failed;

	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	failed = pthread_create(&thread, &detached, run, conn);
	pthread_attr_destroy(&detached);
	return !failed;
}

static void meet(struct connection *conn, int client)
{
	conn->client = client;
	sem_post(&conn->has_client);
	sem_post(&conn->has_client);
}

/* Start a server that waits for its client; NULL without one. */
static struct connection *start_connection(char **argv)
{
	struct connection *conn = malloc(sizeof(*conn));

	if (!conn)
		return NULL;
	conn->client = -1;
	conn->threads = 2;
	sem_init(&conn->has_client, 0, 0);
	sem_init(&conn->has_greeting, 0, 0);
	conn->server = start_server(argv);
	if (conn->server < 0)
		goto no_server;
	if (!start_thread(to_server, conn))
		goto no_thread;
	if (!start_thread(to_client, conn)) {
		/* The other one finds no client, and is the last. */
		leave(conn);
		meet(conn, -1);
		return NULL;
	}
	return conn;

no_thread:
	close(conn->server);
no_server:
	sem_destroy(&conn->has_client);
	sem_destroy(&conn->has_greeting);
	free(conn);
	return NULL;
}

/*
 * Go to the background. Returns in the background at once; the caller's process
 * ends when that one says by @ready that it is, or with status 3 when it died.
 */
static int go_to_background(void)
{
	int ready[2];
	char byte;
	pid_t pid;

	if (pipe2(ready, O_CLOEXEC))
		return -1;
	pid = fork();
	if (pid < 0)
		return -1;
	if (pid > 0) {
		close(ready[1]);
		_exit(read(ready[0], &byte, 1) == 1 ? 0 : 3);
	}
	close(ready[0]);
	setsid();
	return ready[1];
}

/* Whoever waits for the foreground process must not wait for this one's output. */
static void let_go(int ready)
{
	int null = open("/dev/null", O_RDWR);

	for (int fd = 0; null >= 0 && fd < 3; fd++)
		dup2(null, fd);
	if (null > 2)
		close(null);
	if (chdir("/") || write(ready, "", 1) != 1)
		_exit(3);
	close(ready);
}

int relay_main(int port, char **argv)
{
	int listener = listen_on(port), ready;
	struct connection *conn;

	if (listener < 0 || (ready = go_to_background()) < 0) {
		fprintf(stderr, "executor: relay on port %d: %s\n", port, strerror(errno));
		return 3;
	}
	signal(SIGCHLD, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	conn = start_connection(argv);
	if (!conn) {
		fprintf(stderr, "executor: relay on port %d: %s\n", port, strerror(errno));
		return 3;
	}
	wait_for(&conn->has_greeting);
	if (conn->greeting <= 0) {
		fprintf(stderr, "executor: relay: %s said nothing\n", argv[0]);
		return 3;
	}
	let_go(ready);
	for (;;) {
		int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (client < 0)
			continue;
		if (!conn)
			conn = start_connection(argv);
		if (conn)
			meet(conn, client);
		else
			close(client);
		conn = NULL;
	}
}
