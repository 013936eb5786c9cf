// SPDX-License-Identifier: GPL-2.0-only
/*
 * Program text to a tree of nodes. Strict: anything that harness/program.py
 * would not have written is refused with its line, because a program that is
 * half understood would pass for a trial that was run.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "executor.h"

#define MAX_REPEAT	1000000000LL
/* 'op', place, expect, stop_on, retries, name: what comes before the arguments */
#define OP_HEAD		6

static bool get_param(struct parser *p, const struct param *param, const char *word,
		      struct arg *arg)
{
	uint64_t bits;

	switch (param->kind) {
	case P_SLOT:
		return get_int(p, word, 0, MAX_SLOTS - 1, &arg->i);
	case P_MAP:
		return get_int(p, word, 0, MAX_MAPS - 1, &arg->i);
	case P_BARRIER:
		return get_int(p, word, 0, MAX_BARRIERS - 1, &arg->i);
	case P_COUNT:
		return get_int(p, word, 1, MAX_IO, &arg->i);
	case P_NUMBER:
		return get_int(p, word, 0, MAX_REPEAT, &arg->i);
	case P_OFFSET:
		return get_int(p, word, INT64_MIN + 1, INT64_MAX, &arg->i);
	case P_MODE:
		return get_mode(p, word, &arg->i);
	case P_KEY:
		if (!strcmp(word, "-"))
			return true;
		arg->set = true;
		/* fall through */
	case P_U64:
		if (!get_u64(p, word, &bits))
			return false;
		arg->i = (int64_t)bits;
		return true;
	case P_PATH:
		if (!*word)
			return parse_fail(p, "empty path");
		return get_string(p, word, &arg->s);
	case P_TEXT:
	case P_ACTOR:
		return get_string(p, word, &arg->s);
	case P_FLAGS:
		return get_flags(p, word, param->table, &arg->i);
	case P_CHOICE:
		return get_choice(p, word, param->table, &arg->i);
	}
	return parse_fail(p, "bad parameter kind");
}

static struct node *new_node(struct parser *p, enum node_kind kind)
{
	struct node *n;

	if (p->prog->nnodes == MAX_NODES) {
		parse_fail(p, "more than %d nodes", MAX_NODES);
		return NULL;
	}
	n = &p->prog->node[p->prog->nnodes++];
	n->kind = kind;
	n->end = p->prog->nnodes;
	return n;
}

void module_name_of_path(char *to, size_t size, const char *path)
{
	const char *slash = strrchr(path, '/');
	char *dot;

	copy_name(to, size, slash ? slash + 1 : path);
	dot = strchr(to, '.');
	if (dot)
		*dot = '\0';
	for (char *ch = to; *ch; ch++) {
		if (*ch == '-')
			*ch = '_';
	}
}

int program_module(const struct program *prog, const char *name)
{
	for (unsigned int i = 0; i < prog->nmodules; i++) {
		if (!strcmp(prog->module[i], name))
			return i;
	}
	return -1;
}

static bool note_module(struct parser *p, const struct node *n)
{
	struct program *prog = p->prog;
	char name[NAME_LEN];

	if (strcmp(n->type->name, "finit_module") && strcmp(n->type->name, "delete_module"))
		return true;
	module_name_of_path(name, sizeof(name), n->arg[0].s);
	if (program_module(prog, name) >= 0)
		return true;
	if (prog->nmodules == MAX_MODULES)
		return parse_fail(p, "more than %d modules", MAX_MODULES);
	copy_name(prog->module[prog->nmodules++], NAME_LEN, name);
	return true;
}

/* The part of the raw line that starts at word @n. */
static const char *raw_from(const struct parser *p, unsigned int n)
{
	const char *raw = p->raw;

	while (n--)
		raw = strchr(raw, ' ') + 1;
	return raw;
}

static bool parse_rest(struct parser *p, struct node *n, unsigned int first)
{
	n->nrest = p->nwords - first;
	if (n->nrest > MAX_REST)
		return parse_fail(p, "more than %d words at the end", MAX_REST);
	n->rest = calloc(n->nrest + 1, sizeof(*n->rest));
	if (!n->rest)
		return parse_fail(p, "out of memory");
	for (unsigned int i = 0; i < n->nrest; i++) {
		if (!get_string(p, p->word[first + i], &n->rest[i]))
			return false;
	}
	return true;
}

