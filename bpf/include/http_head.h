/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Finds the trace context in a request head.
 *
 * fast_walk*   reads the first lines in place, without a copy. It knows only the
 *              common forms (CRLF, traceparent version 00, x-b3-*) and leaves the
 *              rest to the other walk, from the line at which it stopped
 * parse_lines  walks lines copied to scratch text, in all forms
 * parse_chunks deep: continues over the rest of the segment and later ones
 */
#ifndef LAYERTRACE_HTTP_HEAD_H
#define LAYERTRACE_HTTP_HEAD_H

#include "trace_context.h"

const volatile enum window prefix_window = WINDOW_DEFAULT;
const volatile bool deep;
const volatile enum window deep_window = DEEP_WINDOW_DEFAULT;

/* Shows the verifier that an offset is in range; the compiler would drop a plain & as
 * redundant.
 */
#define BOUND(at) asm volatile("%0 &= %1" : "+r"(at) : "i"(FAST_REACH - 1))

/* Lines examined, including the request line, and their maximum length. */
#define FAST_LINES 12
#define FAST_LINE_MAX 128
/* Length of "traceparent: ", a value of version 00 and CRLF. */
#define TRACEPARENT_LINE 70
/* Limit of line starts, from the start of the packet: a power of two. */
#define FAST_REACH 1024

/* Marks bytes below ' ' with 0x80: the first one reliably, those after it perhaps. */
static __always_inline __u64 control_bytes(__u64 word)
{
	return (word - EACH(' ')) & ~word & HIGH1;
}

/* word: the first characters of the line. */
static __always_inline bool may_be_trace_header(__u64 word)
{
	switch ((word | 0x2020) & 0xffff) {
	case 't' | 'r' << 8:
		return MATCHES_WORD(word, NAME_TRACEPARENT_0);
	case 'x' | '-' << 8:
		return MATCHES_WORD(word, PREFIX_B3_0) || MATCHES_WORD(word, PREFIX_DATADOG_0);
	case 'b' | '3' << 8:
	case 'u' | 'b' << 8:
	case 's' | 'w' << 8:
		return true;
	}
	return false;
}

/* Where the lines are. In the packet each look ahead needs a check against its end;
 * scratch text is padded.
 */
struct fast_text {
	const void *base;
	const void *end; /* of the packet */
	bool in_packet;
};

static __always_inline bool readable(const struct fast_text *f, const void *p, const __u32 n)
{
	return !f->in_packet || p + n <= f->end;
}

/* Offset of the first control character from p on, or -1 if it is too far away. */
static __always_inline __s64 find_control(const struct fast_text *f, const void *p)
{
#pragma unroll
	for (int i = 0; i < FAST_LINE_MAX; i += 8) {
		__u64 found;

		if (i % 64 == 0 && !readable(f, p + i, 64))
			return -1;
		found = control_bytes(*(const __u64 *)(p + i));
		if (found)
			return i + (((found & -found) >> 7) * 0x0001020304050607ULL >> 56);
	}
	return -1;
}

/* Reads a line that is a valid traceparent of version 00 and nothing else. */
static __always_inline bool fast_traceparent(const struct fast_text *f, const void *p,
					     struct context *c)
{
	const __u8 *line = p;
	__u8 flags;

	if (!readable(f, p, 72))
		return false;
	if (!MATCHES_WORD(*(const __u64 *)p, NAME_TRACEPARENT_0) ||
	    !MATCHES(*(const __u64 *)(p + 8), 8, 'e', 'n', 't', ':', ' ', '0', '0', '-'))
		return false;
	if (line[48] != '-' || line[65] != '-' || line[68] != '\r' || line[69] != '\n')
		return false;
	flags = hex_value[line[67]];
	if ((hex_value[line[66]] | flags) & HEX_LOWER_ONLY)
		return false;
	if (!read_hex(line + 16, c->trace_id, 16, HEX_LOWER_ONLY) ||
	    !read_hex(line + 49, c->span_id, 8, HEX_LOWER_ONLY))
		return false;
	c->sampling = flags & 1 ? SAMPLING_ACCEPTED : SAMPLING_DENIED;
	c->format = FORMAT_W3C;
	return true;
}

