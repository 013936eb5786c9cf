// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where modules lay in each of their lives, and whether a task is still inside
 * one that is gone. /proc/modules: `name size users deps state 0xbase`.
 * A frame of /proc/PID/stack is `[<0>] symbol+0x1/0x2 [module]`, or the bare
 * address where no symbol covers it any more (kernel/kallsyms.c,
 * __sprint_symbol).
 */
#include <dirent.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "executor.h"

#define NO_LIFE		UINT32_MAX

bool module_range(const char *name, uint64_t *base, uint64_t *size)
{
	char line[1024], found[NAME_LEN];
	unsigned long long bytes, start;
	bool ok = false;
	FILE *file;

	file = fopen("/proc/modules", "re");
	if (!file)
		return false;
	while (!ok && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%63s %llu %*s %*s %*s %llx", found, &bytes, &start) != 3)
			continue;
		if (strcmp(found, name))
			continue;
		*base = start;
		*size = bytes;
		ok = true;
	}
	fclose(file);
	return ok;
}

/*
 * Where each section of a module lies: from 6.4 on they are not in one range
 * (struct module_memory). What is freed after init is left out, it is nobody's.
 */
static void note_places(const char *name, struct life *life)
{
	char path[NAME_LEN + 300], text[64];
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof(path), "/sys/module/%s/sections", name);
	dir = opendir(path);
	if (!dir)
		return;
	while (life->nplaces < MAX_PLACES && (entry = readdir(dir))) {
		struct place *place = &life->place[life->nplaces];
		size_t len = strlen(entry->d_name);

		if (entry->d_type != DT_REG || len >= SECTION_LEN ||
		    !strncmp(entry->d_name, ".init", strlen(".init")))
			continue;
		snprintf(path, sizeof(path), "/sys/module/%s/sections/%s", name, entry->d_name);
		if (read_file(path, text, sizeof(text)) <= 0)
			continue;
		memcpy(place->section, entry->d_name, len + 1);
		place->address = strtoull(text, NULL, 16);
		life->nplaces++;
	}
	closedir(dir);
}

void life_loaded(const struct program *prog, int module, uint64_t us)
{
	struct life *life;
	uint32_t number;

	if (module < 0)
		return;
	/* One module that comes and goes does not displace another that stays. */
	number = atomic_fetch_add(&shared->loads[module], 1) + 1;
	life = &shared->life[module][number % MAX_LIVES];
	life->number = number;
	life->base = 0;
	life->size = 0;
	life->loaded_us = us;
	life->unloaded_us = 0;
	life->nplaces = 0;
	life->told = false;
	module_range(prog->module[module], &life->base, &life->size);
	if (prog->settle_us)
		note_places(prog->module[module], life);
}

/* Where the load is kept that nobody has reported as unloaded yet. */
uint32_t life_open(int module)
{
	for (uint32_t i = 0; module >= 0 && i < MAX_LIVES; i++) {
		const struct life *life = &shared->life[module][i];

		if (life->number && !life->unloaded_us)
			return i;
	}
	return NO_LIFE;
}

void life_unloaded(const struct program *prog, uint32_t slot, int module, uint64_t us)
{
	if (module < 0)
		return;
	atomic_fetch_add(&shared->unloads[module], 1);
	if (slot == NO_LIFE)
		return;
	shared->life[module][slot].unloaded_us = us;
	/* The guest may die of what comes next, and its memory is looked at even so. */
	if (prog->settle_us)
		futex_wake_all(&shared->ended);
}

/* Kernel stack of one task as text; empty where it may not be read. */
size_t stack_text(int pid, int tid, char *buf, size_t size)
{
	char path[64];
	ssize_t len;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stack", pid, tid);
	len = read_file(path, buf, size);
	if (len < 0) {
		buf[0] = '\0';
		return 0;
	}
	return len;
}

/* How often a task has left the processor: the same number twice, and it has not run since. */
uint64_t task_switches(int pid, int tid)
{
	unsigned long long sum = 0, one;
	char path[64], text[4096];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/status", pid, tid);
	if (read_file(path, text, sizeof(text)) <= 0)
		return 0;
	for (const char *at = text; (at = strstr(at, "voluntary_ctxt_switches:")); ) {
		at += strlen("voluntary_ctxt_switches:");
		if (sscanf(at, "%llu", &one) == 1)
			sum += one;
	}
	return sum;
}

bool stack_in_range(const char *text, uint64_t base, uint64_t size)
{
	for (const char *frame = text; (frame = strstr(frame, "] 0x")); frame += 4) {
		uint64_t address = strtoull(frame + 2, NULL, 16);

		if (address >= base && address - base < size)
			return true;
	}
	return false;
}

