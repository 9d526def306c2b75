/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* One line of a request head: is it a trace header, and what does it say? */
#ifndef LAYERTRACE_HEADER_LINE_H
#define LAYERTRACE_HEADER_LINE_H

#include "trace_context.h"

#define EXTRA_NAMES_MAX 4
#define EXTRA_NAME_MAX 32

/* A configured header name: lower case, with its colon, and the format. */
struct extra_name {
	__u8 len;
	__u8 format;
	__u8 pad[6];
	__u8 name[EXTRA_NAME_MAX];
};

const volatile __u32 extra_names_len;
const volatile struct extra_name extra_names[EXTRA_NAMES_MAX];

/* clang-format off */
/* Eight characters as the little-endian word that text64 reads. */
#define WORD(a, b, c, d, e, f, g, h)                                                   \
	((__u64)(a) | (__u64)(b) << 8 | (__u64)(c) << 16 | (__u64)(d) << 24 |          \
	 (__u64)(e) << 32 | (__u64)(f) << 40 | (__u64)(g) << 48 | (__u64)(h) << 56)
/* The same with case. */
#define MATCHES_EXACT(text, n, ...) ((((text) ^ WORD(__VA_ARGS__)) << (8 * (8 - (n)))) == 0)
#define CASE_BIT(c) ((c) >= 'a' && (c) <= 'z' ? 0x20 : 0)

/* Whether the characters of text are the n given ones; letters, given in lower
 * case, match in both cases, and nothing else does.
 */
#define MATCHES(text, n, a, b, c, d, e, f, g, h)                                       \
	(((((text) ^ WORD(a, b, c, d, e, f, g, h)) &                                   \
	   ~WORD(CASE_BIT(a), CASE_BIT(b), CASE_BIT(c), CASE_BIT(d), CASE_BIT(e),      \
		 CASE_BIT(f), CASE_BIT(g), CASE_BIT(h)))                               \
	  << (8 * (8 - (n)))) == 0)

/* clang-format on */

enum header {
	HEADER_OTHER,
	HEADER_TRACEPARENT,
	HEADER_B3,
	HEADER_UBER_TRACE_ID,
	HEADER_SW8,
	/* x-b3-*: from here ... */
	HEADER_B3_OTHER,
	HEADER_B3_TRACE_ID,
	HEADER_B3_SPAN_ID,
	HEADER_B3_SAMPLED,
	HEADER_B3_FLAGS,
	/* ... to here; x-datadog-*: the rest */
	HEADER_DATADOG_OTHER,
	HEADER_DATADOG_TRACE_ID,
	HEADER_DATADOG_PARENT_ID,
	HEADER_DATADOG_PRIORITY,
};

struct name {
	__u32 header;
	__u32 len; /* with the colon */
};

static __always_inline struct name b3_name(const struct scratch *s, __u32 off)
{
	__u64 rest = text64(s, off + 5);

	if (MATCHES(rest, 8, 't', 'r', 'a', 'c', 'e', 'i', 'd', ':'))
		return (struct name){HEADER_B3_TRACE_ID, 13};
	if (MATCHES(rest, 7, 's', 'p', 'a', 'n', 'i', 'd', ':', 0))
		return (struct name){HEADER_B3_SPAN_ID, 12};
	if (MATCHES(rest, 8, 's', 'a', 'm', 'p', 'l', 'e', 'd', ':'))
		return (struct name){HEADER_B3_SAMPLED, 13};
	if (MATCHES(rest, 6, 'f', 'l', 'a', 'g', 's', ':', 0, 0))
		return (struct name){HEADER_B3_FLAGS, 11};
	return (struct name){HEADER_B3_OTHER, 0};
}