/* Reads an x-b3-* line. Returns its length without CRLF, or -1 to leave it to the other
 * walk. part: what the line contains; an ID is in c already, but counts only after a
 * check that the line ends there.
 */
static __always_inline __s64 fast_b3(const struct fast_text *f, const void *p, struct context *c,
				     __u8 *part)
{
	const __u8 *line = p;
	__u64 rest;

	if (!readable(f, p, 48))
		return -1;
	rest = *(const __u64 *)(p + 5);
	if (((rest & 0xff) | 0x20) == 'p')
		return find_control(f, p); /* x-b3-parentspanid, or irrelevant */
	if (MATCHES_WORD(rest, NAME_B3_TRACEID_0) && line[13] == ' ' &&
	    !(c->have & PART_TRACE_ID)) {
		*part = PART_TRACE_ID;
		if (line[30] == '\r') {
			__builtin_memset(c->trace_id, 0, 8);
			return read_hex(line + 14, c->trace_id + 8, 8, HEX_ANY_CASE) ? 30 : -1;
		}
		return read_hex(line + 14, c->trace_id, 16, HEX_ANY_CASE) ? 46 : -1;
	}
	if (MATCHES(rest, 8, 's', 'p', 'a', 'n', 'i', 'd', ':', ' ') && !(c->have & PART_SPAN_ID)) {
		*part = PART_SPAN_ID;
		return read_hex(line + 13, c->span_id, 8, HEX_ANY_CASE) ? 29 : -1;
	}
	if (MATCHES_WORD(rest, NAME_B3_SAMPLED_0) && line[13] == ' ' && (line[14] | 1) == '1' &&
	    !(c->have & PART_SAMPLING)) {
		*part = PART_SAMPLING;
		return 15;
	}
	return -1;
}

/* Walks the first lines of a payload at off, of which window bytes may be read.
 * OUTCOME_INCOMPLETE: the other walk continues from s->walk.pos.
 */
static __always_inline int fast_walk(struct scratch *s, const struct fast_text *f, __u32 off,
				     __u32 window)
{
	struct walk *w = &s->walk;
	__u64 at = off;

	BOUND(at);
	for (int i = 0; i < FAST_LINES; i++) {
		const void *p = f->base + at;
		__u64 tail, word;
		bool b3 = false;
		__u8 part = 0;
		__s64 len;

		if (!readable(f, p, 8))
			break;
		word = *(const __u64 *)p;
		if (!i || !may_be_trace_header(word)) {
			len = find_control(f, p);
		} else if (MATCHES_WORD(word, PREFIX_B3_0)) {
			b3 = true;
			len = fast_b3(f, p, &w->b3, &part);
		} else {
			if (w->b3.have || at - off + TRACEPARENT_LINE > window ||
			    !fast_traceparent(f, p, &w->found))
				break;
			w->found.offset = at - off;
			return w->found.sampling == SAMPLING_DENIED ? OUTCOME_UNSAMPLED :
								      OUTCOME_FOUND;
		}
		if (len < 9)
			break; /* no line end found, or too short for a request line */
		/* The last 9 characters and the line end. */
		tail = at + len - 9;
		FORGET(tail, s->high);
		BOUND(tail);
		p = f->base + tail;
		if (!readable(f, p, 11) || *(const __u16 *)(p + 9) != ('\r' | '\n' << 8))
			break;
		if (!i && (*(const __u64 *)p != WORD(' ', 'H', 'T', 'T', 'P', '/', '1', '.') ||
			   (__u8)(*(const __u8 *)(p + 8) - '0') > 9))
			break;
		if (tail + 11 - off > window)
			break;
		if (part & PART_IDS) {
			add_id(&w->b3, part, at - off);
		} else if (part) {
			set_sampling(w, &w->b3,
				     *(const __u8 *)(p + 8) == '1' ? SAMPLING_ACCEPTED :
								     SAMPLING_DENIED);
		} else if (!b3 && (w->b3.have & PART_IDS) == PART_IDS) {
			break; /* complete, sampling decision deferred */
		}
		if (w->b3.have == (PART_IDS | PART_SAMPLING))
			return use_parts(w, &w->b3, FORMAT_B3MULTI);
		at = tail + 11;
		w->request_line = 1;
		w->pos = at - off;
	}
	return OUTCOME_INCOMPLETE;
}

