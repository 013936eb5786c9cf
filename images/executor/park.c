// SPDX-License-Identifier: GPL-2.0-only
/*
 * Parks a task at one instruction of a module and holds it there while another
 * task unloads the module, or while the other actors run on.
 *
 * The instruction gets a hardware execution breakpoint (perf_event_open,
 * PERF_TYPE_BREAKPOINT): the debug exception is raised before it executes, and
 * the sample wakes the director, which preempts the task right there. Nothing is
 * patched, and no reference to the module is taken, as a kprobe multi-link or a
 * BPF program would do and so hide what is looked for.
 *
 * Who may run, highest priority first:
 *
 *   agent      95   the executor's main task, which writes the report
 *   director   94   arms breakpoints, watches the unloader, decides
 *   kthreads   93   kworkers, ksoftirqd and RCU, while somebody is held
 *   unloader   93   runs the plan's ops
 *   lifted     92   other actors that the unloader seems to wait for, or lets run
 *   spinner    91   keeps the processor while the unloader sleeps
 *   actors     0..90, the victim among them
 *
 * Unload sleeps (synchronize_rcu() in free_module()), and the victim would use
 * that to leave unharmed: the spinner is there to prevent it. Where unload truly
 * waits for the victim, the spinner has to give way, which the director tells
 * from the unloader's state: asleep, and nobody else left to run.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <linux/hw_breakpoint.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "executor.h"

#define PRIO_DIRECTOR	94
#define PRIO_KTHREAD	93
#define PRIO_UNLOADER	93
#define PRIO_LIFTED	92
#define PRIO_SPINNER	91
/* Actors that shall run while another is parked, and the spinner below them. */
#define PRIO_USERS	10
#define PRIO_BELOW	5

/* How often the director looks at a sleeping unloader. */
#define LOOK_US		1000
/* Looks at an unloader that sleeps before more is let run. */
#define LOOKS_KTHREADS	2
#define LOOKS_ACTORS	4
#define LOOKS_VICTIM	6
/* A grace period may take several ticks of 4 ms, a sleep what its author likes. */
#define LOOKS_RCU	80
/*
 * And in all: those that were let run may be busy for as long as the unloader
 * waits for the victim, so that nobody ever looks idle.
 */
#define LOOKS_ALL	150
#define LOOKS_BUSY	8
/* How long users may run while their module's init or exit is stopped. */
#define USERS_US	12000
/* Looks at users that are all blocked before that is what they are called. */
#define LOOKS_BLOCKED	4

#define RING_BYTES	(2 * 4096)

struct watch {
	int fd;
	int tid;
	unsigned int actor;
	struct perf_event_mmap_page *ring;
};

static const struct program *prog;
static const struct park *park;
static struct park_state *ps;

static uint64_t gate_address;
static int kthreads[MAX_TASKS];
static unsigned int nkthreads;

static int request[2] = { -1, -1 };
static pid_t director_pid;

static struct watch gate = { .fd = -1 };
static struct watch watches[ALL_ACTORS + 1];
static unsigned int nwatches;
static uint64_t point_address;
static bool of_kernel;		/* the role is any thread but the program's */
static uint64_t hits_before[ALL_ACTORS + 1];	/* in earlier lives of the module */

/* ---- what there is in the guest ---- */

/* Those that others wait for in the course of an unload. */
static void note_kthread(const struct task *task)
{
	static const char * const names[] = {
		"kworker/", "ksoftirqd/", "rcu", "kthreadd", "migration/",
	};

	if (!(task->flags & PF_KTHREAD) || nkthreads == MAX_TASKS)
		return;
	for (unsigned int i = 0; i < ARRAY_SIZE(names); i++) {
		if (!strncmp(task->comm, names[i], strlen(names[i]))) {
			kthreads[nkthreads++] = task->tid;
			return;
		}
	}
}

/*
 * Called while a template is made, so that trials do not pay for it: where
 * load_module() hands over to a module's init, and who the kernel's threads are.
 */
