// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a module exposes: lines of the audit that were not there at the baseline,
 * with the mode and the number of what is a file; and sockets. The op runs in an actor, which
 * may not write to the report: what it finds waits in shared memory for the agent.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <ftw.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "executor.h"

#define MAX_THINGS	400	/* of one survey */
#define MAX_LINE	512
#define MAX_FDS		16
#define FAMILIES	64	/* more than the kernel has; include/linux/socket.h, AF_MAX */
#define MAX_PROTOCOLS	512

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

static bool begin(const char *name)
{
	if (atomic_exchange(&shared->survey.busy, 1))
		return false;
	label = name;
	things = 0;
	return true;
}

int op_survey(struct ctx *c, const struct node *n)
{
	(void)c;
	if (!begin(n->arg[0].s))
		return EBUSY;
	audit_survey();
	atomic_store(&shared->survey.busy, 0);
	return 0;
}

/* False when nobody has this family: then no other type has to be tried. */
static bool try_socket(int family, const struct flag *type, int protocol)
{
	int fd = syscall(SYS_socket, family, type->value | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
	char line[64];

	if (fd < 0)
		return errno != EAFNOSUPPORT;
	close(fd);
	snprintf(line, sizeof(line), "%d %s %d", family, type->name, protocol);
	survey_note("socket", line, 0, 0);
	return true;
}

static void try_family(int family, int protocols)
{
	bool internet = family == AF_INET || family == AF_INET6;

	for (const struct flag *type = type_choice; type->name; type++) {
		/* Raw sockets are of any protocol, whether somebody knows it or not. */
		if (internet && type->value == SOCK_RAW)
			continue;
		for (int protocol = 0; protocol < protocols; protocol++) {
			if (!try_socket(family, type, protocol))
				return;
		}
	}
}

/*
 * Which sockets can be opened, lines `FAMILY TYPE PROTOCOL`: no file says what
 * families and types a name in /proc/net/protocols stands for, so they are tried.
 */
int op_survey_sockets(struct ctx *c, const struct node *n)
{
	int family = n->arg[1].i, protocols = n->arg[2].i;

	(void)c;
	if (family >= FAMILIES || protocols > MAX_PROTOCOLS)
		return EINVAL;
	if (!begin(n->arg[0].s))
		return EBUSY;
	for (int each = 1; each < FAMILIES; each++) {
		if (!family || each == family)
			try_family(each, protocols);
	}
	atomic_store(&shared->survey.busy, 0);
	return 0;
}