/* op PLACE EXPECT STOP_ON RETRIES NAME ARG... */
static bool parse_op(struct parser *p, struct actor *actor)
{
	const struct op_type *type;
	int64_t retries;
	struct node *n;

	if (p->nwords < OP_HEAD)
		return parse_fail(p, "'op' line is too short");
	type = op_by_name(p->word[5]);
	if (!type)
		return parse_fail(p, "no op is called '%.40s'", p->word[5]);
	if (type->process_only && actor->thread)
		return parse_fail(p, "'%s' is not for threads", type->name);
	if (!type->rest && !need_words(p, OP_HEAD + type->nparams))
		return false;
	if (p->nwords < OP_HEAD + type->nparams)
		return parse_fail(p, "'%s' needs %u words", type->name, type->nparams);
	n = new_node(p, NODE_OP);
	if (!n)
		return false;
	n->type = type;
	if (!get_string(p, p->word[1], &n->place) ||
	    !get_results(p, p->word[2], &n->expect) ||
	    !get_results(p, p->word[3], &n->stop) ||
	    !get_int(p, p->word[4], 0, 1000, &retries) ||
	    !get_string(p, raw_from(p, OP_HEAD - 1), &n->text))
		return false;
	n->retries = retries;
	for (unsigned int i = 0; i < type->nparams; i++) {
		if (!get_param(p, &type->param[i], p->word[OP_HEAD + i], &n->arg[i]))
			return false;
		if (type->param[i].kind == P_BARRIER)
			actor->barriers |= 1U << n->arg[i].i;
	}
	if (type->rest && !parse_rest(p, n, OP_HEAD + type->nparams))
		return false;
	return note_module(p, n);
}

/* fail N, then the op whose Nth allocation fails */
static bool parse_failing_op(struct parser *p, struct actor *actor)
{
	uint32_t index = p->prog->nnodes;
	int64_t nth;

	if (!need_words(p, 2) || !get_int(p, p->word[1], 1, MAX_FAIL_NTH, &nth))
		return false;
	if (p->prog->nfails++ == MAX_FAILS)
		return parse_fail(p, "more than %d ops that fail", MAX_FAILS);
	if (!parse_line(p))
		return false;
	if (strcmp(p->word[0], "op"))
		return parse_fail(p, "'fail' before '%.40s'", p->word[0]);
	if (!parse_op(p, actor))
		return false;
	p->prog->node[index].fail = nth;
	return true;
}

static bool parse_block(struct parser *p, struct actor *actor, unsigned int depth);

static bool parse_loop(struct parser *p, struct actor *actor, unsigned int depth)
{
	uint32_t index = p->prog->nnodes;
	struct node *n;
	int64_t count;

	if (!need_words(p, 2) || !get_int(p, p->word[1], 1, MAX_REPEAT, &count))
		return false;
	n = new_node(p, NODE_LOOP);
	if (!n)
		return false;
	n->count = count;
	if (!parse_block(p, actor, depth + 1))
		return false;
	p->prog->node[index].end = p->prog->nnodes;
	return true;
}

/* choose, then one or more `branch WEIGHT` ... end, then end */
static bool parse_choose(struct parser *p, struct actor *actor, unsigned int depth)
{
	uint32_t index = p->prog->nnodes;
	uint64_t sum = 0;

	if (!need_words(p, 1) || !new_node(p, NODE_CHOOSE))
		return false;
	while (parse_line(p) && !strcmp(p->word[0], "branch")) {
		uint32_t branch = p->prog->nnodes;
		int64_t weight;

		if (!need_words(p, 2) || !get_int(p, p->word[1], 1, 1000000, &weight) ||
		    !new_node(p, NODE_BRANCH) || !parse_block(p, actor, depth + 1))
			return false;
		p->prog->node[branch].count = weight;
		p->prog->node[branch].end = p->prog->nnodes;
		sum += weight;
	}
	if (p->failed)
		return false;
	if (strcmp(p->word[0], "end") || !sum)
		return parse_fail(p, "'choose' holds branches, not '%.40s'", p->word[0]);
	p->prog->node[index].count = sum;
	p->prog->node[index].end = p->prog->nnodes;
	return need_words(p, 1);
}