void park_prepare(void)
{
	char line[256], name[128];
	unsigned long long address;
	FILE *file;

	nkthreads = 0;
	each_task(note_kthread);
	if (gate_address)
		return;
	file = fopen("/proc/kallsyms", "re");
	if (!file)
		return;
	while (!gate_address && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%llx %*c %127s", &address, name) == 2 &&
		    !strcmp(name, "do_init_module"))
			gate_address = address;
	}
	fclose(file);
}

/* Where a section of the module lies in its present life; 0 while it has none. */
static uint64_t section_address(const char *section)
{
	char path[256], text[64];

	snprintf(path, sizeof(path), "/sys/module/%s/sections/%s", park->module, section);
	if (read_file(path, text, sizeof(text)) <= 0)
		return 0;
	return strtoull(text, NULL, 16);
}

/* ---- breakpoints ---- */

/* Has the agent put what is in @flag's record into the report, before anything else happens. */
static void tell_now(_Atomic uint32_t *flag)
{
	atomic_fetch_add(flag, 1);
	/* The agent has the higher priority and waits for one of these words. */
	futex_wake_all(&shared->ended);
	futex_wake_all(flag);
}

static int watch_open(struct watch *watch, uint64_t address, int tid, uint64_t period)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_BREAKPOINT,
		.size = sizeof(attr),
		.bp_type = HW_BREAKPOINT_X,
		.bp_addr = address,
		.bp_len = sizeof(long),
		.sample_period = period,
		.sample_type = PERF_SAMPLE_IP | PERF_SAMPLE_TID,
		.wakeup_events = 1,
		.exclude_user = 1,
	};

	watch->tid = tid;
	watch->fd = syscall(SYS_perf_event_open, &attr, tid, tid < 0 ? 0 : -1, -1,
			    PERF_FLAG_FD_CLOEXEC);
	if (watch->fd < 0)
		return errno;
	watch->ring = mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, watch->fd, 0);
	if (watch->ring == MAP_FAILED) {
		int err = errno;

		close(watch->fd);
		watch->fd = -1;
		return err;
	}
	return 0;
}

static void watch_close(struct watch *watch)
{
	if (watch->fd < 0)
		return;
	munmap(watch->ring, RING_BYTES);
	close(watch->fd);
	watch->fd = -1;
}

static uint64_t watch_count(const struct watch *watch)
{
	uint64_t count = 0;

	if (watch->fd < 0 || read(watch->fd, &count, sizeof(count)) != sizeof(count))
		return 0;
	return count;
}

/* The last sample: its address; 0 when there is none. */
static uint64_t watch_drain(struct watch *watch, int *tid)
{
	const char *data = (const char *)watch->ring + 4096;
	struct { struct perf_event_header head; uint64_t ip; uint32_t pid, tid; } sample;
	uint64_t head = atomic_load((_Atomic uint64_t *)&watch->ring->data_head);
	uint64_t tail = watch->ring->data_tail, ip = 0;

	while (tail + sizeof(struct perf_event_header) <= head) {
		for (size_t i = 0; i < sizeof(sample); i++)
			((char *)&sample)[i] = data[(tail + i) % 4096];
		if (!sample.head.size)
			break;
		if (sample.head.type == PERF_RECORD_SAMPLE) {
			ip = sample.ip;
			*tid = sample.tid;
		}
		tail += sample.head.size;
	}
	atomic_store((_Atomic uint64_t *)&watch->ring->data_tail, head);
	return ip;
}

static bool plays(unsigned int actor)
{
	const struct actor_state *st = &shared->actor[actor];

	return actor != ACTOR_UNLOADER && !of_kernel && prog->actor[actor].name &&
	       !fnmatch(park->role, prog->actor[actor].name, 0) && atomic_load(&st->tid) &&
	       !atomic_load(&st->done) && !atomic_load(&st->died);
}

static struct watch *watch_of(unsigned int actor)
{
	for (unsigned int i = 0; i < nwatches; i++) {
		if (watches[i].actor == actor)
			return &watches[i];
	}
	return NULL;
}

static void trouble(const char *what, int err)
{
	if (ps->err)
		return;
	ps->what = what;
	ps->err = err;
}

