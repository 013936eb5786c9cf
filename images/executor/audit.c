// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the kernel shows of itself, before and after: sets of lines, and which
 * of them appeared or vanished. What that means is judged outside.
 *
 * The audit file has one line for each thing to read: `section kind path`, and
 * for `tree` any number of paths to leave out. Kinds:
 *   lines     all lines of a file
 *   first     the first word of each line of a file
 *   words     all words of a file
 *   names     the names in a directory, numbers (the tasks in /proc) left out
 *   tree      all paths below a directory, on its own filesystem only
 *   kthreads  names of kernel threads (path is not used)
 *   orphans   from /proc/vmallocinfo, who asked for memory and has no name any more
 *   slabs     names of slab caches (path is /sys/kernel/slab or /proc/slabinfo)
 * `quiet-` before a kind: no survey tells it. A module may have hundreds of such
 * things, and nobody comes into it by them.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "executor.h"

#define MAX_SECTIONS	48
#define MAX_SKIPS	8
#define QUIET		"quiet-"
#define MAX_TOLD	100	/* lines told per section */
#define RECHECKS	20
#define RECHECK_US	10000
#define MAX_WALK	24	/* directories below one another */
#define WALK_BYTES	16384
#define WALK_FLAGS	(O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
#define PF_KTHREAD	0x00200000	/* include/linux/sched.h */

struct lines {
	char *text;		/* NUL-terminated strings, one after another */
	size_t len, room;
	const char **sorted;
	size_t n;
};

struct section {
	char *name, *path;
	void (*read)(const struct section *section, struct lines *to);
	char *skip[MAX_SKIPS];
	unsigned int nskips;
	bool quiet;		/* of surveys */
	struct lines baseline;
};

static struct section sections[MAX_SECTIONS];
static unsigned int nsections;

static void *must(void *memory)
{
	if (!memory) {
		ev_begin("trouble");
		ev_str("what", "audit: out of memory");
		ev_end_always();
		_exit(3);
	}
	return memory;
}

static void add(struct lines *to, const char *line, size_t len)
{
	if (to->len + len + 1 > to->room) {
		to->room = (to->room + len + 1) * 2;
		to->text = must(realloc(to->text, to->room));
	}
	memcpy(to->text + to->len, line, len);
	to->text[to->len + len] = '\0';
	to->len += len + 1;
	to->n++;
}

static void drop(struct lines *lines)
{
	free(lines->text);
	free(lines->sorted);
	memset(lines, 0, sizeof(*lines));
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(const char * const *)a, *(const char * const *)b);
}

/* Sorted and without repetition: sets, as the comparison wants them. */
static void settle(struct lines *lines)
{
	const char *line = lines->text;
	size_t kept = 0;

	lines->sorted = must(malloc((lines->n + 1) * sizeof(*lines->sorted)));
	for (size_t i = 0; i < lines->n; i++, line += strlen(line) + 1)
		lines->sorted[i] = line;
	qsort(lines->sorted, lines->n, sizeof(*lines->sorted), compare);
	for (size_t i = 0; i < lines->n; i++) {
		if (!kept || strcmp(lines->sorted[kept - 1], lines->sorted[i]))
			lines->sorted[kept++] = lines->sorted[i];
	}
	lines->n = kept;
}

static void each_line(const char *path, struct lines *to, bool first_word, unsigned int header)
{
	FILE *file = fopen(path, "re");
	char *line = NULL;
	size_t room = 0;
	ssize_t len;

	if (!file)
		return;
	while ((len = getline(&line, &room, file)) > 0) {
		if (header) {
			header--;
			continue;
		}
		if (line[len - 1] == '\n')
			line[--len] = '\0';
		add(to, line, first_word ? strcspn(line, " \t") : (size_t)len);
	}
	free(line);
	fclose(file);
}

static void read_lines(const struct section *section, struct lines *to)
{
	each_line(section->path, to, false, 0);
}

static void read_words(const struct section *section, struct lines *to)
{
	FILE *file = fopen(section->path, "re");
	char word[128];

	if (!file)
		return;
	while (fscanf(file, "%127s", word) == 1)
		add(to, word, strlen(word));
	fclose(file);
}

static void read_first(const struct section *section, struct lines *to)
{
	each_line(section->path, to, true, 0);
}

/*
 * `0xfrom-0xto size caller ...`: the kernel prints a caller without a symbol, which is
 * code that has been unloaded, as a bare address.
 */
static void read_orphans(const struct section *section, struct lines *to)
{
	FILE *file = fopen(section->path, "re");
	char line[512], caller[64];

	if (!file)
		return;
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%*s %*s %63s", caller) == 1 && !strncmp(caller, "0x", 2))
			add(to, caller, strlen(caller));
	}
	fclose(file);
}

static bool is_dots(const char *name)
{
	return !strcmp(name, ".") || !strcmp(name, "..");
}

static bool is_number(const char *name)
{
	return !name[strspn(name, "0123456789")];
}