VERIFIED_ALONE int fast_walk_packet(struct __sk_buff *skb, struct scratch *s, __u32 off,
				    __u32 window)
{
	struct fast_text f = {(const void *)(long)skb->data, (const void *)(long)skb->data_end,
			      true};

	if (!s || off >= FAST_REACH)
		return OUTCOME_INCOMPLETE;
	return fast_walk(s, &f, off, window);
}

/* The same in scratch text, after the first read. */
VERIFIED_ALONE int fast_walk_text(struct scratch *s)
{
	if (!s)
		return OUTCOME_INCOMPLETE;
	return fast_walk(s, &(struct fast_text){.base = s->text}, 0, s->walk.end);
}

/* Size of the first read: contains a context that was reordered to the start. */
#define FIRST_READ 384
/* A line has at least one byte and LF. */
#define LINES_MAX ((WINDOW_MAX + DEEP_LINE_MAX) / 2)

#define LOW7 0x7f7f7f7f7f7f7f7fULL
#define LINE_FEEDS 0x0a0a0a0a0a0a0a0aULL

/* Offset of the next LF in [off, end), or -1. Eight bytes at a time: a byte of found is
 * 0x80 exactly where the text has LF.
 */
VERIFIED_ALONE int find_lf(struct scratch *s, __u32 off, __u32 end)
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

/* First byte of [off, end) that is not a blank. BLANKS_MAX keeps this within the 8,192
 * branches that the verifier follows per path (kernel/bpf/verifier.c, push_stack).
 */
VERIFIED_ALONE int skip_blanks(struct scratch *s, __u32 off, __u32 end)
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

/* End of [off, end) without trailing blanks. */
VERIFIED_ALONE int trim_blanks(struct scratch *s, __u32 off, __u32 end)
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

/* Offset after the empty line that ends the head at the start of text, or 0. */
VERIFIED_ALONE int find_head_end(struct scratch *s, __u32 end)
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

/* Result when there are no more lines. */
static __always_inline int finish_walk(struct walk *w, int outcome)
{
	if ((w->b3.have & PART_IDS) == PART_IDS)
		return use_parts(w, &w->b3, FORMAT_B3MULTI);
	if ((w->datadog.have & PART_IDS) == PART_IDS)
		return use_parts(w, &w->datadog, FORMAT_DATADOG);
	return w->denied ? OUTCOME_UNSAMPLED : outcome;
}

/* "METHOD target HTTP/1.x": RFC 9112, section 3. */
static __always_inline int parse_request_line(struct scratch *s, __u32 off, __u32 len)
{
	__u32 end = off + len;

	s->walk.request_line = 1;
	if (len < 9 || text64(s, end - 9) != WORD(' ', 'H', 'T', 'T', 'P', '/', '1', '.') ||
	    (__u8)(text8(s, end - 1) - '0') > 9)
		return OUTCOME_UNPARSABLE;
	return OUTCOME_INCOMPLETE;
}

/* A header with a complete context. */
static __always_inline int parse_context(struct scratch *s, __u32 header, __u32 value, __u32 end,
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
		return OUTCOME_INCOMPLETE;
	}
	s->walk.found.offset = offset;
	return s->walk.found.sampling == SAMPLING_DENIED ? OUTCOME_UNSAMPLED : OUTCOME_FOUND;
}

