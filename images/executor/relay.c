// SPDX-License-Identifier: GPL-2.0-only
/*
 * executor relay PORT ARGV...: a TCP server whose first answer is ready before
 * the first connection comes.
 *
 * ARGV speaks to its client through standard input and output (inetd style).
 * One is started ahead of time; when it has said its first bytes, this goes to
 * the background, and the guest is saved in that state. In an emulated kernel
 * with KASAN, forking and starting a server is half of the time that a clone
 * needs for its first answer.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "executor.h"

/* One direction of a connection. */
struct stream {
	int from;
	int to;
};

static void *copy(void *arg)
{
	struct stream *stream = arg;
	char buf[16384];
	ssize_t len, done;

	while ((len = read(stream->from, buf, sizeof(buf))) > 0) {
		for (char *at = buf; len > 0; at += done, len -= done) {
			done = write(stream->to, at, len);
			if (done < 0)
				goto out;
		}
	}
out:
	/* The descriptors stay open: the other direction has them too. */
	shutdown(stream->to, SHUT_WR);
	shutdown(stream->from, SHUT_RD);
	return NULL;
}

struct pair {
	struct stream in;
	struct stream out;
};

/* Both directions of one connection; closes it when both have ended. */
static void *serve(void *arg)
{
	struct pair *pair = arg;
	pthread_t thread;

	if (!pthread_create(&thread, NULL, copy, &pair->in)) {
		copy(&pair->out);
		pthread_join(thread, NULL);
	}
	close(pair->in.from);
	close(pair->in.to);
	free(pair);
	return NULL;
}

/* Start the server program; its end of the conversation, or -1. */
static int start(char **argv)
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

int relay_main(int port, char **argv)
{
	int listener = listen_on(port), ready = start(argv);
	pthread_attr_t detached;
	char first;

	if (listener < 0 || ready < 0) {
		fprintf(stderr, "executor: relay on port %d: %s\n", port, strerror(errno));
		return 3;
	}
	if (recv(ready, &first, 1, MSG_PEEK) != 1) {
		fprintf(stderr, "executor: relay: %s said nothing\n", argv[0]);
		return 3;
	}
	if (daemon(0, 0)) {
		fprintf(stderr, "executor: relay: %s\n", strerror(errno));
		return 3;
	}
	signal(SIGCHLD, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	for (;;) {
		int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		int server = client < 0 ? -1 : ready >= 0 ? ready : start(argv);
		struct pair *pair = server < 0 ? NULL : malloc(sizeof(*pair));
		pthread_t thread;

		ready = server < 0 ? ready : -1;
		if (pair) {
			*pair = (struct pair){ { client, server }, { server, client } };
			if (!pthread_create(&thread, &detached, serve, pair))
				continue;
			free(pair);
		}
		if (server >= 0)
			close(server);
		if (client >= 0)
			close(client);
	}
}
