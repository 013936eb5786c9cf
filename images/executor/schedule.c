// SPDX-License-Identifier: GPL-2.0-only
/*
 * Carries out a schedule: a rank for each role, demotions and starvations at
 * times since the actors began. On one processor with a virtual clock that
 * decides who runs when, and it is the same in each run.
 *
 * Who may run, highest priority first:
 *
 *   agent      95     the executor's main task, which writes the report
 *   director   94     carries out the steps
 *   ranks      3..    the roles in their order; demoted ones go to the bottom
 *   spinner    2      keeps the processor while somebody is starved
 *   starved    1
 *   others     0      SCHED_OTHER
 *
 * A role is an actor's name, `teardown`, or one of the kernel's: see roles[].
 * Children of an actor play his role. A busy actor at the top would keep all
 * others from running for ever, and what is found then is the schedule itself: so
 * whoever has used most of the time between two looks is demoted too.
 *
 * On the host, where tests run the executor, steps are taken and nobody's
 * priority is touched.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "executor.h"

#define PRIO_DIRECTOR	94
#define PRIO_LOWEST	3
#define PRIO_SPINNER	2
#define PRIO_STARVED	1

/* How long the agent waits for the director, which stands above all that could delay it. */
#define END_WAITS	100
#define END_WAIT_US	10000

/* Kernel threads by the beginnings of their names; the last takes those that came later. */
static const struct { const char *role, *comm; } roles[] = {
	{ "[kworker]", "kworker/" },
	{ "[ksoftirqd]", "ksoftirqd/" },
	{ "[kthreadd]", "kthreadd" },
	{ "[rcu]", "rcu" },
	{ "[new]", "" },
};

struct member {
	int tid;
	unsigned int rank;
	uint64_t used_us;	/* of the processor, at the last look */
};

static const struct program *prog;
static const struct schedule *plan;
static struct schedule_state *ss;
static pid_t director_pid;

static unsigned int order[MAX_RANKS];		/* ranks from top to bottom */
static uint64_t starved_until[MAX_RANKS];	/* 0: not starved */
static struct member members[MAX_TASKS];
static unsigned int nmembers;
static int first_pid, last_pid;			/* at the start; of those that were looked at */

bool schedule_knows_role(const char *role)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(roles); i++) {
		if (!strcmp(roles[i].role, role))
			return true;
	}
	return false;
}

static int rank_by_name(const char *role)
{
	for (unsigned int i = 0; i < plan->nranks; i++) {
		if (!strcmp(plan->rank[i], role))
			return i;
	}
	return -1;
}

static int priority_of(unsigned int rank)
{
	unsigned int at = 0;

	if (starved_until[rank])
		return PRIO_STARVED;
	while (order[at] != rank)
		at++;
	return PRIO_LOWEST + plan->nranks - 1 - at;
}

static void apply(unsigned int rank)
{
	int priority = priority_of(rank);

	for (unsigned int i = 0; i < nmembers; i++) {
		/* One that has ended makes room. */
		while (i < nmembers && members[i].rank == rank &&
		       !set_policy(members[i].tid, SCHED_FIFO, priority))
			members[i] = members[--nmembers];
	}
}

static const struct member *member_of(int tid)
{
	for (unsigned int i = 0; i < nmembers; i++) {
		if (members[i].tid == tid)
			return &members[i];
	}
	return NULL;
}

/* What a task has used since the last look. */
static uint64_t used_since(struct member *member, uint64_t elapsed)
{
	uint64_t before = member->used_us;
	struct timespec used;
	struct task task;
	clockid_t clock;

	if (!clock_getcpuclockid(member->tid, &clock) && !clock_gettime(clock, &used)) {
		member->used_us = used.tv_sec * 1000000ULL + used.tv_nsec / 1000;
		return member->used_us - before;
	}
	/* A thread of another process has no clock that can be read here. */
	return read_task(member->tid, &task) && task.state == 'R' ? elapsed : 0;
}