/* Parses the line in [off, lf). */
VERIFIED_ALONE int parse_line(struct scratch *s, __u32 off, __u32 lf)
{
	__u32 len = lf - off, value, end;
	struct name name;
	struct walk *w;
	int ok;

	if (!s)
		return OUTCOME_NOT_FOUND;
	w = &s->walk;
	if (len && text8(s, lf - 1) == '\r')
		len--;
	if (deep && (w->skip_line || len > DEEP_LINE_MAX)) {
		w->request_line = 1; /* too long to be checked */
		return OUTCOME_INCOMPLETE;
	}
	if (!w->request_line)
		return parse_request_line(s, off, len);
	if (!len)
		return finish_walk(w, OUTCOME_NOT_FOUND);
	name = header_name(s, off);
	if ((w->b3.have & PART_IDS) == PART_IDS &&
	    (name.header < HEADER_B3_OTHER || name.header > HEADER_B3_FLAGS))
		return use_parts(w, &w->b3, FORMAT_B3MULTI);
	if ((w->datadog.have & PART_IDS) == PART_IDS && name.header < HEADER_DATADOG_OTHER)
		return use_parts(w, &w->datadog, FORMAT_DATADOG);
	if (!name.len)
		return OUTCOME_INCOMPLETE;
	/* The usual form: one blank before the value, none after it. */
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
		return OUTCOME_INCOMPLETE;
	}
	if (name.header < HEADER_B3_OTHER)
		return parse_context(s, name.header, value, end, w->base + off);
	if (name.header < HEADER_DATADOG_OTHER) {
		ok = read_b3_part(s, name.header, value, end, w->base + off);
		if (ok && (w->b3.have & PART_IDS) == PART_IDS && (w->b3.have & PART_SAMPLING))
			return use_parts(w, &w->b3, FORMAT_B3MULTI);
	} else {
		ok = read_datadog_part(s, name.header, value, end, w->base + off);
		if (ok && (w->datadog.have & PART_IDS) == PART_IDS &&
		    (w->datadog.have & PART_SAMPLING))
			return use_parts(w, &w->datadog, FORMAT_DATADOG);
	}
	if (!ok)
		w->malformed = 1;
	return OUTCOME_INCOMPLETE;
}

/* Parses all complete lines in text. */
VERIFIED_ALONE int parse_lines(struct scratch *s)
{
	int outcome = OUTCOME_INCOMPLETE;

	if (!s)
		return OUTCOME_NOT_FOUND;
	for (int i = 0; i < LINES_MAX; i++) {
		int lf = find_lf(s, s->walk.pos, s->walk.end);

		if (lf < 0)
			break;
		outcome = parse_line(s, s->walk.pos, lf);
		s->walk.pos = lf + 1;
		s->walk.skip_line = 0;
		if (outcome != OUTCOME_INCOMPLETE)
			break;
	}
	return outcome;
}

/* Appends len bytes of the packet to text; the caller ensures that they fit. */
static __always_inline bool append(struct __sk_buff *skb, struct scratch *s, __u32 off, __u32 len)
{
	__u32 at = s->walk.end & (TEXT_SIZE / 2 - 1);

	if (!len || len > WINDOW_MAX)
		return false;
	BOUND_LENGTH(len, WINDOW_MAX);
	if (bpf_skb_load_bytes(skb, off, s->text + at, len))
		return false;
	s->walk.end = at + len;
	return true;
}

/* Deep: moves the unfinished line to the start of text, so that the next chunk can
 * follow. Of a line that is too long only the last byte stays, which may be CR.
 */
VERIFIED_ALONE int carry_line(struct scratch *s)
{
	__u32 len, from;
	struct walk *w;

	if (!s)
		return 0;
	w = &s->walk;
	len = w->end - w->pos;
	if (len > DEEP_LINE_MAX + 1) { /* the line and its CR */
		w->skip_line = 1;
		w->pos = w->end - 1;
		len = 1;
	}
	from = w->pos;
	for (__u32 i = 0; i <= DEEP_LINE_MAX / 8; i++) {
		if (i * 8 >= len)
			break;
		*(__u64 *)(s->text + i * 8) = text64(s, from + i * 8);
	}
	w->base += from;
	w->pos = 0;
	w->end = len;
	return 0;
}

/* Deep: one chunk of a segment. */
static __always_inline int parse_chunk(struct __sk_buff *skb, struct scratch *s, __u32 off,
				       __u32 len)
{
	carry_line(s);
	if (len > CHUNK_SIZE)
		len = CHUNK_SIZE;
	if (!append(skb, s, off, len))
		return OUTCOME_TRUNCATED;
	return parse_lines(s);
}

/* Deep: continues the walk in s over len bytes at off. */
VERIFIED_ALONE int parse_chunks(struct __sk_buff *skb, struct scratch *s, __u32 off, __u32 len)
{
	int outcome = OUTCOME_INCOMPLETE;

	if (!s)
		return OUTCOME_NOT_FOUND;
	for (int i = 0; i < 65536 / CHUNK_SIZE + 1; i++) {
		__u32 seen = s->walk.base + s->walk.end;

		FORGET(len, seen);
		if (seen >= deep_window)
			return OUTCOME_TRUNCATED;
		if (!len)
			break;
		if (len > deep_window - seen)
			len = deep_window - seen;
		outcome = parse_chunk(skb, s, off, len);
		if (outcome != OUTCOME_INCOMPLETE)
			break;
		off += CHUNK_SIZE;
		len -= len > CHUNK_SIZE ? CHUNK_SIZE : len;
	}
	return outcome;
}