static void disarm_points(void)
{
	for (unsigned int i = 0; i < nwatches; i++) {
		if (watches[i].actor != ACTOR_KERNEL)
			hits_before[watches[i].actor] += watch_count(&watches[i]);
		watch_close(&watches[i]);
	}
	nwatches = 0;
	point_address = 0;
}

/* One event for each actor that plays the role; a later life of the module may lie elsewhere. */
static void arm_points(uint64_t section)
{
	uint64_t address = section + park->offset;
	int err;

	if (point_address && point_address != address)
		disarm_points();
	ps->address = address;
	ps->section = section;
	if (point_address != address) {
		ps->init = section_address(".init.text");
		tell_now(&ps->set);
	}
	point_address = address;
	/* Whose hit it was is seen afterwards: threads come and go. */
	if (of_kernel && !nwatches) {
		watches[0].actor = ACTOR_KERNEL;
		err = watch_open(&watches[0], address, -1, 1);
		if (err)
			trouble("perf_event_open of a breakpoint", err);
		else
			nwatches = 1;
	}
	for (unsigned int i = 0; i < ALL_ACTORS; i++) {
		if (!plays(i) || watch_of(i) || hits_before[i] >= park->hits)
			continue;
		watches[nwatches].actor = i;
		err = watch_open(&watches[nwatches], address, atomic_load(&shared->actor[i].tid),
				 park->hits - hits_before[i]);
		if (err) {
			trouble("perf_event_open of a breakpoint", err);
			return;
		}
		nwatches++;
	}
}

static void arm(void)
{
	uint64_t section = section_address(park->section);

	if (section)
		arm_points(section);
}

/* ---- who runs while somebody is parked ---- */

static void lift_kthreads(void)
{
	for (unsigned int i = 0; i < nkthreads; i++) {
		if (kthreads[i] != ps->tid && sched_getscheduler(kthreads[i]) == SCHED_OTHER)
			lift(kthreads[i], SCHED_FIFO, PRIO_KTHREAD);
	}
}

static void lift_if_runnable_kthread(const struct task *task)
{
	if (task->state == 'R' && task->flags & PF_KTHREAD && task->tid != ps->tid &&
	    sched_getscheduler(task->tid) == SCHED_OTHER)
		lift(task->tid, SCHED_FIFO, PRIO_KTHREAD);
}

/* Process of whom a plan has stopped. */
int park_victim(void)
{
	return ps->actor == ACTOR_KERNEL ? ps->tid : atomic_load(&shared->actor[ps->actor].pid);
}

static void lift_if_runnable_other(const struct task *task)
{
	if (task->state == 'R' && task->tid != ps->tid && task->tid != park_victim() &&
	    sched_getscheduler(task->tid) == SCHED_OTHER)
		lift(task->tid, SCHED_RR, park->users ? PRIO_USERS : PRIO_LIFTED);
}

/* ---- one hold ---- */

/* Whether what an unloader sleeps in ends by itself, given time. */
static bool ends_by_itself(const char *stack)
{
	static const char * const names[] = {
		"rcu_barrier", "synchronize_rcu", "wait_rcu_gp", "synchronize_srcu", "msleep",
		"hrtimer_nanosleep", "usleep_range", "schedule_timeout_uninterruptible",
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(names); i++) {
		if (strstr(stack, names[i]))
			return true;
	}
	return false;
}

static void give_way(int unloader)
{
	ps->gave_way = true;
	ps->gave_way_us = now_us();
	stack_text(unloader, unloader, ps->stack_wait, sizeof(ps->stack_wait));
	spin_end();
	tasks_restore(0);
}

struct watchman {
	int unloader;
	uint64_t turns;		/* of the spinner, at the last look */
	unsigned int busy;	/* looks in a row at which the spinner had not run */
	unsigned int asleep;	/* looks in a row at which nobody ran */
	unsigned int waited;	/* looks in all at which the unloader was asleep */
};

static bool unloader_sleeps(const struct watchman *man)
{
	struct task task;

	return read_task(man->unloader, &task) && task.state != 'R';
}

