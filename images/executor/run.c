// SPDX-License-Identifier: GPL-2.0-only
/*
 * One program from start to end: setup, actors, teardown, audit, each in
 * children that may hang or die without taking the report with them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "executor.h"

#define TICK_US		5000
/* Guest time for what comes after the actors; it has no reason to be long. */
#define TEARDOWN_US	5000000
#define AUDIT_US	30000000
/* One scan for leaks takes 25 s of an emulated guest's time. */
#define LEAKS_US	600000000
/* Ticks in which an actor that is not stuck gets on to another op. */
#define WATCH_TICKS	20
/* How often half of a program's bound is added for actors that all go on. */
#define MAX_GRACE	4
#define KILL_WAITS	200
#define KILL_WAIT_US	5000

struct shared *shared;

static pid_t threads_pid;
static bool killing;		/* deaths are our own doing from here on */
static unsigned int nhangs, nstuck;

void shared_alloc(void)
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED) {
		perror("executor: shared memory");
		exit(3);
	}
	report_use(&shared->report);
}

void tell_trouble(const char *what, int err)
{
	ev_begin("trouble");
	ev_str("what", what);
	ev_str("errno", result_name(err) ?: "?");
	ev_end_always();
}

static void note_death(const struct program *prog, unsigned int actor, int sig)
{
	struct actor_state *st = &shared->actor[actor];
	uint32_t node = atomic_load(&st->node);

	if (atomic_load(&st->done) || atomic_load(&st->died))
		return;
	actor_ended(prog, actor, sig);
	if (!killing)
		tell_died(prog, actor, node);
}

static void on_exit_of(const struct program *prog, pid_t pid, int status)
{
	/* -1: it left through exit, which no actor does before it is done. */
	int sig = WIFSIGNALED(status) ? WTERMSIG(status) : -1;

	for (unsigned int i = 0; i < ALL_ACTORS; i++) {
		if (prog->actor[i].name && atomic_load(&shared->actor[i].pid) == pid)
			note_death(prog, i, sig);
	}
	if (pid == threads_pid)
		threads_pid = 0;
}

/* An oops kills one thread and leaves its process, so each is asked for. */
static void look_for_dead_threads(const struct program *prog)
{
	for (unsigned int i = 0; threads_pid && i < prog->nactors; i++) {
		int tid = atomic_load(&shared->actor[i].tid);

		if (!prog->actor[i].thread || !tid)
			continue;
		if (syscall(SYS_tgkill, threads_pid, tid, 0) && errno == ESRCH)
			note_death(prog, i, -1);
	}
}

static void reap(const struct program *prog)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		on_exit_of(prog, pid, status);
	look_for_dead_threads(prog);
}

static bool is_running(unsigned int actor)
{
	const struct actor_state *st = &shared->actor[actor];

	return atomic_load(&st->pid) && !atomic_load(&st->done) && !atomic_load(&st->died);
}

/* Blocked tasks on the console, for stacks that /proc does not show. */
static void sysrq_blocked(void)
{
	static bool done;

	if (done || !channel_in_guest())
		return;
	done = true;
	write_file("/proc/sysrq-trigger", "w", 1);
}

/* Kills what still runs; returns how many actors not even SIGKILL has ended. */
static unsigned int kill_rest(const struct program *prog, unsigned int first, unsigned int end)
{
	unsigned int left = 0;

	killing = true;
	for (unsigned int i = first; i < end; i++) {
		if (is_running(i))
			kill(atomic_load(&shared->actor[i].pid), SIGKILL);
	}
	for (unsigned int waits = 0; waits < KILL_WAITS; waits++) {
		left = 0;
		reap(prog);
		for (unsigned int i = first; i < end; i++)
			left += is_running(i);
		if (!left)
			break;
		sleep_us(KILL_WAIT_US);
	}
	killing = false;
	return left;
}

/* Changes with each op that an actor begins. */
static uint64_t place_of(unsigned int actor)
{
	const struct actor_state *st = &shared->actor[actor];

	return atomic_load(&st->iterations) * (MAX_NODES + 1) + atomic_load(&st->node);
}

/*
 * Actors that go on until others have ended, and do: it is those others that are
 * stuck, or wait for somebody who is.
 */
static void find_waiting(const struct program *prog, unsigned int first, unsigned int end,
			 bool *waiting)
{
	uint64_t seen[ALL_ACTORS];
	bool any = false;

	for (unsigned int i = first; i < end; i++) {
		seen[i] = place_of(i);
		any |= is_running(i) && !actors_ended(prog->actor[i].until);
	}
	for (unsigned int tick = 0; any && tick < WATCH_TICKS; tick++) {
		sleep_us(TICK_US);
		for (unsigned int i = first; i < end; i++)
			waiting[i] |= !actors_ended(prog->actor[i].until) &&
				      place_of(i) != seen[i];
	}
}