static void note_inside(const struct ctx *c, unsigned int actor, const char *module,
			uint64_t base, uint64_t size, const char *text)
{
	uint32_t slot = atomic_fetch_add(&shared->ninside, 1);
	uint32_t node = actor < ALL_ACTORS ? atomic_load(&shared->actor[actor].node) : 0;
	struct inside *in;

	if (slot >= MAX_INSIDE)
		return;
	in = &shared->inside[slot];
	in->actor = actor;
	in->node = node;
	in->by_actor = c->index;
	in->by_node = c->node;
	in->base = base;
	in->size = size;
	copy_name(in->module, sizeof(in->module), module);
	copy_name(in->stack, sizeof(in->stack), text);
	atomic_store(&in->ready, 1);
}

/*
 * Who was inside a module before its unload. Afterwards a stack that leads
 * through code that is gone ends where the unwinder no longer knows the way
 * (unwind_get_return_address() answers 0), so what counts is where a task was
 * before, and that it has not run since.
 */
static struct before {
	int pid, tid;
	uint64_t switches;
	char text[STACK_TEXT];
} before[MAX_ACTORS + 1];

static void note_one(struct before *one, int pid, int tid, const char *frame)
{
	one->pid = pid;
	one->tid = tid;
	one->switches = 0;
	if (!pid)
		return;
	stack_text(pid, tid, one->text, STACK_TEXT);
	if (strstr(one->text, frame))
		one->switches = task_switches(pid, tid);
}

static bool inside_since(const struct before *one)
{
	return one->switches && one->switches == task_switches(one->pid, one->tid);
}

void note_before(const struct ctx *c, const char *module)
{
	char frame[NAME_LEN + 4];

	snprintf(frame, sizeof(frame), " [%s]", module);
	for (unsigned int i = 0; i < c->prog->nactors; i++) {
		struct actor_state *st = &shared->actor[i];
		bool runs = i != c->index && !atomic_load(&st->done) && !atomic_load(&st->died);

		note_one(&before[i], runs ? atomic_load(&st->pid) : 0, atomic_load(&st->tid), frame);
	}
	/* Whom a plan has stopped may be nobody's actor. */
	if (atomic_load(&shared->park.hit) && shared->park.actor == ACTOR_KERNEL)
		note_one(&before[MAX_ACTORS], shared->park.tid, shared->park.tid, frame);
}

/*
 * Whether the task that a plan holds was stopped in the module and has not run since, for
 * an unload that is not the plan's: nobody has noted anything before that one.
 */
static bool victim_inside(const char *module, uint64_t base, uint64_t size, uint64_t begun_us)
{
	const struct park_state *ps = &shared->park;
	char frame[NAME_LEN + 4], address[24];

	/* One that was stopped after that may be in the module's next life. */
	if (!atomic_load(&ps->hit) || ps->hit_us >= begun_us || !ps->switches ||
	    ps->switches != task_switches(park_victim(), ps->tid))
		return false;
	snprintf(frame, sizeof(frame), " [%s]", module);
	/* A function that starts its section has no name in a stack. */
	snprintf(address, sizeof(address), "0x%016" PRIx64, ps->ip);
	return strstr(ps->stack, frame) ||
	       (ps->ip - base < size && strstr(ps->stack, address));
}

/* Looks at one task; for a process actor at each of its threads. */
static bool task_inside(int pid, int tid, uint64_t base, uint64_t size, char *text)
{
	return stack_text(pid, tid, text, STACK_TEXT) && stack_in_range(text, base, size);
}

/* @begun_us: when the unload was asked for */
void find_inside(const struct ctx *c, const char *module, uint64_t base, uint64_t size,
		 uint64_t begun_us)
{
	unsigned int victim = UINT_MAX;
	char text[STACK_TEXT];

	if (c->index != ACTOR_UNLOADER && victim_inside(module, base, size, begun_us)) {
		victim = shared->park.actor;
		note_inside(c, victim, module, base, size, shared->park.stack);
	}
	for (unsigned int i = 0; i < c->prog->nactors; i++) {
		struct actor_state *st = &shared->actor[i];
		int pid = atomic_load(&st->pid), tid = atomic_load(&st->tid);

		if (i == c->index || i == victim || !pid || atomic_load(&st->done) || atomic_load(&st->died))
			continue;
		if (inside_since(&before[i]))
			note_inside(c, i, module, base, size, before[i].text);
		else if (task_inside(pid, tid, base, size, text))
			note_inside(c, i, module, base, size, text);
	}
	if (inside_since(&before[MAX_ACTORS]))
		note_inside(c, ACTOR_KERNEL, module, base, size, before[MAX_ACTORS].text);
}