static void read_names(const struct section *section, struct lines *to)
{
	DIR *dir = opendir(section->path);
	struct dirent *entry;

	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		if (!is_dots(entry->d_name) && !is_number(entry->d_name))
			add(to, entry->d_name, strlen(entry->d_name));
	}
	closedir(dir);
}

static void read_slabs(const struct section *section, struct lines *to)
{
	/* Version and column names come first in /proc/slabinfo. */
	if (strstr(section->path, "slabinfo"))
		each_line(section->path, to, true, 2);
	else
		read_names(section, to);
}

static bool is_skipped(const struct section *section, const char *path)
{
	for (unsigned int i = 0; i < section->nskips; i++) {
		if (!strcmp(section->skip[i], path))
			return true;
	}
	return false;
}

/*
 * A walk is most of what an audit costs, and it costs emulated instructions:
 * each directory is opened from the one above, read with a large buffer, and
 * nothing is asked about its entries.
 */
struct walk {
	const struct section *section;
	struct lines *to;
	dev_t dev;
	size_t len;
	char path[PATH_MAX];
};

static void walk(struct walk *w, int dir, unsigned int depth);

static void walk_entry(struct walk *w, int dir, const struct dirent64 *entry, unsigned int depth)
{
	size_t len = w->len, name = strlen(entry->d_name);
	int below;

	if (is_dots(entry->d_name) || len + name + 2 > sizeof(w->path))
		return;
	w->path[len] = '/';
	memcpy(w->path + len + 1, entry->d_name, name + 1);
	w->len += name + 1;
	if (!is_skipped(w->section, w->path)) {
		add(w->to, w->path, w->len);
		if (entry->d_type == DT_DIR && depth < MAX_WALK) {
			below = openat(dir, entry->d_name, WALK_FLAGS);
			if (below >= 0)
				walk(w, below, depth + 1);
		}
	}
	w->len = len;
	w->path[len] = '\0';
}

/* Closes @dir. Other filesystems mounted below have sections of their own. */
static void walk(struct walk *w, int dir, unsigned int depth)
{
	static char buf[MAX_WALK + 1][WALK_BYTES];
	struct stat st;
	ssize_t len;

	if (fstat(dir, &st) || st.st_dev != w->dev) {
		close(dir);
		return;
	}
	while ((len = syscall(SYS_getdents64, dir, buf[depth], WALK_BYTES)) > 0) {
		for (ssize_t at = 0; at < len; ) {
			const struct dirent64 *entry = (const void *)(buf[depth] + at);

			walk_entry(w, dir, entry, depth);
			at += entry->d_reclen;
		}
	}
	close(dir);
}

static void read_tree(const struct section *section, struct lines *to)
{
	struct walk w = { .section = section, .to = to };
	struct stat st;
	int dir = open(section->path, WALK_FLAGS);

	if (dir < 0)
		return;
	if (!fstat(dir, &st)) {
		w.dev = st.st_dev;
		copy_name(w.path, sizeof(w.path), section->path);
		w.len = strlen(w.path);
		walk(&w, dir, 0);
	} else {
		close(dir);
	}
}

/*
 * Pool workers come and go with the load and are nobody's; a rescuer belongs
 * to a workqueue (kworker/R-NAME since 6.9, plain NAME before).
 */
static void add_kthread(struct lines *to, const char *comm, size_t len)
{
	if (!strncmp(comm, "kworker/", 8) && strncmp(comm, "kworker/R-", 10))
		add(to, "kworker", 7);
	else
		add(to, comm, len);
}

/* /proc/PID/stat: pid (comm) state ppid pgrp session tty tpgid flags */
static void read_kthreads(const struct section *section, struct lines *to)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	char path[300], stat[512];
	char *open, *close;
	unsigned long flags;

	(void)section;
	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
			continue;
		snprintf(path, sizeof(path), "/proc/%s/stat", entry->d_name);
		if (read_file(path, stat, sizeof(stat)) <= 0)
			continue;
		open = strchr(stat, '(');
		close = strrchr(stat, ')');
		if (!open || !close)
			continue;
		if (sscanf(close + 1, " %*c %*d %*d %*d %*d %*d %lu", &flags) == 1 &&
		    flags & PF_KTHREAD)
			add_kthread(to, open + 1, close - open - 1);
	}
	closedir(dir);
}

static const struct {
	const char *name;
	void (*read)(const struct section *section, struct lines *to);
} kinds[] = {
	{ "lines", read_lines }, { "first", read_first }, { "names", read_names },
	{ "tree", read_tree }, { "kthreads", read_kthreads }, { "slabs", read_slabs },
	{ "orphans", read_orphans }, { "words", read_words },
};