/* Called every LOOK_US of an unload that goes on while the victim is held. */
static void look_at_unloader(struct watchman *man)
{
	char stack[STACK_TEXT];
	unsigned int before = tasks_lifted();

	/* Cheaper than /proc, and as sure: while anybody above runs, the spinner does not. */
	if (shared->spinner.turns == man->turns) {
		man->asleep = 0;
		if (++man->busy % LOOKS_BUSY == 0 && unloader_sleeps(man))
			man->waited += LOOKS_BUSY;
		if (man->waited >= LOOKS_ALL)
			give_way(man->unloader);
		return;
	}
	man->turns = shared->spinner.turns;
	man->busy = 0;
	if (!unloader_sleeps(man)) {
		man->asleep = 0;
		return;
	}
	man->waited++;
	man->asleep++;
	if (man->asleep == LOOKS_KTHREADS)
		each_task(lift_if_runnable_kthread);
	else if (man->asleep == LOOKS_ACTORS)
		each_task(lift_if_runnable_other);
	if (tasks_lifted() > before)
		man->asleep = 0;
	if (man->asleep < LOOKS_VICTIM && man->waited < LOOKS_ALL)
		return;
	stack_text(man->unloader, man->unloader, stack, sizeof(stack));
	if (man->waited >= LOOKS_ALL || man->asleep >= LOOKS_RCU || !ends_by_itself(stack))
		give_way(man->unloader);
}

/* Whether all other actors wait for something that no time will bring. */
static bool users_blocked(void)
{
	for (unsigned int i = 0; i < prog->nactors; i++) {
		const struct actor_state *st = &shared->actor[i];
		struct task task;

		if (i == ps->actor || atomic_load(&st->done) || atomic_load(&st->died))
			continue;
		if (read_task(atomic_load(&st->tid), &task) && task.state != 'D')
			return false;
		stack_text(atomic_load(&st->pid), atomic_load(&st->tid), ps->stack_wait,
			   sizeof(ps->stack_wait));
		if (ends_by_itself(ps->stack_wait))
			return false;
	}
	return true;
}

static bool others_ended(void)
{
	for (unsigned int i = 0; i < prog->nactors; i++) {
		const struct actor_state *st = &shared->actor[i];

		if (i != ps->actor && !atomic_load(&st->done) && !atomic_load(&st->died))
			return false;
	}
	return true;
}

/*
 * The other actors run on, above the spinner, and whoever works for them: for a while, or
 * until all of them have ended, or are blocked: then true.
 */
static bool run_others(int priority, uint64_t us)
{
	uint64_t turns = shared->spinner.turns;
	unsigned int blocked = 0, ended = 0, idle = 0;

	for (unsigned int i = 0; i < prog->nactors; i++) {
		const struct actor_state *st = &shared->actor[i];

		if (i != ps->actor && atomic_load(&st->tid) && !atomic_load(&st->done))
			lift(atomic_load(&st->tid), SCHED_RR, priority);
	}
	for (uint64_t looks = 0; looks < us / LOOK_US; looks++) {
		unsigned int before = tasks_lifted();

		sleep_us(LOOK_US);
		/* They are busy as long as the spinner is not. */
		if (shared->spinner.turns == turns) {
			blocked = ended = 0;
			continue;
		}
		turns = shared->spinner.turns;
		/* Somebody new, maybe: a thread of the module's, a helper of request_module(). */
		if (idle++ % LOOKS_BLOCKED == 0)
			each_task(lift_if_runnable_other);
		if (tasks_lifted() > before) {
			blocked = ended = 0;
			idle = 0;
			continue;
		}
		/* What they have dropped may be gone only a moment later. */
		ended = others_ended() ? ended + 1 : 0;
		blocked = !ended && users_blocked() ? blocked + 1 : 0;
		if (ended == LOOKS_BLOCKED || blocked == LOOKS_BLOCKED)
			break;
	}
	return blocked;
}

/* While the victim stays below them. */
static void run_users(void)
{
	lift(ps->tid, SCHED_OTHER, 0);
	if (run_others(PRIO_USERS, USERS_US)) {
		ps->gave_way = true;
		ps->gave_way_us = now_us();
	}
}

