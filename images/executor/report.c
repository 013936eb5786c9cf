// SPDX-License-Identifier: GPL-2.0-only
/*
 * The report: one JSON object per line, written at once, never more than
 * REPORT_BYTES in all apart from the few events that always come. The count is
 * kept in shared memory because forked helpers report too.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "executor.h"

#define LINE_BYTES	16384
/* What ends a line however full it is: quotes, braces, newline. */
#define LINE_RESERVE	64

static struct report_state local_state;
static struct report_state *state = &local_state;
static char line[LINE_BYTES];
static size_t len;
static bool first;

void report_use(struct report_state *use)
{
	state = use;
}

static size_t room(void)
{
	return len + LINE_RESERVE < LINE_BYTES ? LINE_BYTES - LINE_RESERVE - len : 0;
}

__attribute__((format(printf, 1, 2)))
static void put(const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line + len, LINE_BYTES - len, fmt, ap);
	va_end(ap);
	if (n > 0)
		len += n;
}

static bool key_fits(const char *key)
{
	if (room() < strlen(key) + 40)
		return false;
	put("%s\"%s\":", first ? "" : ",", key);
	first = false;
	return true;
}

/* Bytes above 0x7f become the code point of the same number: still JSON. */
static void put_escaped(const char *value, size_t n)
{
	line[len++] = '"';
	for (size_t i = 0; i < n && room() > 8; i++) {
		unsigned char ch = value[i];

		if (ch == '"' || ch == '\\')
			put("\\%c", ch);
		else if (ch == '\n')
			put("\\n");
		else if (ch < 0x20 || ch >= 0x7f)
			put("\\u%04x", ch);
		else
			line[len++] = ch;
	}
	line[len++] = '"';
}

void ev_begin(const char *event)
{
	len = 0;
	first = true;
	put("{");
	ev_str("ev", event);
}

void ev_strn(const char *key, const char *value, size_t n)
{
	if (key_fits(key))
		put_escaped(value, n);
}

void ev_str(const char *key, const char *value)
{
	ev_strn(key, value, strlen(value));
}

void ev_hex(const char *key, const unsigned char *value, size_t n)
{
	if (!key_fits(key))
		return;
	put("\"");
	for (size_t i = 0; i < n && room() > 8; i++)
		put("%02x", value[i]);
	put("\"");
}

void ev_u64(const char *key, uint64_t value)
{
	if (key_fits(key))
		put("%llu", (unsigned long long)value);
}

void ev_int(const char *key, int64_t value)
{
	if (key_fits(key))
		put("%lld", (long long)value);
}

void ev_addr(const char *key, uint64_t value)
{
	if (key_fits(key))
		put("\"0x%llx\"", (unsigned long long)value);
}

void ev_bool(const char *key, bool value)
{
	if (key_fits(key))
		put(value ? "true" : "false");
}

void ev_results(const char *key, const struct result_set *set)
{
	const char *sep = "";

	if (!key_fits(key))
		return;
	put("[");
	if (set->any) {
		put("\"any\"");
	} else {
		for (int res = 0; res < RES_MAX && room() > 40; res++) {
			if (!result_has(set, res))
				continue;
			put("%s\"%s\"", sep, result_name(res));
			sep = ",";
		}
	}
	put("]");
}

void ev_object(const char *key)
{
	if (!key_fits(key))
		return;
	put("{");
	first = true;
}

void ev_object_end(void)
{
	put("}");
	first = false;
}

/* For the events without which a report means nothing. */
void ev_end_always(void)
{
	put("}\n");
	atomic_fetch_add(&state->used, len);
	channel_write(line, len);
}

void ev_end(void)
{
	put("}\n");
	if (atomic_load(&state->truncated))
		return;
	if (atomic_fetch_add(&state->used, len) + len > REPORT_BYTES) {
		atomic_store(&state->truncated, 1);
		ev_begin("truncated");
		ev_u64("limit", REPORT_BYTES);
		ev_end_always();
		return;
	}
	channel_write(line, len);
}