static bool load_section(char *line)
{
	struct section *section = &sections[nsections];
	char *name = strtok(line, " \t\n"), *kind, *path, *skip;

	if (!name || *name == '#')
		return true;
	kind = strtok(NULL, " \t\n");
	path = strtok(NULL, " \t\n");
	if (!path || nsections == MAX_SECTIONS)
		return false;
	section->quiet = !strncmp(kind, QUIET, strlen(QUIET));
	if (section->quiet)
		kind += strlen(QUIET);
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (!strcmp(kinds[i].name, kind))
			section->read = kinds[i].read;
	}
	while ((skip = strtok(NULL, " \t\n"))) {
		if (section->nskips == MAX_SKIPS)
			return false;
		section->skip[section->nskips++] = must(strdup(skip));
	}
	if (!section->read)
		return false;
	section->name = must(strdup(name));
	section->path = must(strdup(path));
	nsections++;
	return true;
}

/* 0, or the number of the line that is wrong, or -1 without the file. */
int audit_load(const char *path)
{
	FILE *file = fopen(path, "re");
	char *line = NULL;
	int number = 0, bad = 0;
	size_t room = 0;

	if (!file)
		return -1;
	while (!bad && getline(&line, &room, file) > 0) {
		number++;
		if (!load_section(line))
			bad = number;
	}
	free(line);
	fclose(file);
	return bad;
}

void audit_baseline(void)
{
	for (unsigned int i = 0; i < nsections; i++) {
		uint64_t start = now_us();

		drop(&sections[i].baseline);
		sections[i].read(&sections[i], &sections[i].baseline);
		settle(&sections[i].baseline);
		/* Every trial pays this again, so it should be known what costs. */
		ev_begin("baseline");
		ev_str("path", sections[i].path);
		ev_u64("lines", sections[i].baseline.n);
		ev_u64("us", now_us() - start);
		ev_end();
	}
}

static void tell_line(const struct section *section, const char *sign, const char *line)
{
	ev_begin("residue");
	ev_str("section", section->name);
	ev_str("sign", sign);
	ev_strn("line", line, strnlen(line, 512));
	ev_end();
}

typedef void (*change_fn)(const struct section *section, const char *sign, const char *line);

/*
 * Walks both sorted sets at once; counts what is only in one of them, and hands the
 * first MAX_TOLD of it to @each.
 */
static unsigned int differ(const struct section *section, const struct lines *now, change_fn each)
{
	const struct lines *old = &section->baseline;
	unsigned int count = 0;
	size_t i = 0, j = 0;

	while (i < old->n || j < now->n) {
		int order = i == old->n ? 1 : j == now->n ? -1 :
			    strcmp(old->sorted[i], now->sorted[j]);

		if (order) {
			if (each && count < MAX_TOLD)
				each(section, order < 0 ? "-" : "+",
				     order < 0 ? old->sorted[i] : now->sorted[j]);
			count++;
		}
		i += order <= 0;
		j += order >= 0;
	}
	return count;
}

static unsigned int differ_only(const struct section *section, const struct lines *now)
{
	return differ(section, now, NULL);
}

static unsigned int differ_and_tell(const struct section *section, const struct lines *now)
{
	unsigned int count = differ(section, now, tell_line);

	if (count > MAX_TOLD) {
		ev_begin("residue-cut");
		ev_str("section", section->name);
		ev_u64("more", count - MAX_TOLD);
		ev_end();
	}
	return count;
}

/*
 * Some things are released by work items and RCU callbacks a little after
 * unload has returned: a difference counts when it stays for 200 ms.
 */
void audit_compare(void)
{
	uint64_t start = now_us();
	unsigned int rechecks = 0, empty = 0;
	size_t lines = 0;

	for (unsigned int i = 0; i < nsections; i++) {
		for (;;) {
			struct lines now = { };
			bool last = rechecks == RECHECKS;

			sections[i].read(&sections[i], &now);
			settle(&now);
			if (!(last ? differ_and_tell : differ_only)(&sections[i], &now) || last) {
				lines += now.n;
				empty += !now.n;
				drop(&now);
				break;
			}
			drop(&now);
			rechecks++;
			sleep_us(RECHECK_US);
		}
	}
	ev_begin("audited");
	ev_u64("sections", nsections);
	ev_u64("empty", empty);
	ev_u64("lines", lines);
	ev_u64("rechecks", rechecks);
	ev_u64("took_us", now_us() - start);
	ev_end();
}

static void survey_line(const struct section *section, const char *sign, const char *line)
{
	char path[PATH_MAX];

	if (*sign != '+')
		return;
	/* A name alone stands for all that is below it, which no audit reads. */
	if (section->read == read_names) {
		snprintf(path, sizeof(path), "%s/%s", section->path, line);
		survey_tree(section->name, path);
	} else if (*line == '/') {
		survey_path(section->name, line);
	} else {
		survey_note(section->name, line, 0, 0);
	}
}

/* What there is now and was not at the baseline. */
void audit_survey(void)
{
	for (unsigned int i = 0; i < nsections; i++) {
		struct lines now = { };
		unsigned int count;

		if (sections[i].quiet)
			continue;
		sections[i].read(&sections[i], &now);
		settle(&now);
		count = differ(&sections[i], &now, survey_line);
		if (count > MAX_TOLD)
			survey_cut(count - MAX_TOLD);
		drop(&now);
	}
}
