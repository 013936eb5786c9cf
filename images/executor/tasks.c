// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tasks of the guest as a director sees them: who there is, who may run before
 * whom, and a spinner that keeps the processor from all below it. What is changed
 * here is remembered, for the director to undo.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "executor.h"

/* A policy that was changed for some time. */
struct lifted {
	int tid;
	int policy;
	int priority;
};

static struct lifted lifted[MAX_TASKS];
static unsigned int nlifted;
static pid_t spinner_pid;

bool read_task(int tid, struct task *task)
{
	char path[64], text[512];
	char *open, *close;

	snprintf(path, sizeof(path), "/proc/%d/stat", tid);
	if (read_file(path, text, sizeof(text)) <= 0)
		return false;
	open = strchr(text, '(');
	close = strrchr(text, ')');
	if (!open || !close || close <= open)
		return false;
	task->tid = tid;
	*close = '\0';
	copy_name(task->comm, sizeof(task->comm), open + 1);
	return sscanf(close + 2, "%c %d %*d %*d %*d %*d %u", &task->state, &task->parent,
		      &task->flags) == 3;
}

/* Calls @each for every process and kernel thread. */
void each_task(void (*each)(const struct task *task))
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	struct task task;

	if (!proc)
		return;
	while ((entry = readdir(proc))) {
		if (isdigit((unsigned char)entry->d_name[0]) &&
		    read_task(atoi(entry->d_name), &task))
			each(&task);
	}
	closedir(proc);
}

bool set_policy(int tid, int policy, int priority)
{
	struct sched_param param = { .sched_priority = priority };

	return !sched_setscheduler(tid, policy, &param);
}

static void forget_dead(void)
{
	unsigned int kept = 0;

	for (unsigned int i = 0; i < nlifted; i++) {
		if (sched_getscheduler(lifted[i].tid) >= 0)
			lifted[kept++] = lifted[i];
	}
	nlifted = kept;
}

/* As set_policy(), until tasks_restore(). */
bool lift(int tid, int policy, int priority)
{
	struct sched_param param;
	struct lifted *one;

	if (nlifted == MAX_TASKS)
		forget_dead();
	one = &lifted[nlifted];
	if (nlifted == MAX_TASKS || sched_getparam(tid, &param))
		return false;
	one->tid = tid;
	one->policy = sched_getscheduler(tid);
	one->priority = param.sched_priority;
	if (one->policy < 0 || !set_policy(tid, policy, priority))
		return false;
	nlifted++;
	return true;
}

unsigned int tasks_lifted(void)
{
	return nlifted;
}

/* All but the first @kept that were lifted are what they were. */
void tasks_restore(unsigned int kept)
{
	while (nlifted > kept) {
		const struct lifted *one = &lifted[--nlifted];

		set_policy(one->tid, one->policy, one->priority);
	}
}

static void spinner_main(int priority)
{
	struct spinner_state *state = &shared->spinner;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "spinner");
	set_policy(0, SCHED_FIFO, priority);
	for (;;) {
		while (!atomic_load(&state->spin))
			futex_wait(&state->spin, 0, 0);
		/* The count tells the director that nobody above had anything to do. */
		while (atomic_load_explicit(&state->spin, memory_order_relaxed))
			state->turns = state->turns + 1;
	}
}

void spinner_start(int priority)
{
	spinner_pid = fork();
	if (!spinner_pid)
		spinner_main(priority);
}

void spin(int priority)
{
	set_policy(spinner_pid, SCHED_FIFO, priority);
	atomic_store(&shared->spinner.spin, 1);
	futex_wake_all(&shared->spinner.spin);
}

void spin_end(void)
{
	atomic_store(&shared->spinner.spin, 0);
}