/* The first read with direct access: 8-byte moves take a third of the time of the
 * helper's string copy.
 */
static __always_inline bool copy_first(struct __sk_buff *skb, struct scratch *s, __u32 off)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	__u64 at = off;

	if (off >= FAST_REACH)
		return false;
	BOUND(at);
	data += at;
	if (data + FIRST_READ > end)
		return false;
#pragma unroll
	for (int i = 0; i < FIRST_READ; i += 8)
		*(volatile __u64 *)(s->text + i) = *(volatile __u64 *)(data + i);
	s->walk.end = FIRST_READ;
	return true;
}

/* Starts a walk over a payload, len bytes at off. OUTCOME_INCOMPLETE: the head
 * continues after what may be read here.
 */
static __always_inline int begin_walk(struct __sk_buff *skb, struct scratch *s, __u32 off,
				      __u32 len, const enum access access)
{
	__u32 window = len < prefix_window ? len : prefix_window, first;
	int outcome = OUTCOME_INCOMPLETE;

	/* skip found: every path that finds a context sets all of it */
	__builtin_memset(&s->walk, 0, offsetof(struct walk, found));
	__builtin_memset(&s->walk.b3.offset, 0,
			 sizeof(struct context) - offsetof(struct context, offset));
	if (access == ACCESS_DIRECT && !context_headers.len) {
		outcome = fast_walk_packet(skb, s, off, window);
		if (outcome != OUTCOME_INCOMPLETE)
			return outcome;
	}
	first = window < FIRST_READ ? window : FIRST_READ;
	if (!(access == ACCESS_DIRECT && first == FIRST_READ && copy_first(skb, s, off)) &&
	    !append(skb, s, off, first))
		return OUTCOME_TRUNCATED;
	if (!s->walk.pos && !context_headers.len)
		outcome = fast_walk_text(s);
	if (outcome != OUTCOME_INCOMPLETE)
		return outcome;
	__builtin_memset(&s->walk.datadog, 0, sizeof(s->walk.datadog));
	outcome = parse_lines(s);
	if (outcome == OUTCOME_INCOMPLETE && window > first) {
		if (!append(skb, s, off + first, window - first))
			return OUTCOME_TRUNCATED;
		outcome = parse_lines(s);
	}
	if (deep && outcome == OUTCOME_INCOMPLETE)
		outcome = parse_chunks(skb, s, off + window, len - window);
	return outcome;
}

static __always_inline int walk_whole(struct __sk_buff *skb, struct scratch *s, __u32 off,
				      __u32 len, const enum access access)
{
	int outcome;

	if (!s)
		return OUTCOME_UNPARSABLE;
	outcome = begin_walk(skb, s, off, len, access);
	if (outcome == OUTCOME_INCOMPLETE && !deep)
		outcome = OUTCOME_TRUNCATED;
	return outcome == OUTCOME_TRUNCATED ? finish_walk(&s->walk, OUTCOME_TRUNCATED) : outcome;
}

/* Walk the head at the start of a payload, len bytes at off; s->walk.found is the
 * context if the outcome is OUTCOME_FOUND.
 */
VERIFIED_ALONE int walk_direct(struct __sk_buff *skb, struct scratch *s, __u32 off, __u32 len)
{
	return walk_whole(skb, s, off, len, ACCESS_DIRECT);
}

VERIFIED_ALONE int walk_loaded(struct __sk_buff *skb, struct scratch *s, __u32 off, __u32 len)
{
	return walk_whole(skb, s, off, len, ACCESS_LOAD);
}

static __always_inline int walk_head(struct __sk_buff *skb, struct scratch *s, __u32 off, __u32 len,
				     const enum access access)
{
	return access == ACCESS_DIRECT ? walk_direct(skb, s, off, len) :
					 walk_loaded(skb, s, off, len);
}

#endif