static __always_inline struct name datadog_name(const struct scratch *s, __u32 off)
{
	__u64 rest = text64(s, off + 10), more = text64(s, off + 18);

	if (MATCHES(rest, 8, 't', 'r', 'a', 'c', 'e', '-', 'i', 'd') && (more & 0xff) == ':')
		return (struct name){HEADER_DATADOG_TRACE_ID, 19};
	if (MATCHES(rest, 8, 'p', 'a', 'r', 'e', 'n', 't', '-', 'i') &&
	    MATCHES(more, 2, 'd', ':', 0, 0, 0, 0, 0, 0))
		return (struct name){HEADER_DATADOG_PARENT_ID, 20};
	if (MATCHES(rest, 8, 's', 'a', 'm', 'p', 'l', 'i', 'n', 'g') &&
	    MATCHES(more, 8, '-', 'p', 'r', 'i', 'o', 'r', 'i', 't') &&
	    MATCHES(text64(s, off + 26), 2, 'y', ':', 0, 0, 0, 0, 0, 0))
		return (struct name){HEADER_DATADOG_PRIORITY, 28};
	return (struct name){HEADER_DATADOG_OTHER, 0};
}

static __always_inline struct name extra_name(const struct scratch *s, __u32 off)
{
	for (__u32 i = 0; i < EXTRA_NAMES_MAX && i < extra_names_len; i++) {
		__u32 len = extra_names[i].len, same = 0;

		for (__u32 j = 0; j < EXTRA_NAME_MAX && j < len; j++) {
			__u8 byte = text8(s, off + j);

			if (byte >= 'A' && byte <= 'Z')
				byte |= 0x20;
			if (byte != extra_names[i].name[j])
				break;
			same++;
		}
		if (same != len)
			continue;
		switch (extra_names[i].format) {
		case FORMAT_W3C:
			return (struct name){HEADER_TRACEPARENT, len};
		case FORMAT_B3:
			return (struct name){HEADER_B3, len};
		case FORMAT_JAEGER:
			return (struct name){HEADER_UBER_TRACE_ID, len};
		case FORMAT_SW8:
			return (struct name){HEADER_SW8, len};
		}
	}
	return (struct name){HEADER_OTHER, 0};
}

/* The first character decides for nearly every line of a request. */
static __always_inline struct name header_name(const struct scratch *s, __u32 off)
{
	__u64 word = text64(s, off);

	switch ((word & 0xff) | 0x20) {
	case 't':
		if (MATCHES(word, 8, 't', 'r', 'a', 'c', 'e', 'p', 'a', 'r') &&
		    MATCHES(text64(s, off + 8), 4, 'e', 'n', 't', ':', 0, 0, 0, 0))
			return (struct name){HEADER_TRACEPARENT, 12};
		break;
	case 'b':
		if (MATCHES(word, 3, 'b', '3', ':', 0, 0, 0, 0, 0))
			return (struct name){HEADER_B3, 3};
		break;
	case 'x':
		if (MATCHES(word, 5, 'x', '-', 'b', '3', '-', 0, 0, 0))
			return b3_name(s, off);
		if (MATCHES(word, 8, 'x', '-', 'd', 'a', 't', 'a', 'd', 'o') &&
		    MATCHES(text64(s, off + 8), 2, 'g', '-', 0, 0, 0, 0, 0, 0))
			return datadog_name(s, off);
		break;
	case 'u':
		if (MATCHES(word, 8, 'u', 'b', 'e', 'r', '-', 't', 'r', 'a') &&
		    MATCHES(text64(s, off + 8), 6, 'c', 'e', '-', 'i', 'd', ':', 0, 0))
			return (struct name){HEADER_UBER_TRACE_ID, 14};
		break;
	case 's':
		if (MATCHES(word, 4, 's', 'w', '8', ':', 0, 0, 0, 0))
			return (struct name){HEADER_SW8, 4};
		break;
	}
	return extra_names_len ? extra_name(s, off) : (struct name){HEADER_OTHER, 0};
}

/* Whether all of the value is this text of up to 8 characters. */
#define VALUE_IS(s, off, end, n, ...) \
	((end) - (off) == (n) && !((text64(s, off) ^ WORD(__VA_ARGS__)) << (8 * (8 - (n)))))

/* A sampling line counts once: the first valid one. */
static __always_inline bool decide(struct walk *w, struct context *c, enum sampling sampling)
{
	if (c->have & PART_SAMPLING)
		return true;
	c->have |= PART_SAMPLING;
	c->sampling = sampling;
	if (sampling == SAMPLING_DENIED)
		w->denied = 1;
	return true;
}

static __always_inline void have_id(struct context *c, enum part part, __u32 offset)
{
	if (!(c->have & PART_IDS))
		c->offset = offset;
	c->have |= part;
}