static void run_unloader(void)
{
	struct watchman man = { .unloader = atomic_load(&shared->actor[ACTOR_UNLOADER].pid) };

	man.turns = shared->spinner.turns;
	atomic_store(&ps->start, 1);
	futex_wake_all(&ps->start);
	while (!atomic_load(&ps->finished)) {
		futex_wait(&ps->finished, 0, ps->gave_way ? 0 : LOOK_US);
		if (atomic_load(&ps->finished) || ps->gave_way)
			continue;
		if (atomic_load(&ps->others_us)) {
			unsigned int before = tasks_lifted();

			run_others(PRIO_LIFTED, atomic_load(&ps->others_us));
			tasks_restore(before);
			atomic_store(&ps->others_us, 0);
			futex_wake_all(&ps->others_us);
		} else {
			look_at_unloader(&man);
		}
	}
}

static void hold(const struct watch *watch, uint64_t ip, int tid)
{
	struct task task;
	int pid;

	ps->hit_us = now_us();
	ps->actor = watch->actor;
	ps->tid = tid;
	ps->ip = ip;
	ps->hits = hits_before[watch->actor];
	if (watch->actor != ACTOR_KERNEL)
		ps->hits += watch_count(watch);
	else if (read_task(tid, &task))
		copy_name(ps->comm, sizeof(ps->comm), task.comm);
	pid = park_victim();
	stack_text(pid, tid, ps->stack, sizeof(ps->stack));
	ps->switches = task_switches(pid, tid);
	tell_now(&ps->hit);
	for (unsigned int i = 0; i < nwatches; i++)
		ioctl(watches[i].fd, PERF_EVENT_IOC_DISABLE, 0);
	lift_kthreads();
	spin(park->users ? PRIO_BELOW : PRIO_SPINNER);
	if (park->users)
		run_users();
	else
		run_unloader();
	ps->end_us = now_us();
	stack_text(pid, tid, ps->stack_end, sizeof(ps->stack_end));
	ps->held = ps->switches && ps->switches == task_switches(pid, tid);
	tell_now(&ps->over);
	spin_end();
	tasks_restore(0);
}

/* ---- the director ---- */

static bool is_of_program(int tid)
{
	for (unsigned int i = 0; i < ALL_ACTORS; i++) {
		if (atomic_load(&shared->actor[i].tid) == tid)
			return true;
	}
	return false;
}

/* Whether this is the hit that was waited for. */
static bool is_the_one(const struct watch *watch, int tid)
{
	if (watch->actor != ACTOR_KERNEL)
		return true;
	return !is_of_program(tid) && ++hits_before[ACTOR_KERNEL] == park->hits;
}

static void on_request(void)
{
	uint32_t turn;

	if (read(request[0], &turn, sizeof(turn)) != sizeof(turn))
		_exit(0);
	arm();
	atomic_store(&ps->armed, turn);
	futex_wake_all(&ps->armed);
}

/* True once the plan has been carried out. */
static bool on_events(void)
{
	struct pollfd fds[ALL_ACTORS + 3];
	int tid = 0;

	fds[0] = (struct pollfd){ .fd = request[0], .events = POLLIN };
	fds[1] = (struct pollfd){ .fd = gate.fd, .events = POLLIN };
	for (unsigned int i = 0; i < nwatches; i++)
		fds[2 + i] = (struct pollfd){ .fd = watches[i].fd, .events = POLLIN };
	if (poll(fds, 2 + nwatches, -1) < 0)
		return errno != EINTR;
	for (unsigned int i = 0; i < nwatches; i++) {
		uint64_t ip;

		if (!(fds[2 + i].revents & POLLIN)) {
			/* Its task has ended: poll() would say so again and again. */
			if (fds[2 + i].revents)
				watch_close(&watches[i]);
			continue;
		}
		ip = watch_drain(&watches[i], &tid);
		if (ip && is_the_one(&watches[i], tid)) {
			hold(&watches[i], ip, tid);
			return true;
		}
	}
	if (fds[1].revents & POLLIN && watch_drain(&gate, &tid))
		arm();
	if (fds[0].revents)
		on_request();
	return false;
}

