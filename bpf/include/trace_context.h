/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Values of the trace headers, by docs/trace-context.md. A value is the text
 * between off and end, without blanks at its ends. Each reader returns false
 * for a malformed value.
 */
#ifndef LAYERTRACE_TRACE_CONTEXT_H
#define LAYERTRACE_TRACE_CONTEXT_H

#include "digits.h"

/* Numbers as in internal/tracecontext/context.go. */
enum format {
	FORMAT_NONE,
	FORMAT_W3C,
	FORMAT_B3,
	FORMAT_B3_MULTI,
	FORMAT_JAEGER,
	FORMAT_DATADOG,
	FORMAT_SW8,
};

#define TRACEPARENT_LEN 55
#define SW8_PART_MAX 96
#define SW8_INDEX_MAX 8

/* W3C Trace Context, section 3.2. */
__noinline int read_traceparent(struct scratch *s, __u32 off, __u32 end)
{
	struct context *c;
	const __u8 *text;
	__u8 digits;

	if (!s || end < off || end - off < TRACEPARENT_LEN)
		return 0;
	c = &s->walk.found;
	text = text_at(s, off);
	if (text[2] != '-' || text[35] != '-' || text[52] != '-')
		return 0;
	/* version and flags may be zero, so only their digits are checked */
	digits =
		hex_value[text[0]] | hex_value[text[1]] | hex_value[text[53]] | hex_value[text[54]];
	if ((digits & HEX_LOWER_ONLY) || (text[0] == 'f' && text[1] == 'f'))
		return 0;
	if (end - off > TRACEPARENT_LEN &&
	    ((text[0] == '0' && text[1] == '0') || text[TRACEPARENT_LEN] != '-'))
		return 0;
	if (!read_hex(text + 3, c->trace_id, 16, HEX_LOWER_ONLY) ||
	    !read_hex(text + 36, c->span_id, 8, HEX_LOWER_ONLY))
		return 0;
	c->sampling = hex_value[text[54]] & 1 ? SAMPLING_ACCEPTED : SAMPLING_DENIED;
	c->format = FORMAT_W3C;
	return 1;
}

/* A trace ID of 16 or 32 hex digits (B3), the short one padded with zeros. */
static __always_inline bool read_b3_trace_id(struct scratch *s, struct context *c, __u32 off,
					     __u32 len)
{
	if (len == 32)
		return read_hex(text_at(s, off), c->trace_id, 16, HEX_ANY_CASE);
	__builtin_memset(c->trace_id, 0, 8);
	return len == 16 && read_hex(text_at(s, off), c->trace_id + 8, 8, HEX_ANY_CASE);
}

/* openzipkin/b3-propagation, "Single Header". A lone "0" sets walk.denied. */
__noinline int read_b3(struct scratch *s, __u32 off, __u32 end)
{
	struct context *c;
	__u32 id_len;

	if (!s || end <= off)
		return 0;
	if (end - off == 1 && text8(s, off) == '0') {
		s->walk.denied = 2;
		return 1;
	}
	c = &s->walk.found;
	id_len = text8(s, off + 16) == '-' ? 16 : 32;
	if (end - off < id_len + 17 || text8(s, off + id_len) != '-' ||
	    !read_b3_trace_id(s, c, off, id_len))
		return 0;
	off += id_len + 1;
	if (!read_hex(text_at(s, off), c->span_id, 8, HEX_ANY_CASE))
		return 0;
	off += 16;
	c->sampling = SAMPLING_DEFERRED;
	c->format = FORMAT_B3;
	if (off == end)
		return 1;
	if (end - off != 2 && end - off != 19)
		return 0;
	if (text8(s, off) != '-')
		return 0;
	switch (text8(s, off + 1)) {
	case '0':
		c->sampling = SAMPLING_DENIED;
		break;
	case '1':
	case 'd':
		c->sampling = SAMPLING_ACCEPTED;
		break;
	default:
		return 0;
	}
	return end - off == 2 || (text8(s, off + 2) == '-' && is_hex(s, off + 3, 16));
}

/* The readers below take a value part by part. A part is a function of its own
 * that keeps its numbers in scratch: in registers the verifier would follow
 * every combination of them, past its limit of a million steps.
 */

/* Hex digits from off on, at most 33, into high and low; returns the offset
 * behind them.
 */
__noinline int take_hex(struct scratch *s, __u32 off, __u32 end)
{
	if (!s)
		return off;
	s->high = 0;
	s->low = 0;
	for (int i = 0; i < 33; i++) {
		__u8 value = hex_value[text8(s, off)];

		if (off >= end || (value & HEX_INVALID))
			break;
		s->high = s->high << 4 | s->low >> 60;
		s->low = s->low << 4 | (value & 15);
		off++;
	}
	return off;
}

