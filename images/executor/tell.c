// SPDX-License-Identifier: GPL-2.0-only
/* What the report says about actors: news while they run, sums at the end. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>

#include "executor.h"

static uint32_t data_told[ALL_ACTORS];
static bool unexpected_told[MAX_NODES];
static bool inside_told[MAX_INSIDE];

static void ev_where(const struct program *prog, const char *key, uint32_t node_plus_1)
{
	if (node_plus_1)
		ev_str(key, prog->node[node_plus_1 - 1].place);
}

/* An actor's name, or that of the kernel's thread that was stopped. */
static void ev_who(const struct program *prog, unsigned int actor)
{
	if (actor != ACTOR_KERNEL) {
		ev_str("actor", prog->actor[actor].name);
		return;
	}
	ev_str("actor", ROLE_KERNEL);
	ev_str("thread", shared->park.comm);
}

static void tell_data(const struct program *prog, unsigned int actor)
{
	struct actor_state *st = &shared->actor[actor];
	uint32_t count = atomic_load(&st->ndata);

	for (; data_told[actor] < count && data_told[actor] < MAX_DATA; data_told[actor]++) {
		const struct data_event *event = &st->data[data_told[actor]];

		ev_begin("data");
		ev_str("actor", prog->actor[actor].name);
		ev_where(prog, "where", event->node + 1);
		ev_str("op", prog->node[event->node].type->name);
		ev_str("what", event->what);
		ev_u64("offset", event->offset);
		ev_hex("expected", event->expected, event->nexpected);
		ev_hex("got", event->got, event->ngot);
		ev_end();
	}
}

static void tell_unexpected(const struct program *prog, unsigned int actor)
{
	for (uint32_t i = prog->actor[actor].first; i < prog->actor[actor].end; i++) {
		uint32_t count = atomic_load(&shared->node[i].nunexpected);

		if (!count || unexpected_told[i])
			continue;
		unexpected_told[i] = true;
		ev_begin("unexpected");
		ev_str("actor", prog->actor[actor].name);
		ev_str("where", prog->node[i].place);
		ev_str("op", prog->node[i].text);
		ev_str("errno", result_name(shared->node[i].unexpected - 1) ?: "?");
		ev_results("allowed", &prog->node[i].expect);
		ev_u64("count", count);
		ev_end();
	}
}

static void tell_inside(const struct program *prog)
{
	for (unsigned int i = 0; i < MAX_INSIDE; i++) {
		const struct inside *in = &shared->inside[i];

		if (inside_told[i] || !atomic_load(&in->ready))
			continue;
		inside_told[i] = true;
		ev_begin("inside");
		ev_who(prog, in->actor);
		ev_where(prog, "where", in->node);
		ev_str("module", in->module);
		ev_addr("base", in->base);
		ev_u64("size", in->size);
		ev_str("by", prog->actor[in->by_actor].name);
		ev_where(prog, "by_where", in->by_node + 1);
		ev_str("stack", in->stack);
		ev_end();
	}
}

static void tell_parked(const struct program *prog)
{
	const struct park_state *ps = &shared->park;

	ev_begin("parked");
	ev_str("plan", prog->park->plan);
	ev_who(prog, ps->actor);
	if (ps->actor != ACTOR_KERNEL)
		ev_where(prog, "where", atomic_load(&shared->actor[ps->actor].node));
	ev_str("module", prog->park->module);
	ev_str("section", prog->park->section);
	ev_addr("section_at", ps->section);
	ev_addr("address", ps->address);
	ev_addr("ip", ps->ip);
	ev_u64("hits", ps->hits);
	ev_int("tid", ps->tid);
	ev_u64("us", ps->hit_us);
	ev_str("stack", ps->stack);
	ev_end();
}

/* The results of the unloader's ops, in their order. */
static void ev_answers(const struct program *prog)
{
	const struct actor *unloader = &prog->actor[ACTOR_UNLOADER];

	ev_object("answers");
	for (uint32_t i = unloader->first; i < unloader->end; i++) {
		const struct node_state *state = &shared->node[i];

		if (state->seen[0].count)
			ev_str(prog->node[i].place, result_name(state->seen[0].res) ?: "?");
	}
	ev_object_end();
}

static void tell_let_go(const struct program *prog)
{
	const struct park_state *ps = &shared->park;

	ev_begin("let-go");
	ev_bool("held", ps->held);
	ev_u64("took_us", ps->end_us - ps->hit_us);
	ev_answers(prog);
	ev_bool("gave_way", ps->gave_way);
	if (ps->gave_way_us) {
		ev_u64("after_us", ps->gave_way_us - ps->hit_us);
		ev_str("waited_in", ps->stack_wait);
	}
	ev_str("stack", ps->stack_end);
	ev_end();
}