/*
 * The first event of a task has perf switch its hooks in the scheduler on and then wait for
 * RCU (account_event(), kernel/events/core.c). Were that event the one on an actor, he would
 * run on meanwhile: one of real-time priority through all of the module's init.
 */
static void watch_tasks(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_DUMMY,
	};

	/* Of this task, as long as it lives. */
	if (syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC) < 0)
		trouble("perf_event_open of a dummy", errno);
}

static void director_main(void)
{
	struct sched_param param = { .sched_priority = PRIO_DIRECTOR };
	uint32_t turn;
	int err;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "director");
	close(request[1]);
	spinner_start(PRIO_SPINNER);
	if (sched_setscheduler(0, SCHED_FIFO, &param))
		trouble("sched_setscheduler", errno);
	watch_tasks();
	if (!gate_address) {
		trouble("no do_init_module in /proc/kallsyms", ENOENT);
	} else {
		err = watch_open(&gate, gate_address, -1, 1);
		if (err)
			trouble("perf_event_open of a breakpoint", err);
	}
	while (!ps->err && !on_events())
		;
	for (unsigned int i = 0; i < nwatches; i++)
		watch_close(&watches[i]);
	nwatches = 0;
	watch_close(&gate);
	/* The agent may still ask for something that is no longer needed. */
	while (read(request[0], &turn, sizeof(turn)) == sizeof(turn)) {
		atomic_store(&ps->armed, turn);
		futex_wake_all(&ps->armed);
	}
	_exit(0);
}

/*
 * A sleep of the unloader, for the sake of the others: by the clock alone they might get
 * nothing of it, since the director looks about meanwhile, and the unloader outranks them.
 */
void park_let_others_run(uint64_t us)
{
	atomic_store(&ps->rested, 1);
	atomic_store(&ps->others_us, us < UINT32_MAX ? us : UINT32_MAX);
	while (!ps->gave_way) {
		uint32_t left = atomic_load(&ps->others_us);

		if (!left)
			return;
		futex_wait(&ps->others_us, left, LOOK_US);
	}
	sleep_us(us);
}

static void unloader_main(void)
{
	struct sched_param param = { .sched_priority = PRIO_UNLOADER };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "unloader");
	channel_drop();
	task_signals_init();
	sched_setscheduler(0, SCHED_FIFO, &param);
	while (!atomic_load(&ps->start))
		futex_wait(&ps->start, 0, 0);
	actor_run(prog, ACTOR_UNLOADER);
	atomic_store(&shared->actor[ACTOR_UNLOADER].done, 1);
	atomic_store(&ps->finished, 1);
	futex_wake_all(&ps->finished);
	_exit(0);
}

/* ---- for the agent ---- */

/* Starts director, spinner and unloader; 0 or an errno. */
int park_start(const struct program *program)
{
	struct actor_state *st = &shared->actor[ACTOR_UNLOADER];
	pid_t pid;

	prog = program;
	park = program->park;
	ps = &shared->park;
	of_kernel = !strcmp(park->role, ROLE_KERNEL);
	for (unsigned int i = 0; i < prog->nactors; i++)
		of_kernel &= strcmp(prog->actor[i].name, ROLE_KERNEL) != 0;
	if (pipe2(request, O_CLOEXEC))
		return errno;
	pid = fork();
	if (!pid)
		unloader_main();
	if (pid < 0)
		return errno;
	atomic_store(&st->pid, pid);
	atomic_store(&st->tid, pid);
	director_pid = fork();
	if (!director_pid)
		director_main();
	if (director_pid < 0)
		return errno;
	close(request[0]);
	return 0;
}

/* Asks for breakpoints on all actors that there are now; wait for ->armed to reach @turn. */
void park_arm(uint32_t turn)
{
	if (write(request[1], &turn, sizeof(turn)) < 0)
		trouble("write to the director", errno);
}

void park_end(void)
{
	kill(director_pid, SIGKILL);
	kill(atomic_load(&shared->actor[ACTOR_UNLOADER].pid), SIGKILL);
	close(request[1]);
}
