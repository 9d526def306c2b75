/* SPDX-License-Identifier: Apache-2.0 */
/* The names of the headers that carry a trace context. */
#ifndef LAYERTRACE_NAMES_H
#define LAYERTRACE_NAMES_H

#include "text.h"
#include "formats.h"

#define TRACEPARENT LITERAL("traceparent")
#define TRACESTATE LITERAL("tracestate") /* not among the names: it follows a traceparent */

#define FORMATS (sizeof(formats) / sizeof(formats[0]))
#define ALL_FORMATS ((1U << FORMATS) - 1)

/* names are those of some formats, and further ones. */
struct names {
	u32 formats;	     /* a bit for each of formats[] */
	struct buffer extra; /* names in lower case, each after its length (u32) */
	u32 extra_len;
	u32 begins[256 / 32]; /* bits of the bytes that one of them begins with */
};

static u32 number(const u8 *at)
{
	u32 n;

	__builtin_memcpy(&n, at, sizeof(n));
	return n;
}

static void begins_with(struct names *names, u8 c)
{
	names->begins[c / 32] |= 1U << c % 32;
}

/* choose_formats replaces the names by those of some formats. */
static void choose_formats(struct names *names, u32 chosen)
{
	names->formats = chosen;
	for (u32 i = 0; i < sizeof(headers) / sizeof(headers[0]); i++) {
		if (chosen >> headers[i].format & 1)
			begins_with(names, headers[i].name.at[0]);
	}
}

/* add_name adds a name of at least one byte, for which extra has room. */
static void add_name(struct names *names, struct bytes name)
{
	u8 *to = (u8 *)names->extra.at + names->extra_len;

	__builtin_memcpy(to, &name.len, sizeof(name.len));
	for (u32 i = 0; i < name.len; i++)
		to[sizeof(name.len) + i] = lower(name.at[i]);
	names->extra_len += sizeof(name.len) + name.len;
	begins_with(names, lower(name.at[0]));
}

/* is_trace_header reports whether a header of this name carries a trace context by itself. */
static bool is_trace_header(const struct names *names, struct bytes name)
{
	u8 c;

	if (!name.len)
		return false;
	c = lower(name.at[0]);
	if (!(names->begins[c / 32] >> c % 32 & 1))
		return false;
	for (u32 i = 0; i < sizeof(headers) / sizeof(headers[0]); i++) {
		struct bytes known = headers[i].name;

		if (!(names->formats >> headers[i].format & 1))
			continue;
		if (!headers[i].prefix ?
			    equal_fold(name, known) :
			    name.len > known.len &&
				    equal_fold((struct bytes){name.at, known.len}, known))
			return true;
	}
	for (u32 at = 0; at < names->extra_len;) {
		const u8 *entry = (const u8 *)names->extra.at + at;
		struct bytes extra = {entry + sizeof(u32), number(entry)};

		if (equal_fold(name, extra))
			return true;
		at += sizeof(u32) + extra.len;
	}
	return false;
}

#endif