/* Once, when the actors have ended. */
void tell_plan_end(const struct program *prog)
{
	tell_news(prog);
	ev_begin("plan");
	ev_str("plan", prog->park->plan);
	ev_bool("reached", atomic_load(&shared->park.hit));
	ev_bool("over", atomic_load(&shared->park.over));
	ev_end_always();
}

static void tell_plan(const struct program *prog)
{
	static bool parked_told, let_go_told;
	static uint32_t set_told;

	if (!prog->park)
		return;
	if (set_told != atomic_load(&shared->park.set)) {
		set_told = atomic_load(&shared->park.set);
		ev_begin("armed");
		ev_str("module", prog->park->module);
		ev_str("section", prog->park->section);
		ev_addr("section_at", shared->park.section);
		ev_addr("init_at", shared->park.init);
		ev_end();
	}
	if (!parked_told && atomic_load(&shared->park.hit)) {
		parked_told = true;
		tell_parked(prog);
	}
	if (!let_go_told && atomic_load(&shared->park.over)) {
		let_go_told = true;
		tell_let_go(prog);
	}
}

/* Told in the order in which they were noted. */
static void tell_fails(const struct program *prog)
{
	static uint32_t told;

	for (; told < MAX_FAILS && atomic_load(&shared->fail[told].ready); told++) {
		const struct fail_done *done = &shared->fail[told];
		const struct node *n = &prog->node[done->node];

		if (done->err)
			tell_trouble("fail-nth", done->err);
		ev_begin("fail");
		ev_str("actor", prog->actor[done->actor].name);
		ev_str("where", n->place);
		ev_str("op", n->type->name);
		ev_u64("nth", n->fail);
		ev_bool("fired", !done->err && !done->left);
		ev_u64("left", done->left);
		ev_bool("told", done->told);
		ev_str("errno", result_name(done->res) ?: "?");
		ev_u64("us", done->start_us);
		ev_u64("end_us", done->end_us);
		ev_end();
	}
}

static void ev_role(const struct program *prog, int rank)
{
	if (rank >= 0)
		ev_str("role", prog->schedule->rank[rank]);
}

static void tell_steps(const struct program *prog)
{
	static uint32_t told;
	uint32_t count = atomic_load(&shared->schedule.nsteps);

	for (; told < count; told++) {
		const struct step_done *done = &shared->schedule.step[told];

		ev_begin("step");
		ev_u64("us", done->us);
		ev_str("what", done->what);
		ev_role(prog, done->rank);
		ev_end();
	}
}

/* Once, when everybody has his own priority again. */
void tell_schedule_end(const struct program *prog)
{
	if (!prog->schedule)
		return;
	ev_begin("schedule");
	ev_str("schedule", prog->schedule->name);
	ev_bool("begun", atomic_load(&shared->schedule.begun));
	ev_bool("over", atomic_load(&shared->schedule.over));
	ev_u64("at", shared->schedule.began_us);
	ev_u64("us", shared->schedule.end_us);
	ev_u64("turns", shared->schedule.turns);
	ev_u64("tasks", shared->schedule.tasks);
	ev_end_always();
}

/* Strings of one thing that a survey has found: see survey.c. */
static const char *tell_surface(const char *at)
{
	static const char * const keys[] = { "survey", "section", "mode", "number", "line" };

	ev_begin("surface");
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++, at += strlen(at) + 1)
		ev_str(keys[i], at);
	ev_end();
	return at;
}

static void tell_surfaces(void)
{
	static uint32_t told, cut_told;
	uint32_t len = atomic_load(&shared->survey.len);
	uint32_t cut = atomic_load(&shared->survey.cut);

	while (told < len)
		told = tell_surface(shared->survey.text + told) - shared->survey.text;
	if (cut != cut_told) {
		cut_told = cut;
		ev_begin("surface-cut");
		ev_u64("more", cut);
		ev_end();
	}
}

static void tell_life(const char *module, struct life *life)
{
	if (life->told)
		return;
	life->told = true;
	ev_begin("life");
	ev_str("module", module);
	ev_u64("number", life->number);
	ev_addr("base", life->base);
	ev_u64("size", life->size);
	ev_u64("loaded_us", life->loaded_us);
	if (life->unloaded_us)
		ev_u64("unloaded_us", life->unloaded_us);
	if (life->nplaces) {
		ev_object("sections");
		for (uint32_t i = 0; i < life->nplaces; i++)
			ev_addr(life->place[i].section, life->place[i].address);
		ev_object_end();
	}
	ev_end();
}

