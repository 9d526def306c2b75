/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The lines of a request head, from the start of text. */
#ifndef LAYERTRACE_PREFIX_H
#define LAYERTRACE_PREFIX_H

#include "front.h"

const volatile __u32 prefix_window = 1024;
const volatile bool deep;
const volatile __u32 deep_window = 65536;

/* Bytes read at first: a reordered context lies within them. */
#define FIRST_READ 384
/* A line has at least one byte and LF. */
#define LINES_MAX ((WINDOW_MAX + CARRY_MAX) / 2)

/* Blanks that are dropped at either end of a value; the verifier follows at
 * most 8,192 branches on one path (kernel/bpf/verifier.c, push_stack).
 */
#define BLANKS_MAX 64

#define LOW7 0x7f7f7f7f7f7f7f7fULL
#define LINE_FEEDS 0x0a0a0a0a0a0a0a0aULL

/* Offset of the next LF in [off, end), or -1. Eight bytes at a time: a byte of
 * found is 0x80 just where the byte of the text is LF.
 */
__noinline int find_lf(struct scratch *s, __u32 off, __u32 end)
{
	if (!s)
		return -1;
	for (int i = 0; i < WINDOW_MAX / 8 + 1; i++) {
		__u64 x, found;

		if (off >= end)
			break;
		x = text64(s, off) ^ LINE_FEEDS;
		found = ~(((x & LOW7) + LOW7) | x) & HIGH1;
		if (found) {
			off += ((found & -found) >> 7) * 0x0001020304050607ULL >> 56;
			return off < end ? (int)off : -1;
		}
		off += 8;
	}
	return -1;
}

static __always_inline bool is_blank(__u8 byte)
{
	return byte == ' ' || byte == '\t';
}

/* First byte of [off, end) that is no blank. */
__noinline int skip_blanks(struct scratch *s, __u32 off, __u32 end)
{
	if (!s)
		return off;
	for (int i = 0; i < BLANKS_MAX; i++) {
		if (off >= end || !is_blank(text8(s, off)))
			break;
		off++;
	}
	return off;
}

/* End of [off, end) without the blanks there. */
__noinline int trim_blanks(struct scratch *s, __u32 off, __u32 end)
{
	if (!s)
		return end;
	for (int i = 0; i < BLANKS_MAX; i++) {
		if (off >= end || !is_blank(text8(s, end - 1)))
			break;
		end--;
	}
	return end;
}

/* Offset behind the empty line that ends the head at the start of text, or 0. */
__noinline int find_head_end(struct scratch *s, __u32 end)
{
	__u32 off = 0;

	if (!s)
		return 0;
	for (int i = 0; i < FIRST_READ / 2; i++) {
		int lf = find_lf(s, off, end);

		if (lf < 0)
			break;
		if (lf == off || (lf == off + 1 && text8(s, off) == '\r'))
			return lf + 1;
		off = lf + 1;
	}
	return 0;
}

/* What stands when no line comes any more. */
static __always_inline int end_of_walk(struct walk *w, int outcome)
{
	if ((w->b3.have & PART_IDS) == PART_IDS)
		return use(w, &w->b3, FORMAT_B3_MULTI);
	if ((w->datadog.have & PART_IDS) == PART_IDS)
		return use(w, &w->datadog, FORMAT_DATADOG);
	return w->denied ? OUTCOME_UNSAMPLED : outcome;
}

/* "METHOD target HTTP/1.x": RFC 9112, section 3. */
static __always_inline int take_request_line(struct scratch *s, __u32 off, __u32 len)
{
	__u32 end = off + len;

	s->walk.request_line = 1;
	if (len < 9 || text64(s, end - 9) != WORD(' ', 'H', 'T', 'T', 'P', '/', '1', '.') ||
	    (__u8)(text8(s, end - 1) - '0') > 9)
		return OUTCOME_UNPARSABLE;
	return OUTCOME_OPEN;
}

