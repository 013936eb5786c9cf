// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a module exposes: lines of the audit that were not there at the baseline,
 * with the mode and the number of what is a file. The op runs in an actor, which
 * may not write to the report: what it finds waits in shared memory for the agent.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "executor.h"

#define MAX_THINGS	400	/* of one survey */
#define MAX_LINE	512
#define MAX_FDS		16

static const char *label, *in_section;
static unsigned int things;

static size_t put(char *to, size_t room, const char *text)
{
	size_t len = strnlen(text, MAX_LINE);

	if (len >= room)
		return 0;
	memcpy(to, text, len);
	to[len] = '\0';
	return len + 1;
}

void survey_cut(unsigned int more)
{
	atomic_fetch_add(&shared->survey.cut, more);
}

void survey_note(const char *section, const char *line, unsigned int mode, unsigned long rdev)
{
	char modes[16], number[32] = "";
	const char *words[] = { label, section, modes, number, line };
	struct survey_state *state = &shared->survey;
	uint32_t len = atomic_load(&state->len);

	snprintf(modes, sizeof(modes), "%o", mode);
	if (rdev)
		snprintf(number, sizeof(number), "%u:%u", major(rdev), minor(rdev));
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		size_t more = put(state->text + len, sizeof(state->text) - len, words[i]);

		if (!more || things >= MAX_THINGS) {
			survey_cut(1);
			return;
		}
		len += more;
	}
	things++;
	/* Published last: the agent reads what is below. */
	atomic_store(&state->len, len);
}

void survey_path(const char *section, const char *path)
{
	struct stat st;

	if (!lstat(path, &st))
		survey_note(section, path, st.st_mode, st.st_rdev);
}

static int each_below(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)type;
	(void)at;
	survey_note(in_section, path, st->st_mode, st->st_rdev);
	return 0;
}

/* Other filesystems that are mounted below are not entered. */
void survey_tree(const char *section, const char *path)
{
	in_section = section;
	nftw(path, each_below, MAX_FDS, FTW_PHYS | FTW_MOUNT);
}

int op_survey(struct ctx *c, const struct node *n)
{
	(void)c;
	if (atomic_exchange(&shared->survey.busy, 1))
		return EBUSY;
	label = n->arg[0].s;
	things = 0;
	audit_survey();
	atomic_store(&shared->survey.busy, 0);
	return 0;
}
