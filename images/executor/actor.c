// SPDX-License-Identifier: GPL-2.0-only
/* Actors: how one is started, and how it walks its part of the program. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "executor.h"

#define RETRY_US	10000
#define THREAD_STACK	(256 * 1024)

static void count_result(uint32_t node, int res)
{
	struct node_state *state = &shared->node[node];

	for (unsigned int i = 0; i < NODE_RESULTS; i++) {
		if (!state->seen[i].count)
			state->seen[i].res = res;
		if ((int)state->seen[i].res == res) {
			state->seen[i].count++;
			return;
		}
	}
	state->other++;
}

static void note_unexpected(uint32_t node, int res)
{
	struct node_state *state = &shared->node[node];

	/* A plan has taken away what the scenario relies on, or held somebody up. */
	if (atomic_load(&shared->park.disturbed) || atomic_load(&shared->park.rested))
		return;
	if (!state->unexpected)
		state->unexpected = res + 1;
	if ((int)state->unexpected == res + 1)
		atomic_fetch_add(&state->nunexpected, 1);
}

/*
 * Does nothing. A trace of executed code tells by the registers here who does
 * what from now on in this address space (harness/exectrace.py).
 */
__attribute__((noinline, noclone))
void actor_mark(unsigned long index, unsigned long magic, unsigned long node)
{
	__asm__ volatile ("" : : "D" (index), "S" (magic), "d" (node) : "memory");
}

/* These look around in /proc too, and what they allocate there is no part of the op. */
static bool arms_itself(const struct op_type *type)
{
	return type->run == op_finit_module || type->run == op_delete_module;
}

static int run_op(struct ctx *c, uint32_t index)
{
	const struct node *n = &c->prog->node[index];
	bool fine;
	int res;

	c->node = index;
	actor_mark(c->index, MARK_MAGIC, index);
	if (c->index == ACTOR_UNLOADER && strcmp(n->type->name, "delete_module") &&
	    strcmp(n->type->name, "sleep"))
		atomic_store(&shared->park.disturbed, 1);
	atomic_store_explicit(&c->st->node, index + 1, memory_order_relaxed);
	c->fail.nth = n->fail;
	for (uint32_t left = n->retries; ; left--) {
		if (!arms_itself(n->type))
			fail_arm(c);
		res = n->type->run(c, n);
		fail_disarm(c);
		fine = res == RES_SKIPPED || result_has(&n->expect, res);
		if (fine || !left || atomic_load(&shared->park.disturbed))
			break;
		sleep_us(RETRY_US);
	}
	atomic_store_explicit(&c->st->node, 0, memory_order_relaxed);
	count_result(index, res);
	if (!fine)
		note_unexpected(index, res);
	if (n->fail)
		fail_note(c, index, res);
	return res;
}

static uint32_t pick_branch(struct ctx *c, uint32_t choose)
{
	uint64_t at = splitmix64(&c->rng) % c->prog->node[choose].count;
	uint32_t branch = choose + 1;

	while (at >= c->prog->node[branch].count) {
		at -= c->prog->node[branch].count;
		branch = c->prog->node[branch].end;
	}
	return branch;
}

/* One list of ops. A result named in stop_on skips what is left of the list. */
static void run_list(struct ctx *c, uint32_t first, uint32_t end)
{
	for (uint32_t i = first; i < end; i = c->prog->node[i].end) {
		const struct node *n = &c->prog->node[i];
		uint32_t branch;

		switch (n->kind) {
		case NODE_LOOP:
			for (uint64_t turn = 0; turn < n->count; turn++)
				run_list(c, i + 1, n->end);
			break;
		case NODE_CHOOSE:
			branch = pick_branch(c, i);
			run_list(c, branch + 1, c->prog->node[branch].end);
			break;
		default:
			if (result_has(&n->stop, run_op(c, i)))
				return;
		}
	}
}

/* Whether each of a bit set of actors has ended, or died. */
bool actors_ended(uint64_t actors)
{
	for (unsigned int i = 0; i < MAX_ACTORS; i++) {
		if (!(actors >> i & 1))
			continue;
		if (!atomic_load(&shared->actor[i].done) && !atomic_load(&shared->actor[i].died))
			return false;
	}
	return true;
}

