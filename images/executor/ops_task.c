// SPDX-License-Identifier: GPL-2.0-only
/* Ops on tasks and time: exec, kill, sleep, delay, yield, pin, barrier. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "executor.h"

static void exec_child(const struct node *n, int errfd)
{
	static char * const env[] = { "PATH=/bin:/sbin:/usr/bin:/usr/sbin", NULL };
	char *argv[MAX_REST + 2] = { n->arg[0].s };
	int null, err;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (unsigned int i = 0; i < n->nrest; i++)
		argv[i + 1] = n->rest[i];
	/* The report has the standard output to itself. */
	null = open("/dev/null", O_RDWR);
	for (int fd = 0; null >= 0 && fd < 3; fd++)
		dup2(null, fd);
	execve(argv[0], argv, env);
	err = errno;
	while (write(errfd, &err, sizeof(err)) < 0 && errno == EINTR)
		;
	_exit(127);
}

int op_exec(struct ctx *c, const struct node *n)
{
	int fds[2], status = 0, err = 0;
	pid_t pid;

	(void)c;
	if (pipe2(fds, O_CLOEXEC))
		return errno;
	pid = fork();
	if (!pid)
		exec_child(n, fds[1]);
	close(fds[1]);
	if (pid < 0)
		err = errno;
	else if (read(fds[0], &err, sizeof(err)) != sizeof(err))
		err = 0;
	close(fds[0]);
	if (pid < 0)
		return err;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (err)
		return err;
	if (WIFSIGNALED(status))
		return RES_SIGNAL;
	return WEXITSTATUS(status) ? RES_EXIT : 0;
}

/* An actor that has ended answers ESRCH even where its PID lives again. */
int op_kill(struct ctx *c, const struct node *n)
{
	const struct actor *target = &c->prog->actor[n->arg[0].i];
	struct actor_state *st = &shared->actor[n->arg[0].i];
	int pid = atomic_load(&st->pid), tid = atomic_load(&st->tid);

	if (atomic_load(&st->done) || atomic_load(&st->died) || !pid)
		return ESRCH;
	if (target->thread)
		return syscall(SYS_tgkill, pid, tid, (int)n->arg[1].i) ? errno : 0;
	return syscall(SYS_kill, pid, (int)n->arg[1].i) ? errno : 0;
}

int op_sleep(struct ctx *c, const struct node *n)
{
	uint64_t us = n->arg[0].i;
	struct timespec ts;

	if (n->arg[1].i)
		us += splitmix64(&c->rng) % (n->arg[1].i + 1);
	if (c->index == ACTOR_UNLOADER) {
		park_let_others_run(us);
		return 0;
	}
	ts.tv_sec = us / 1000000;
	ts.tv_nsec = us % 1000000 * 1000;
	return syscall(SYS_nanosleep, &ts, NULL) ? errno : 0;
}

/* A seeded number of turns of an empty loop: no clock, no system call. */
int op_delay(struct ctx *c, const struct node *n)
{
	uint64_t turns = splitmix64(&c->rng) % (n->arg[0].i + 1);

	for (volatile uint64_t i = 0; i < turns; i++)
		;
	return 0;
}

int op_yield(struct ctx *c, const struct node *n)
{
	(void)c;
	(void)n;
	return syscall(SYS_sched_yield) ? errno : 0;
}

int op_pin(struct ctx *c, const struct node *n)
{
	cpu_set_t set;

	(void)c;
	if (n->arg[0].i >= CPU_SETSIZE)
		return EINVAL;
	CPU_ZERO(&set);
	CPU_SET(n->arg[0].i, &set);
	return syscall(SYS_sched_setaffinity, 0, sizeof(set), &set) < 0 ? errno : 0;
}

/* Fields of shared->barrier[]; its upper half is the futex word. */
#define MEMBERS(b)	((uint16_t)(b))
#define ARRIVED(b)	((uint16_t)((b) >> 16))
#define TURN(b)		((uint32_t)((b) >> 32))
#define PACK(t, a, m)	((uint64_t)(t) << 32 | (uint64_t)(uint16_t)(a) << 16 | (uint16_t)(m))

static _Atomic uint32_t *barrier_word(unsigned int number)
{
	return (_Atomic uint32_t *)&shared->barrier[number] + 1;
}

/* Moves a barrier by @arrive and @leave; true when that opened it. */
static bool barrier_move(unsigned int number, int arrive, int leave, uint32_t *turn)
{
	uint64_t old = atomic_load(&shared->barrier[number]), new;
	bool opens;

	do {
		unsigned int arrived = ARRIVED(old) + arrive;
		unsigned int members = MEMBERS(old) - leave;

		opens = arrived && arrived >= members;
		new = opens ? PACK(TURN(old) + 1, 0, members) :
			      PACK(TURN(old), arrived, members);
		*turn = TURN(old);
	} while (!atomic_compare_exchange_weak(&shared->barrier[number], &old, new));
	if (opens)
		futex_wake_all(barrier_word(number));
	return opens;
}

/* Waits for every actor that has this barrier in its body and still runs. */
int op_barrier(struct ctx *c, const struct node *n)
{
	_Atomic uint32_t *word = barrier_word(n->arg[0].i);
	uint32_t turn;

	(void)c;
	if (barrier_move(n->arg[0].i, 1, 0, &turn))
		return 0;
	while (atomic_load(word) == turn)
		futex_wait(word, turn, 0);
	return 0;
}

void barrier_leave(const struct program *prog, unsigned int actor)
{
	uint32_t turn;

	for (unsigned int i = 0; i < MAX_BARRIERS; i++) {
		if (prog->actor[actor].barriers >> i & 1)
			barrier_move(i, 0, 1, &turn);
	}
}