/* A header that holds a whole context. */
static __always_inline int take_context(struct scratch *s, __u32 header, __u32 value, __u32 end,
					__u32 offset)
{
	int ok;

	switch (header) {
	case HEADER_TRACEPARENT:
		ok = read_traceparent(s, value, end);
		break;
	case HEADER_B3:
		ok = read_b3(s, value, end);
		if (s->walk.denied == 2)
			return OUTCOME_UNSAMPLED;
		break;
	case HEADER_UBER_TRACE_ID:
		ok = read_uber_trace_id(s, value, end);
		break;
	default:
		ok = read_sw8(s, value, end);
	}
	if (!ok) {
		s->walk.malformed = 1;
		return OUTCOME_OPEN;
	}
	s->walk.found.offset = offset;
	return s->walk.found.sampling == SAMPLING_DENIED ? OUTCOME_UNSAMPLED : OUTCOME_FOUND;
}

/* One line, text[off] up to its LF. */
__noinline int take_line(struct scratch *s, __u32 off, __u32 lf)
{
	__u32 len = lf - off, value, end;
	struct name name;
	struct walk *w;
	int ok;

	if (!s)
		return OUTCOME_NONE;
	w = &s->walk;
	if (len && text8(s, lf - 1) == '\r')
		len--;
	if (deep && (w->skip_line || len > CARRY_MAX)) {
		w->request_line = 1; /* such a long one is not checked */
		return OUTCOME_OPEN;
	}
	if (!w->request_line)
		return take_request_line(s, off, len);
	if (!len)
		return end_of_walk(w, OUTCOME_NONE);
	name = header_name(s, off);
	if ((w->b3.have & PART_IDS) == PART_IDS &&
	    (name.header < HEADER_B3_OTHER || name.header > HEADER_B3_FLAGS))
		return use(w, &w->b3, FORMAT_B3_MULTI);
	if ((w->datadog.have & PART_IDS) == PART_IDS && name.header < HEADER_DATADOG_OTHER)
		return use(w, &w->datadog, FORMAT_DATADOG);
	if (!name.len)
		return OUTCOME_OPEN;
	/* One blank in front and none behind is what nearly everybody writes. */
	value = off + name.len;
	end = off + len;
	if (value < end && text8(s, value) == ' ')
		value++;
	if (value < end && is_blank(text8(s, value)))
		value = skip_blanks(s, off + name.len, end);
	if (value < end && is_blank(text8(s, end - 1)))
		end = trim_blanks(s, value, end);
	if (value < end && (is_blank(text8(s, value)) || is_blank(text8(s, end - 1)))) {
		w->malformed = 1; /* more than BLANKS_MAX */
		return OUTCOME_OPEN;
	}
	if (name.header < HEADER_B3_OTHER)
		return take_context(s, name.header, value, end, w->base + off);
	if (name.header < HEADER_DATADOG_OTHER) {
		ok = read_b3_part(s, name.header, value, end, w->base + off);
		if (ok && (w->b3.have & PART_IDS) == PART_IDS && (w->b3.have & PART_SAMPLING))
			return use(w, &w->b3, FORMAT_B3_MULTI);
	} else {
		ok = read_datadog_part(s, name.header, value, end, w->base + off);
		if (ok && (w->datadog.have & PART_IDS) == PART_IDS &&
		    (w->datadog.have & PART_SAMPLING))
			return use(w, &w->datadog, FORMAT_DATADOG);
	}
	if (!ok)
		w->malformed = 1;
	return OUTCOME_OPEN;
}

/* All whole lines in text. */
__noinline int take_lines(struct scratch *s)
{
	int outcome = OUTCOME_OPEN;

	if (!s)
		return OUTCOME_NONE;
	for (int i = 0; i < LINES_MAX; i++) {
		int lf = find_lf(s, s->walk.pos, s->walk.end);

		if (lf < 0)
			break;
		outcome = take_line(s, s->walk.pos, lf);
		s->walk.pos = lf + 1;
		s->walk.skip_line = 0;
		if (outcome != OUTCOME_OPEN)
			break;
	}
	return outcome;
}

#endif