/* Runs the actor's body in the calling task. */
void actor_run(const struct program *prog, unsigned int index)
{
	const struct actor *actor = &prog->actor[index];
	struct ctx c = { .prog = prog, .index = index, .st = &shared->actor[index] };

	c.rng = prog->seed ^ (index + 1) * 0x9e3779b97f4a7c15ULL;
	c.rng = splitmix64(&c.rng);
	memset(c.fd, -1, sizeof(c.fd));
	c.buf = calloc(2, MAX_IO);
	if (!c.buf)
		abort();
	c.want = c.buf + MAX_IO;
	fail_open(&c);
	for (uint64_t turn = 0; !actor->repeat || turn < actor->repeat; turn++) {
		run_list(&c, actor->first, actor->end);
		atomic_fetch_add(&c.st->iterations, 1);
		if (actor->until && actors_ended(actor->until))
			break;
	}
	for (unsigned int i = 0; i < MAX_MAPS; i++) {
		if (c.map[i])
			op_munmap(&c, &(struct node){ .arg = { { .i = i } } });
	}
	for (unsigned int i = 0; i < MAX_SLOTS; i++) {
		if (c.fd[i] >= 0)
			close(c.fd[i]);
	}
	fail_close(&c);
	free(c.buf);
}

/* Told once for each actor, by itself or by whoever found it dead. */
void actor_ended(const struct program *prog, unsigned int index, int died)
{
	struct actor_state *st = &shared->actor[index];

	if (atomic_exchange(&st->left, 1))
		return;
	if (died)
		atomic_store(&st->died, died);
	else
		atomic_store(&st->done, 1);
	barrier_leave(prog, index);
	atomic_fetch_add(&shared->ended, 1);
	futex_wake_all(&shared->ended);
}

static void set_priority(const struct actor *actor)
{
	struct sched_param param = { .sched_priority = actor->fifo };

	/* Unprivileged tests run without it. */
	sched_setscheduler(0, actor->fifo ? SCHED_FIFO : SCHED_OTHER, &param);
}

static void wait_for_go(void)
{
	atomic_fetch_add(&shared->ready, 1);
	futex_wake_all(&shared->ready);
	while (!atomic_load(&shared->go))
		futex_wait(&shared->go, 0, 0);
}

/* What the set-up hits must not be missed because it runs first. */
static void wait_for_arming(void)
{
	while (!atomic_load(&shared->park.armed))
		futex_wait(&shared->park.armed, 0, 0);
}

static void child_init(void)
{
	const struct rlimit no_core = { 0, 0 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setrlimit(RLIMIT_CORE, &no_core);
	signal(SIGTERM, SIG_DFL);
	signal(SIGINT, SIG_DFL);
	channel_drop();
	task_signals_init();
}

static void set_name(const char *name)
{
	prctl(PR_SET_NAME, name);
}

int actor_spawn_process(const struct program *prog, unsigned int index)
{
	struct actor_state *st = &shared->actor[index];
	pid_t pid = fork();

	if (pid < 0)
		return errno;
	if (pid) {
		atomic_store(&st->pid, pid);
		atomic_store(&st->tid, pid);
		return 0;
	}
	child_init();
	set_name(prog->actor[index].name);
	set_priority(&prog->actor[index]);
	if (index < MAX_ACTORS)
		wait_for_go();
	else if (index == ACTOR_SETUP && prog->park)
		wait_for_arming();
	actor_run(prog, index);
	actor_ended(prog, index, 0);
	_exit(0);
}

struct thread {
	const struct program *prog;
	unsigned int index;
	pthread_t id;
};

static void *thread_main(void *data)
{
	const struct thread *thread = data;
	struct actor_state *st = &shared->actor[thread->index];

	atomic_store(&st->tid, (int)syscall(SYS_gettid));
	set_name(thread->prog->actor[thread->index].name);
	set_priority(&thread->prog->actor[thread->index]);
	wait_for_go();
	actor_run(thread->prog, thread->index);
	actor_ended(thread->prog, thread->index, 0);
	return NULL;
}

static void thread_host(const struct program *prog)
{
	static struct thread threads[MAX_ACTORS];
	pthread_attr_t attr;
	unsigned int n = 0;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	for (unsigned int i = 0; i < prog->nactors; i++) {
		if (!prog->actor[i].thread)
			continue;
		threads[n] = (struct thread){ .prog = prog, .index = i };
		atomic_store(&shared->actor[i].pid, getpid());
		if (pthread_create(&threads[n].id, &attr, thread_main, &threads[n]))
			abort();
		n++;
	}
	while (n--)
		pthread_join(threads[n].id, NULL);
}

/* All thread actors live in one process of their own. Its PID, or -errno. */
int actor_spawn_threads(const struct program *prog)
{
	pid_t pid = fork();

	if (pid < 0)
		return -errno;
	if (pid)
		return pid;
	child_init();
	set_name("threads");
	thread_host(prog);
	_exit(0);
}