/*
 * Lives that are over, for those that a panic will take with it; the first few,
 * so that the report has room for the rest.
 */
static void tell_lives(const struct program *prog)
{
	for (unsigned int i = 0; prog->settle_us && i < prog->nmodules; i++) {
		for (unsigned int n = 0; n < MAX_LIVES; n++) {
			struct life *life = &shared->life[i][n];

			if (life->number && life->number <= MAX_LIVES && life->unloaded_us)
				tell_life(prog->module[i], life);
		}
	}
}

/* Told as it happens: a panic may end the report at any moment. */
void tell_news(const struct program *prog)
{
	for (unsigned int i = 0; i < ALL_ACTORS; i++) {
		if (!prog->actor[i].name)
			continue;
		tell_data(prog, i);
		tell_unexpected(prog, i);
	}
	tell_lives(prog);
	tell_inside(prog);
	tell_surfaces();
	tell_plan(prog);
	tell_steps(prog);
	tell_fails(prog);
}

void tell_died(const struct program *prog, unsigned int actor, uint32_t node)
{
	int sig = atomic_load(&shared->actor[actor].died);

	ev_begin("died");
	ev_str("actor", prog->actor[actor].name);
	ev_where(prog, "where", node);
	if (node)
		ev_str("op", prog->node[node - 1].text);
	ev_str("signal", sig > 0 ? signal_name(sig) : "?");
	ev_bool("wanted", prog->actor[actor].killable);
	ev_end();
}

/* The values of wchan and of State in status, as one line of text each. */
static void ev_task(int pid, int tid)
{
	char path[64], text[STACK_TEXT];
	char *line, *end;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/status", pid, tid);
	if (read_file(path, text, sizeof(text)) > 0 && (line = strstr(text, "State:"))) {
		line += strlen("State:");
		line += strspn(line, "\t ");
		end = strchrnul(line, '\n');
		ev_strn("state", line, end - line);
	}
	snprintf(path, sizeof(path), "/proc/%d/task/%d/wchan", pid, tid);
	if (read_file(path, text, sizeof(text)) > 0)
		ev_str("wchan", text);
	stack_text(pid, tid, text, sizeof(text));
	ev_str("stack", text);
}

void tell_hang(const char *actor, const struct program *prog, uint32_t node, int pid, int tid)
{
	ev_begin("hang");
	ev_str("actor", actor);
	ev_where(prog, "where", node);
	if (node)
		ev_str("op", prog->node[node - 1].text);
	ev_int("pid", tid);
	ev_task(pid, tid);
	ev_end();
}

static void tell_counts(const struct program *prog, unsigned int actor)
{
	for (uint32_t i = prog->actor[actor].first; i < prog->actor[actor].end; i++) {
		const struct node_state *state = &shared->node[i];

		if (!state->seen[0].count)
			continue;
		ev_begin("errnos");
		ev_str("actor", prog->actor[actor].name);
		ev_str("where", prog->node[i].place);
		ev_str("op", prog->node[i].type->name);
		ev_object("counts");
		for (unsigned int r = 0; r < NODE_RESULTS && state->seen[r].count; r++)
			ev_u64(result_name(state->seen[r].res) ?: "?", state->seen[r].count);
		if (state->other)
			ev_u64("other", state->other);
		ev_object_end();
		ev_end();
	}
}

/* What every actor did, for those that a panic has not taken with it. */
void tell_sums(const struct program *prog)
{
	for (unsigned int i = 0; i < ALL_ACTORS; i++) {
		const struct actor_state *st = &shared->actor[i];

		if (!prog->actor[i].name || !atomic_load(&st->pid))
			continue;
		if (atomic_load(&st->done)) {
			ev_begin("done");
			ev_str("actor", prog->actor[i].name);
			ev_u64("iterations", atomic_load(&st->iterations));
			if (atomic_load(&st->ndata))
				ev_u64("lost", atomic_load(&st->ndata));
			ev_end();
		}
		tell_counts(prog, i);
	}
}

void tell_modules(const struct program *prog)
{
	for (unsigned int i = 0; i < prog->nmodules; i++) {
		ev_begin("loaded");
		ev_str("module", prog->module[i]);
		ev_u64("loaded", atomic_load(&shared->loads[i]));
		ev_u64("unloaded", atomic_load(&shared->unloads[i]));
		ev_end();
	}
	for (unsigned int i = 0; i < prog->nmodules; i++) {
		uint32_t loads = atomic_load(&shared->loads[i]);

		for (uint32_t n = loads > MAX_LIVES ? loads - MAX_LIVES : 0; n < loads; n++)
			tell_life(prog->module[i], &shared->life[i][(n + 1) % MAX_LIVES]);
	}
}