static void tell_hung(const struct program *prog, unsigned int first, unsigned int end)
{
	bool waiting[ALL_ACTORS] = { };

	find_waiting(prog, first, end, waiting);
	for (unsigned int i = first; i < end; i++) {
		const struct actor_state *st = &shared->actor[i];

		if (!is_running(i) || waiting[i])
			continue;
		nhangs++;
		tell_hang(prog->actor[i].name, prog, atomic_load(&st->node),
			  atomic_load(&st->pid), atomic_load(&st->tid));
	}
}

/*
 * Whether all that a plan did was refused. Nothing has changed then: what follows is
 * what follows without the plan, and need not be run again for each point.
 */
static bool plan_refused(const struct program *prog)
{
	const struct actor *unloader = &prog->actor[ACTOR_UNLOADER];
	int last = 0;

	if (!prog->park || prog->park->users || !atomic_load(&shared->park.over) ||
	    shared->park.gave_way || atomic_load(&shared->ninside))
		return false;
	for (uint32_t i = unloader->first; i < unloader->end; i++) {
		const char *name = prog->node[i].type->name;
		int res = shared->node[i].seen[0].res;

		/* Once is enough, and a rest is no deed. */
		if (!shared->node[i].seen[0].count || !strcmp(name, "sleep"))
			continue;
		if (strcmp(name, "delete_module") || (res != EAGAIN && res != EBUSY))
			return false;
		last = res;
	}
	/* Busy is one that somebody else unloads, and that is not over yet. */
	return last == EAGAIN;
}

/* Waits until @word has reached @goal, telling what happens on the way. */
static bool wait_word(const struct program *prog, _Atomic uint32_t *word, uint32_t goal,
		      uint64_t deadline)
{
	for (;;) {
		uint32_t seen = atomic_load(word);

		reap(prog);
		tell_news(prog);
		if (atomic_load(word) >= goal || plan_refused(prog))
			return true;
		if (now_us() >= deadline)
			return false;
		futex_wait(word, seen, TICK_US);
	}
}

/* Whoever is held is let go: before anything else is waited for, or killed. */
static void stop_plan(const struct program *prog)
{
	static bool done;

	if (!prog->park || done)
		return;
	done = true;
	if (shared->park.err)
		tell_trouble(shared->park.what, shared->park.err);
	killing = true;
	park_end();
	for (unsigned int waits = 0; is_running(ACTOR_UNLOADER) && waits < KILL_WAITS; waits++) {
		reap(prog);
		sleep_us(KILL_WAIT_US);
	}
	killing = false;
	nstuck += is_running(ACTOR_UNLOADER);
	tell_plan_end(prog);
}

/* A hold may outlast the actors: an unload that waits for the last of them does. */
static void finish_plan(const struct program *prog, uint64_t deadline)
{
	if (prog->park && atomic_load(&shared->park.hit) &&
	    !wait_word(prog, &shared->park.over, 1, deadline)) {
		tell_hung(prog, ACTOR_UNLOADER, ACTOR_UNLOADER + 1);
		sysrq_blocked();
	}
	stop_plan(prog);
}

/*
 * Waits for actors first..end-1. With two processors guest time is host time, and a
 * host with too much to do slows everybody down: hung is who stands still.
 */
static bool wait_moving(const struct program *prog, unsigned int first, unsigned int end,
			uint32_t goal, uint64_t deadline)
{
	uint64_t seen[ALL_ACTORS];

	for (unsigned int grace = 0;; grace++) {
		for (unsigned int i = first; i < end; i++)
			seen[i] = place_of(i);
		if (wait_word(prog, &shared->ended, goal, deadline))
			return true;
		if (grace == MAX_GRACE)
			return false;
		for (unsigned int i = first; i < end; i++) {
			if (is_running(i) && place_of(i) == seen[i])
				return false;
		}
		deadline = now_us() + prog->bound_us / 2;
	}
}

/* Actors first..end-1 are under way; after this none of them is, or it is stuck. */
static void wait_actors(const struct program *prog, unsigned int first, unsigned int end,
			uint32_t goal, uint64_t deadline)
{
	if (wait_moving(prog, first, end, goal, deadline))
		return;
	tell_hung(prog, first, end);
	sysrq_blocked();
	stop_plan(prog);
	nstuck += kill_rest(prog, first, end);
	tell_news(prog);
}

/* Setup or teardown; true when every op answered as it should. */
static bool run_phase(const struct program *prog, unsigned int index, uint64_t deadline)
{
	const struct actor *actor = &prog->actor[index];
	uint32_t goal = atomic_load(&shared->ended) + 1;
	int err;

	if (actor->first == actor->end)
		return true;
	err = actor_spawn_process(prog, index);
	if (err) {
		tell_trouble("fork", err);
		return false;
	}
	if (prog->park && index == ACTOR_SETUP)
		park_arm(1);
	wait_actors(prog, index, index + 1, goal, deadline);
	for (uint32_t i = actor->first; i < actor->end; i++) {
		if (atomic_load(&shared->node[i].nunexpected))
			return false;
	}
	return atomic_load(&shared->actor[index].done);
}