/* Lines up to the matching `end`. */
static bool parse_block(struct parser *p, struct actor *actor, unsigned int depth)
{
	if (depth > MAX_DEPTH)
		return parse_fail(p, "nested deeper than %d", MAX_DEPTH);
	while (parse_line(p)) {
		bool ok;

		if (!strcmp(p->word[0], "end"))
			return need_words(p, 1);
		if (!strcmp(p->word[0], "op"))
			ok = parse_op(p, actor);
		else if (!strcmp(p->word[0], "fail"))
			ok = parse_failing_op(p, actor);
		else if (!strcmp(p->word[0], "loop"))
			ok = parse_loop(p, actor, depth);
		else if (!strcmp(p->word[0], "choose"))
			ok = parse_choose(p, actor, depth);
		else
			ok = parse_fail(p, "'%.40s' in a list of ops", p->word[0]);
		if (!ok)
			return false;
	}
	return false;
}

static bool parse_body(struct parser *p, struct actor *actor)
{
	actor->first = p->prog->nnodes;
	if (!parse_block(p, actor, 0))
		return false;
	actor->end = p->prog->nnodes;
	return true;
}

/* actor NAME process|thread FIFO PLACE REPEAT UNTIL */
static bool parse_actor(struct parser *p)
{
	struct program *prog = p->prog;
	struct actor *actor = &prog->actor[prog->nactors];
	int64_t fifo, repeat;

	if (!need_words(p, 7))
		return false;
	if (prog->nactors == MAX_ACTORS)
		return parse_fail(p, "more than %d actors", MAX_ACTORS);
	if (!*p->word[1] || strlen(p->word[1]) >= NAME_LEN)
		return parse_fail(p, "actor's name is empty or too long");
	for (unsigned int i = 0; i < prog->nactors; i++) {
		if (!strcmp(prog->actor[i].name, p->word[1]))
			return parse_fail(p, "two actors are called '%.40s'", p->word[1]);
	}
	actor->thread = !strcmp(p->word[2], "thread");
	if (!actor->thread && strcmp(p->word[2], "process"))
		return parse_fail(p, "an actor is a process or a thread, not '%.40s'", p->word[2]);
	if (!get_int(p, p->word[3], 0, 90, &fifo) ||
	    !get_int(p, p->word[5], 0, MAX_REPEAT, &repeat) ||
	    !get_string(p, p->word[1], &actor->name) ||
	    !get_string(p, p->word[4], &actor->place) ||
	    !get_string(p, p->word[6], &actor->until_names))
		return false;
	actor->fifo = fifo;
	actor->repeat = repeat;
	if (!repeat && !strcmp(actor->until_names, "-"))
		return parse_fail(p, "actor '%.40s' would never end", actor->name);
	prog->nactors++;
	return parse_body(p, actor);
}

static int actor_by_name(const struct program *prog, const char *name)
{
	for (unsigned int i = 0; i < prog->nactors; i++) {
		if (!strcmp(prog->actor[i].name, name))
			return i;
	}
	return -1;
}

/* park PLAN ROLE MODULE SECTION OFFSET HITS hold|users, then the unloader's ops */
static bool parse_park(struct parser *p)
{
	struct actor *unloader = &p->prog->actor[ACTOR_UNLOADER];
	struct park *park = calloc(1, sizeof(*park));

	if (!park)
		return parse_fail(p, "out of memory");
	if (!need_words(p, 8))
		return false;
	if (!get_string(p, p->word[1], &park->plan) ||
	    !get_string(p, p->word[2], &park->role) ||
	    !get_string(p, p->word[3], &park->module) ||
	    !get_string(p, p->word[4], &park->section) ||
	    !get_u64(p, p->word[5], &park->offset) ||
	    !get_u64(p, p->word[6], &park->hits))
		return false;
	if (!park->hits)
		return parse_fail(p, "a point that is hit 0 times");
	park->users = !strcmp(p->word[7], "users");
	if (!park->users && strcmp(p->word[7], "hold"))
		return parse_fail(p, "a plan says hold or users, not '%.40s'", p->word[7]);
	p->prog->park = park;
	unloader->repeat = 1;
	if (!get_string(p, "unloader", &unloader->name) ||
	    !get_string(p, "park", &unloader->place))
		return false;
	return parse_body(p, unloader);
}

