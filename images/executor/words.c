// SPDX-License-Identifier: GPL-2.0-only
/*
 * Lines, words and numbers of a program text.
 *
 * Words are separated by one space; inside a word every byte outside
 * 0x21..0x7e, and '%', is %XX; the empty word is a single '%'.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "executor.h"

bool parse_fail(struct parser *p, const char *fmt, ...)
{
	va_list ap;

	if (p->failed)
		return false;
	p->failed = true;
	va_start(ap, fmt);
	vsnprintf(p->err->why, sizeof(p->err->why), fmt, ap);
	va_end(ap);
	return false;
}

static int hex_digit(char ch)
{
	if (ch >= '0' && ch <= '9')
		return ch - '0';
	if (ch >= 'A' && ch <= 'F')
		return ch - 'A' + 10;
	return -1;
}

static bool decode_word(struct parser *p, char *word)
{
	char *to = word;

	if (!strcmp(word, "%")) {
		*word = '\0';
		return true;
	}
	for (const char *from = word; *from; from++) {
		if (*from != '%') {
			*to++ = *from;
			continue;
		}
		int high = hex_digit(from[1]);
		int low = high < 0 ? -1 : hex_digit(from[2]);

		if (low < 0 || (!high && !low))
			return parse_fail(p, "bad percent code in a word");
		*to++ = high << 4 | low;
		from += 2;
	}
	*to = '\0';
	return true;
}

/* Splits the next line into words; false at the end of the text or on error. */
bool parse_line(struct parser *p)
{
	char *line = p->next, *stop;

	p->nwords = 0;
	p->err->line++;
	if (line == p->end)
		return parse_fail(p, "the text ends too early");
	stop = memchr(line, '\n', p->end - line);
	if (!stop)
		return parse_fail(p, "the last line has no newline");
	*stop = '\0';
	p->next = stop + 1;
	for (char *ch = line; ch < stop; ch++) {
		if ((unsigned char)*ch < 0x20 || (unsigned char)*ch > 0x7e)
			return parse_fail(p, "byte 0x%02x in the text", (unsigned char)*ch);
	}
	free(p->raw);
	p->raw = strdup(line);
	if (!p->raw)
		return parse_fail(p, "out of memory");
	for (char *word = line; word; ) {
		char *space = strchr(word, ' ');

		if (space)
			*space = '\0';
		if (!*word)
			return parse_fail(p, "empty line, or more than one space");
		if (p->nwords == MAX_WORDS)
			return parse_fail(p, "more than %d words", MAX_WORDS);
		p->word[p->nwords++] = word;
		word = space ? space + 1 : NULL;
	}
	for (unsigned int i = 0; i < p->nwords; i++) {
		if (!decode_word(p, p->word[i]))
			return false;
	}
	return true;
}

bool need_words(struct parser *p, unsigned int n)
{
	if (p->nwords != n)
		return parse_fail(p, "'%.40s' line has %u words, not %u", p->word[0], p->nwords, n);
	return true;
}

bool get_u64(struct parser *p, const char *word, uint64_t *value)
{
	char *end;

	errno = 0;
	*value = strtoull(word, &end, 10);
	if (word[0] < '0' || word[0] > '9' || *end || errno || (word[0] == '0' && word[1]))
		return parse_fail(p, "'%.40s' is not a number", word);
	return true;
}

bool get_int(struct parser *p, const char *word, int64_t low, int64_t high, int64_t *value)
{
	bool negative = word[0] == '-';
	uint64_t size;

	if (!get_u64(p, word + negative, &size))
		return false;
	if (size > INT64_MAX || (negative && !size))
		return parse_fail(p, "'%.40s' is out of range", word);
	*value = negative ? -(int64_t)size : (int64_t)size;
	if (*value < low || *value > high)
		return parse_fail(p, "%lld is not in %lld..%lld", (long long)*value,
			    (long long)low, (long long)high);
	return true;
}

bool get_mode(struct parser *p, const char *word, int64_t *value)
{
	char *end;

	*value = strtol(word, &end, 8);
	if (word[0] != '0' || strlen(word) != 4 || *end)
		return parse_fail(p, "'%.40s' is not a mode such as 0644", word);
	return true;
}

/* Comma-separated words, '-' for none; each is handed to @one. */
bool get_list(struct parser *p, const char *word,
		     bool (*one)(struct parser *p, const char *name, void *to), void *to)
{
	char name[NAME_LEN];

	if (!strcmp(word, "-"))
		return true;
	for (;;) {
		size_t len = strcspn(word, ",");

		if (!len || len >= sizeof(name))
			return parse_fail(p, "bad list '%.40s'", word);
		memcpy(name, word, len);
		name[len] = '\0';
		if (!one(p, name, to))
			return false;
		if (!word[len])
			return true;
		word += len + 1;
	}
}

static bool one_result(struct parser *p, const char *name, void *to)
{
	int res = result_by_name(name);

	if (res < 0)
		return parse_fail(p, "no result is called '%.40s'", name);
	result_add(to, res);
	return true;
}

bool get_results(struct parser *p, const char *word, struct result_set *set)
{
	if (!strcmp(word, "any")) {
		set->any = true;
		return true;
	}
	return get_list(p, word, one_result, set);
}

struct flag_sum {
	const struct flag *table;
	int64_t value;
};

static bool one_flag(struct parser *p, const char *name, void *to)
{
	struct flag_sum *sum = to;

	for (const struct flag *flag = sum->table; flag->name; flag++) {
		if (!strcmp(flag->name, name)) {
			sum->value |= flag->value;
			return true;
		}
	}
	return parse_fail(p, "no flag is called '%.40s'", name);
}

bool get_flags(struct parser *p, const char *word, const struct flag *table, int64_t *value)
{
	struct flag_sum sum = { .table = table };

	if (!get_list(p, word, one_flag, &sum))
		return false;
	*value = sum.value;
	return true;
}

bool get_choice(struct parser *p, const char *word, const struct flag *table,
		       int64_t *value)
{
	for (; table->name; table++) {
		if (!strcmp(table->name, word)) {
			*value = table->value;
			return true;
		}
	}
	return parse_fail(p, "no choice is called '%.40s'", word);
}

bool get_string(struct parser *p, const char *word, char **to)
{
	*to = strdup(word);
	return *to ? true : parse_fail(p, "out of memory");
}