static void count_barriers(const struct program *prog)
{
	for (unsigned int b = 0; b < MAX_BARRIERS; b++) {
		uint64_t members = 0;

		for (unsigned int i = 0; i < prog->nactors; i++)
			members += prog->actor[i].barriers >> b & 1;
		atomic_store(&shared->barrier[b], members);
	}
}

static bool spawn_all(const struct program *prog)
{
	bool threads = false;
	int err = 0;

	for (unsigned int i = 0; i < prog->nactors && !err; i++) {
		if (prog->actor[i].thread)
			threads = true;
		else
			err = actor_spawn_process(prog, i);
	}
	if (threads && !err) {
		threads_pid = actor_spawn_threads(prog);
		err = threads_pid < 0 ? -threads_pid : 0;
	}
	if (err)
		tell_trouble("fork", err);
	return !err;
}

static bool run_actors(const struct program *prog, uint64_t deadline)
{
	uint32_t goal = atomic_load(&shared->ended) + prog->nactors;
	bool ok = true;

	count_barriers(prog);
	if (!spawn_all(prog)) {
		nstuck += kill_rest(prog, 0, prog->nactors);
		return false;
	}
	/* One that dies before it is ready shows in the wait for the end. */
	wait_word(prog, &shared->ready, prog->nactors, deadline);
	if (prog->park) {
		park_arm(2);
		wait_word(prog, &shared->park.armed, 2, deadline);
	}
	if (prog->schedule) {
		schedule_begin();
		wait_word(prog, &shared->schedule.begun, 1, deadline);
	}
	atomic_store(&shared->go, 1);
	futex_wake_all(&shared->go);
	wait_actors(prog, 0, prog->nactors, goal, deadline);
	for (unsigned int i = 0; i < prog->nactors; i++)
		ok &= atomic_load(&shared->actor[i].done) || prog->actor[i].killable;
	return ok;
}

/* Runs @work in a child, because what it reads may block for ever. */
static bool run_bounded(const char *name, void (*work)(void), uint64_t bound_us)
{
	uint64_t deadline = now_us() + bound_us;
	unsigned int waits = 0;
	int status;
	pid_t pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		channel_reopen();
		work();
		_exit(0);
	}
	if (pid < 0) {
		tell_trouble("fork", errno);
		return false;
	}
	while (!waitpid(pid, &status, WNOHANG)) {
		if (now_us() >= deadline && !waits++) {
			nhangs++;
			tell_hang(name, NULL, 0, pid, pid);
			sysrq_blocked();
			kill(pid, SIGKILL);
		} else if (waits && waits++ == KILL_WAITS) {
			nstuck++;
			return false;
		}
		sleep_us(1000);
	}
	return !waits && WIFEXITED(status) && !WEXITSTATUS(status);
}

/* The end of a program that was not run to its end, because there was no more to see. */
static void tell_short_end(const struct program *prog)
{
	tell_news(prog);
	ev_begin("refused");
	ev_str("plan", prog->park->plan);
	ev_end_always();
	tell_modules(prog);
	detectors_report();
	ev_begin("end");
	ev_u64("us", now_us());
	ev_bool("ok", true);
	ev_u64("hangs", 0);
	ev_u64("stuck", 0);
	ev_end_always();
}

/* Returns whether everything ended by itself. */
bool run_program(const struct program *prog)
{
	uint64_t start = now_us();
	int err;
	bool ok;

	ev_begin("start");
	ev_str("program", prog->name);
	ev_u64("seed", prog->seed);
	ev_u64("us", start);
	ev_end();
	if (prog->nfails)
		fail_prepare();
	if (prog->park && (err = park_start(prog)))
		tell_trouble("fork", err);
	if (prog->schedule && (err = schedule_start(prog)))
		tell_trouble("fork", err);
	ok = run_phase(prog, ACTOR_SETUP, start + prog->bound_us);
	if (ok)
		ok = run_actors(prog, start + prog->bound_us);
	if (plan_refused(prog)) {
		tell_short_end(prog);
		return true;
	}
	finish_plan(prog, start + prog->bound_us);
	ok &= run_phase(prog, ACTOR_TEARDOWN, now_us() + TEARDOWN_US);
	if (prog->schedule)
		schedule_end();
	if (prog->nfails)
		fail_finish();
	if (atomic_load(&shared->nfails) > MAX_FAILS)
		tell_trouble("failures not told", E2BIG);
	tell_news(prog);
	tell_schedule_end(prog);
	tell_sums(prog);
	tell_modules(prog);
	/* What a stuck task still holds is no residue of the module. */
	if (!nstuck) {
		ok &= run_bounded("audit", audit_compare, AUDIT_US);
		if (prog->kmemleak)
			ok &= run_bounded("kmemleak", kmemleak_report, LEAKS_US);
	}
	detectors_report();
	/* RCU, work items and per-CPU lists free what they were given a while ago. */
	if (prog->settle_us)
		sleep_us(prog->settle_us);
	ev_begin("end");
	ev_u64("us", now_us());
	ev_bool("ok", ok && !nhangs);
	ev_u64("hangs", nhangs);
	ev_u64("stuck", nstuck);
	ev_end_always();
	return ok && !nhangs;
}