static bool parse_rank(struct parser *p, struct schedule *plan)
{
	if (!need_words(p, 2))
		return false;
	if (plan->nsteps)
		return parse_fail(p, "a rank after a step");
	if (plan->nranks == MAX_RANKS)
		return parse_fail(p, "more than %d ranks", MAX_RANKS);
	for (unsigned int i = 0; i < plan->nranks; i++) {
		if (!strcmp(plan->rank[i], p->word[1]))
			return parse_fail(p, "'%.40s' has two ranks", p->word[1]);
	}
	if (strcmp(p->word[1], "teardown") && !schedule_knows_role(p->word[1]) &&
	    actor_by_name(p->prog, p->word[1]) < 0)
		return parse_fail(p, "nobody is called '%.40s'", p->word[1]);
	return get_string(p, p->word[1], &plan->rank[plan->nranks++]);
}

/* demote AT, or starve AT ROLE LENGTH; all of them end with the schedule */
static bool parse_step(struct parser *p, struct schedule *plan)
{
	bool starve = !strcmp(p->word[0], "starve");
	struct step *step = &plan->step[plan->nsteps];
	int64_t at, length = 0;

	if (!starve && strcmp(p->word[0], "demote"))
		return parse_fail(p, "'%.40s' in a schedule", p->word[0]);
	if (plan->nsteps == MAX_STEPS)
		return parse_fail(p, "more than %d steps", MAX_STEPS);
	if (!need_words(p, starve ? 4 : 2) ||
	    !get_int(p, p->word[1], 0, plan->end_us, &at) ||
	    (starve && !get_int(p, p->word[3], 1, plan->end_us - at, &length)))
		return false;
	if (plan->nsteps && step[-1].at_us > (uint64_t)at)
		return parse_fail(p, "a step that is earlier than the one before");
	step->at_us = at;
	step->length_us = length;
	step->rank = -1;
	for (unsigned int i = 0; starve && i < plan->nranks; i++) {
		if (!strcmp(plan->rank[i], p->word[2]))
			step->rank = i;
	}
	if (starve && step->rank < 0)
		return parse_fail(p, "'%.40s' has no rank", p->word[2]);
	plan->nsteps++;
	return true;
}

/* schedule NAME SLICE_US END_US, then ranks, then steps */
static bool parse_schedule(struct parser *p)
{
	struct schedule *plan = calloc(1, sizeof(*plan));
	int64_t slice, end;

	if (!plan)
		return parse_fail(p, "out of memory");
	if (!need_words(p, 4))
		return false;
	if (p->prog->park)
		return parse_fail(p, "a plan and a schedule");
	/* What is left of the bound is for a program that goes on without it. */
	if (!get_string(p, p->word[1], &plan->name) ||
	    !get_int(p, p->word[3], 0, p->prog->bound_us / 2, &end) ||
	    !get_int(p, p->word[2], MIN_SLICE_US, p->prog->bound_us, &slice))
		return false;
	plan->slice_us = slice;
	plan->end_us = end;
	p->prog->schedule = plan;
	while (parse_line(p)) {
		bool ok;

		if (!strcmp(p->word[0], "end"))
			return need_words(p, 1);
		ok = strcmp(p->word[0], "rank") ? parse_step(p, plan) : parse_rank(p, plan);
		if (!ok)
			return false;
	}
	return false;
}

struct until_of {
	struct actor *actor;
	unsigned int index;
};

static bool one_until(struct parser *p, const char *name, void *to)
{
	struct until_of *of = to;
	int index = actor_by_name(p->prog, name);

	if (index < 0 || (unsigned int)index == of->index)
		return parse_fail(p, "'%.40s' cannot wait for '%.40s'", of->actor->name, name);
	of->actor->until |= 1ULL << index;
	return true;
}

/* Names of actors may point forward, so they are looked up at the end. */
static bool resolve_names(struct parser *p)
{
	struct program *prog = p->prog;

	for (unsigned int i = 0; i < prog->nactors; i++) {
		struct until_of of = { .actor = &prog->actor[i], .index = i };

		if (!get_list(p, prog->actor[i].until_names, one_until, &of))
			return false;
	}
	for (uint32_t i = 0; i < prog->nnodes; i++) {
		struct node *n = &prog->node[i];

		for (unsigned int a = 0; n->type && a < n->type->nparams; a++) {
			int target;

			if (n->type->param[a].kind != P_ACTOR)
				continue;
			target = actor_by_name(prog, n->arg[a].s);
			if (target < 0)
				return parse_fail(p, "no actor is called '%.40s'", n->arg[a].s);
			n->arg[a].i = target;
			prog->actor[target].killable = true;
		}
	}
	return true;
}