/* The parts in c are the context. */
static __always_inline int use(struct walk *w, const struct context *c, __u8 format)
{
	w->found = *c;
	w->found.format = format;
	return c->sampling == SAMPLING_DENIED ? OUTCOME_UNSAMPLED : OUTCOME_FOUND;
}

/* One x-b3-* line. */
__noinline int read_b3_part(struct scratch *s, __u32 header, __u32 off, __u32 end, __u32 offset)
{
	struct context *c, *id;

	if (!s)
		return 0;
	c = &s->walk.b3;
	id = &s->id; /* the stack of all calls on the way here is full */
	switch (header) {
	case HEADER_B3_TRACE_ID:
		if (!read_b3_trace_id(s, id, off, end - off))
			return 0;
		if (!(c->have & PART_TRACE_ID)) {
			__builtin_memcpy(c->trace_id, id->trace_id, sizeof(id->trace_id));
			have_id(c, PART_TRACE_ID, offset);
		}
		return 1;
	case HEADER_B3_SPAN_ID:
		if (end - off != 16 || !read_hex(text_at(s, off), id->span_id, 8, HEX_ANY_CASE))
			return 0;
		if (!(c->have & PART_SPAN_ID)) {
			__builtin_memcpy(c->span_id, id->span_id, sizeof(id->span_id));
			have_id(c, PART_SPAN_ID, offset);
		}
		return 1;
	case HEADER_B3_SAMPLED:
		if (VALUE_IS(s, off, end, 1, '1', 0, 0, 0, 0, 0, 0, 0) ||
		    VALUE_IS(s, off, end, 1, 'd', 0, 0, 0, 0, 0, 0, 0) ||
		    VALUE_IS(s, off, end, 4, 't', 'r', 'u', 'e', 0, 0, 0, 0))
			return decide(&s->walk, c, SAMPLING_ACCEPTED);
		if (VALUE_IS(s, off, end, 1, '0', 0, 0, 0, 0, 0, 0, 0) ||
		    VALUE_IS(s, off, end, 5, 'f', 'a', 'l', 's', 'e', 0, 0, 0))
			return decide(&s->walk, c, SAMPLING_DENIED);
		return 0;
	case HEADER_B3_FLAGS:
		if (VALUE_IS(s, off, end, 1, '1', 0, 0, 0, 0, 0, 0, 0))
			return decide(&s->walk, c, SAMPLING_ACCEPTED);
		return VALUE_IS(s, off, end, 1, '0', 0, 0, 0, 0, 0, 0, 0);
	}
	return 1;
}

/* One x-datadog-* line. */
__noinline int read_datadog_part(struct scratch *s, __u32 header, __u32 off, __u32 end,
				 __u32 offset)
{
	struct context *c;
	__u64 id = 0;

	if (!s)
		return 0;
	c = &s->walk.datadog;
	switch (header) {
	case HEADER_DATADOG_TRACE_ID:
		if (!read_decimal(s, off, end, &id))
			return 0;
		if (!(c->have & PART_TRACE_ID)) {
			store_be64(c->trace_id + 8, id);
			have_id(c, PART_TRACE_ID, offset);
		}
		return 1;
	case HEADER_DATADOG_PARENT_ID:
		if (!read_decimal(s, off, end, &id))
			return 0;
		if (!(c->have & PART_SPAN_ID)) {
			store_be64(c->span_id, id);
			have_id(c, PART_SPAN_ID, offset);
		}
		return 1;
	case HEADER_DATADOG_PRIORITY:
		if (VALUE_IS(s, off, end, 1, '1', 0, 0, 0, 0, 0, 0, 0) ||
		    VALUE_IS(s, off, end, 1, '2', 0, 0, 0, 0, 0, 0, 0))
			return decide(&s->walk, c, SAMPLING_ACCEPTED);
		if (VALUE_IS(s, off, end, 1, '0', 0, 0, 0, 0, 0, 0, 0) ||
		    VALUE_IS(s, off, end, 2, '-', '1', 0, 0, 0, 0, 0, 0))
			return decide(&s->walk, c, SAMPLING_DENIED);
		return 0;
	}
	return 1;
}

#endif