static void adopt(int tid, int rank)
{
	if (rank < 0 || nmembers == MAX_TASKS || member_of(tid))
		return;
	members[nmembers++] = (struct member){ .tid = tid, .rank = rank };
	if (!lift(tid, SCHED_FIFO, priority_of(rank))) {
		nmembers--;
		return;
	}
	used_since(&members[nmembers - 1], 0);
	ss->tasks++;
}

static int rank_of_kthread(const struct task *task)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(roles); i++) {
		if (!strncmp(task->comm, roles[i].comm, strlen(roles[i].comm)))
			return *roles[i].comm || task->tid > first_pid ?
			       rank_by_name(roles[i].role) : -1;
	}
	return -1;
}

static void adopt_task(const struct task *task)
{
	const struct member *parent;

	if (task->flags & PF_KTHREAD) {
		adopt(task->tid, rank_of_kthread(task));
		return;
	}
	parent = member_of(task->parent);
	if (!parent || member_of(task->tid))
		return;
	/* It has inherited what is given back to it at the end. */
	set_policy(task->tid, SCHED_OTHER, 0);
	adopt(task->tid, parent->rank);
}

/* Actors set their own policy when they start, perhaps only after they were seen here. */
static void adopt_actors(void)
{
	for (unsigned int i = 0; i < ALL_ACTORS; i++) {
		const struct actor *actor = &prog->actor[i];
		int tid = atomic_load(&shared->actor[i].tid);
		int rank = actor->name && tid ? rank_by_name(actor->name) : -1;

		if (rank < 0 || atomic_load(&shared->actor[i].left))
			continue;
		if (!member_of(tid)) {
			set_policy(tid, actor->fifo ? SCHED_FIFO : SCHED_OTHER, actor->fifo);
			adopt(tid, rank);
		} else if (sched_getscheduler(tid) != SCHED_FIFO) {
			set_policy(tid, SCHED_FIFO, priority_of(rank));
		}
	}
}

/* The newest PID that was given to anybody. */
static int newest_pid(void)
{
	char text[128];
	int pid = 0;

	if (read_file("/proc/loadavg", text, sizeof(text)) <= 0 ||
	    sscanf(text, "%*s %*s %*s %*s %d", &pid) != 1)
		return 0;
	return pid;
}

static void adopt_new(void)
{
	struct task task;
	int newest;

	if (!channel_in_guest())
		return;
	adopt_actors();
	newest = newest_pid();
	if (newest < last_pid)
		last_pid = 0;
	for (; last_pid < newest; last_pid++) {
		if (read_task(last_pid + 1, &task))
			adopt_task(&task);
	}
}

static void adopt_first(void)
{
	if (!channel_in_guest() || !plan->nranks)
		return;
	last_pid = newest_pid();
	adopt_actors();
	each_task(adopt_task);
}

/* The highest role of which somebody can run; negative when there is none. */
static int top_rank(void)
{
	struct task task;

	for (unsigned int at = 0; at < plan->nranks; at++) {
		if (starved_until[order[at]])
			continue;
		for (unsigned int i = 0; i < nmembers; i++) {
			if (members[i].rank == order[at] && read_task(members[i].tid, &task) &&
			    task.state == 'R')
				return order[at];
		}
	}
	return -1;
}

/* The role that has had the processor most of the time since the last look, if any. */
static int busy_rank(uint64_t elapsed)
{
	uint64_t used[MAX_RANKS] = { };

	for (unsigned int i = 0; i < nmembers; i++)
		used[members[i].rank] += used_since(&members[i], elapsed);
	for (unsigned int at = 0; at < plan->nranks; at++) {
		if (!starved_until[order[at]] && used[order[at]] * 2 > elapsed)
			return order[at];
	}
	return -1;
}

static void demote(int rank)
{
	unsigned int at = 0;

	if (rank < 0)
		return;
	while (order[at] != (unsigned int)rank)
		at++;
	for (; at + 1 < plan->nranks; at++) {
		order[at] = order[at + 1];
		apply(order[at]);
	}
	order[at] = rank;
	apply(rank);
}