static bool parse_header(struct parser *p)
{
	static const char * const keys[] = { "kmod-program", "name", "seed", "bound_us", "kmemleak" };
	int64_t number;

	for (unsigned int i = 0; i < ARRAY_SIZE(keys); i++) {
		if (!parse_line(p))
			return false;
		if (p->nwords != 2 || strcmp(p->word[0], keys[i]))
			return parse_fail(p, "line is not '%s' and its value", keys[i]);
		switch (i) {
		case 0:
			if (strcmp(p->word[1], "1"))
				return parse_fail(p, "version '%.20s' is not known", p->word[1]);
			break;
		case 1:
			if (!get_string(p, p->word[1], &p->prog->name))
				return false;
			break;
		case 2:
			if (!get_u64(p, p->word[1], &p->prog->seed))
				return false;
			break;
		case 3:
			if (!get_int(p, p->word[1], 1, 3600000000LL, &number))
				return false;
			p->prog->bound_us = number;
			break;
		default:
			if (!get_int(p, p->word[1], 0, 1, &number))
				return false;
			p->prog->kmemleak = number;
		}
	}
	return true;
}

/* `settle_us N`, in few programs; the next line is read when it was there. */
static bool parse_settle(struct parser *p)
{
	int64_t number;

	if (strcmp(p->word[0], "settle_us"))
		return true;
	if (p->nwords != 2)
		return parse_fail(p, "line is not 'settle_us' and its value");
	if (!get_int(p, p->word[1], 1, MAX_SETTLE_US, &number))
		return false;
	p->prog->settle_us = number;
	return parse_line(p);
}

static bool parse_phase(struct parser *p, unsigned int index, const char *name)
{
	struct actor *actor = &p->prog->actor[index];

	if (p->nwords != 1 || strcmp(p->word[0], name))
		return parse_fail(p, "'%.40s' where '%s' should be", p->word[0], name);
	actor->repeat = 1;
	if (!get_string(p, name, &actor->name) || !get_string(p, name, &actor->place))
		return false;
	return parse_body(p, actor);
}

static bool parse_all(struct parser *p)
{
	if (!parse_header(p) || !parse_line(p) || !parse_settle(p) ||
	    !parse_phase(p, ACTOR_SETUP, "setup"))
		return false;
	while (parse_line(p) && !strcmp(p->word[0], "actor")) {
		if (!parse_actor(p))
			return false;
	}
	if (!p->failed && !strcmp(p->word[0], "park") && (!parse_park(p) || !parse_line(p)))
		return false;
	if (!p->failed && !strcmp(p->word[0], "schedule") &&
	    (!parse_schedule(p) || !parse_line(p)))
		return false;
	if (p->failed || !parse_phase(p, ACTOR_TEARDOWN, "teardown"))
		return false;
	if (p->prog->actor[ACTOR_SETUP].barriers || p->prog->actor[ACTOR_TEARDOWN].barriers ||
	    p->prog->actor[ACTOR_UNLOADER].barriers)
		return parse_fail(p, "a barrier outside the actors");
	if (p->next != p->end)
		return parse_fail(p, "text after the end of the program");
	return resolve_names(p);
}

/* The result lives until the process ends, as does what a failure leaves. */
struct program *program_parse(const char *text, size_t len, struct parse_error *err)
{
	struct parser p = { .err = err };
	bool ok = false;

	err->line = 0;
	err->why[0] = '\0';
	p.prog = calloc(1, sizeof(*p.prog));
	p.text = malloc(len + 1);
	if (p.prog)
		p.prog->node = calloc(MAX_NODES, sizeof(*p.prog->node));
	if (!p.prog || !p.text || !p.prog->node) {
		parse_fail(&p, "out of memory");
	} else if (len > MAX_PROGRAM) {
		parse_fail(&p, "%zu bytes of program, more than %d", len, MAX_PROGRAM);
	} else {
		memcpy(p.text, text, len);
		p.text[len] = '\0';
		p.next = p.text;
		p.end = p.text + len;
		ok = parse_all(&p);
	}
	free(p.text);
	free(p.raw);
	return ok ? p.prog : NULL;
}