/* ":" or "%3A" at off; returns the offset behind it, 0 when it is not there. */
static __always_inline __u32 take_colon(struct scratch *s, __u32 off, __u32 end)
{
	if (off < end && text8(s, off) == ':')
		return off + 1;
	if (off + 3 <= end && text8(s, off) == '%' && text8(s, off + 1) == '3' &&
	    (text8(s, off + 2) == 'A' || text8(s, off + 2) == 'a'))
		return off + 3;
	return 0;
}

/* Jaeger client libraries, "Propagation Format": four hex numbers of varying
 * length with ":" between them.
 */
__noinline int read_uber_trace_id(struct scratch *s, __u32 off, __u32 end)
{
	struct context *c;
	__u32 start = off;

	if (!s)
		return 0;
	c = &s->walk.found;
	off = take_hex(s, start, end);
	if (off == start || off - start > 32 || !(s->high | s->low))
		return 0;
	store_be64(c->trace_id, s->high);
	store_be64(c->trace_id + 8, s->low);

	start = take_colon(s, off, end);
	off = take_hex(s, start, end);
	if (!start || off == start || off - start > 16 || !s->low)
		return 0;
	store_be64(c->span_id, s->low);

	start = take_colon(s, off, end);
	off = take_hex(s, start, end);
	if (!start || off - start > 16)
		return 0;

	start = take_colon(s, off, end);
	off = take_hex(s, start, end);
	if (!start || off == start || off - start > 2 || off != end)
		return 0;
	c->sampling = s->low & 1 ? SAMPLING_ACCEPTED : SAMPLING_DENIED;
	c->format = FORMAT_JAEGER;
	return 1;
}

static __always_inline bool is_base64(__u8 byte)
{
	__u8 letter = byte | 0x20;

	return (letter >= 'a' && letter <= 'z') || (byte >= '0' && byte <= '9') || byte == '+' ||
	       byte == '/' || byte == '=';
}

/* Base64 text from off on, at most 97 bytes, hashed into high and low; returns
 * the offset behind it.
 */
__noinline int take_base64(struct scratch *s, __u32 off, __u32 end)
{
	if (!s)
		return off;
	for (int i = 0; i < SW8_PART_MAX + 1; i++) {
		__u8 byte = text8(s, off);

		if (off >= end || !is_base64(byte))
			break;
		s->high = fnv(s->high, byte);
		s->low = fnv(s->low, byte);
		off++;
	}
	return off;
}

/* Decimal digits from off on, at most 9, hashed into high; returns the offset
 * behind them.
 */
__noinline int take_index(struct scratch *s, __u32 off, __u32 end)
{
	if (!s)
		return off;
	for (int i = 0; i < SW8_INDEX_MAX + 1; i++) {
		__u8 byte = text8(s, off);

		if (off >= end || byte < '0' || byte > '9')
			break;
		s->high = fnv(s->high, byte);
		off++;
	}
	return off;
}

/* SkyWalking Cross Process Propagation Headers Protocol v3. Its IDs are free
 * text, so they are hashed.
 */
__noinline int read_sw8(struct scratch *s, __u32 off, __u32 end)
{
	struct context *c;
	__u32 start;
	__u8 sample;

	if (!s || end < off || end - off < 2 || text8(s, off + 1) != '-')
		return 0;
	sample = text8(s, off);
	if (sample != '0' && sample != '1')
		return 0;
	c = &s->walk.found;

	start = off + 2;
	s->high = FNV_BASIS;
	s->low = fnv(FNV_BASIS, 0);
	off = take_base64(s, start, end);
	if (off == start || off - start > SW8_PART_MAX || off >= end || text8(s, off) != '-')
		return 0;
	store_be64(c->trace_id, s->high);
	store_be64(c->trace_id + 8, s->high | s->low ? s->low : 1);

	start = off + 1;
	s->high = FNV_BASIS;
	off = take_base64(s, start, end);
	if (off == start || off - start > SW8_PART_MAX || off >= end || text8(s, off) != '-')
		return 0;

	start = off + 1;
	s->high = fnv(s->high, '-');
	off = take_index(s, start, end);
	if (off == start || off - start > SW8_INDEX_MAX || (off < end && text8(s, off) != '-'))
		return 0;
	store_be64(c->span_id, s->high ? s->high : 1);
	c->sampling = sample == '1' ? SAMPLING_ACCEPTED : SAMPLING_DENIED;
	c->format = FORMAT_SW8;
	return 1;
}

#endif