static void note(uint64_t us, const char *what, int rank)
{
	uint32_t count = atomic_load(&ss->nsteps);

	if (count == ARRAY_SIZE(ss->step))
		return;
	ss->step[count] = (struct step_done){ .us = us, .what = what, .rank = rank };
	atomic_store(&ss->nsteps, count + 1);
}

static void take_step(const struct step *step, uint64_t us)
{
	int rank = step->rank;

	if (rank < 0) {
		rank = top_rank();
		note(us, "demote", rank);
		demote(rank);
		return;
	}
	note(us, "starve", rank);
	starved_until[rank] = step->at_us + step->length_us;
	apply(rank);
	if (channel_in_guest())
		spin(PRIO_SPINNER);
}

/* Ends starvations that are over; returns when the next one will be. */
static uint64_t feed(uint64_t us, uint64_t next)
{
	bool any = false;

	for (unsigned int rank = 0; rank < plan->nranks; rank++) {
		if (!starved_until[rank])
			continue;
		if (starved_until[rank] > us) {
			any = true;
			if (starved_until[rank] < next)
				next = starved_until[rank];
			continue;
		}
		starved_until[rank] = 0;
		note(us, "feed", rank);
		apply(rank);
	}
	if (!any)
		spin_end();
	return next;
}

static void carry_out(void)
{
	unsigned int step = 0;
	uint64_t looked = 0, us, next;

	while (!atomic_load(&ss->stop) && (us = now_us() - ss->began_us) < plan->end_us) {
		adopt_new();
		for (; step < plan->nsteps && plan->step[step].at_us <= us; step++)
			take_step(&plan->step[step], us);
		if (looked + plan->slice_us <= us) {
			int busy = busy_rank(us - looked);

			ss->turns += busy >= 0;
			demote(busy);
			looked = us;
		}
		next = looked + plan->slice_us;
		next = feed(us, next < plan->end_us ? next : plan->end_us);
		if (step < plan->nsteps && plan->step[step].at_us < next)
			next = plan->step[step].at_us;
		us = now_us() - ss->began_us;
		if (us < next)
			futex_wait(&ss->stop, 0, next - us);
	}
}

static void director_main(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "director");
	if (channel_in_guest()) {
		spinner_start(PRIO_SPINNER);
		set_policy(0, SCHED_FIFO, PRIO_DIRECTOR);
	}
	for (unsigned int i = 0; i < plan->nranks; i++)
		order[i] = i;
	while (!atomic_load(&ss->begin))
		futex_wait(&ss->begin, 0, 0);
	adopt_first();
	ss->began_us = now_us();
	atomic_store(&ss->begun, 1);
	futex_wake_all(&ss->begun);
	carry_out();
	tasks_restore(0);
	spin_end();
	ss->end_us = now_us() - ss->began_us;
	atomic_store(&ss->over, 1);
	futex_wake_all(&ss->over);
	_exit(0);
}

/* ---- for the agent ---- */

/* Starts the director; 0 or an errno. */
int schedule_start(const struct program *program)
{
	prog = program;
	plan = program->schedule;
	ss = &shared->schedule;
	first_pid = newest_pid();
	director_pid = fork();
	if (!director_pid)
		director_main();
	return director_pid < 0 ? errno : 0;
}

/* Asks for priorities for all actors that there are now; ->begun says that they have them. */
void schedule_begin(void)
{
	atomic_store(&ss->begin, 1);
	futex_wake_all(&ss->begin);
}

/* Everybody has the priority again that he had before. */
void schedule_end(void)
{
	atomic_store(&ss->stop, 1);
	futex_wake_all(&ss->stop);
	for (unsigned int waits = 0; atomic_load(&ss->begun) && !atomic_load(&ss->over) &&
	     waits < END_WAITS; waits++)
		futex_wait(&ss->over, 0, END_WAIT_US);
	kill(director_pid, SIGKILL);
}
