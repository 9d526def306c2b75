/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Recognizes a request and finds the trace context in its head.
 *
 * start_of     whether a payload begins a request, by its first bytes
 * fast_walk*   reads the first lines in place, without a copy, up to a context. It
 *              knows only the common forms (CRLF, traceparent version 00, x-b3-*) and
 *              leaves the rest to the other walk, from the line at which it stopped
 * scan_*       after a context: skips the rest of the head if it has no other one
 * parse_lines  walks lines copied to scratch text, in all forms
 * search_chunks deep: continues over the rest of the segment and later ones, within a budget
 * finish_walk  chooses among the contexts
 */
#ifndef LAYERTRACE_HTTP_HEAD_H
#define LAYERTRACE_HTTP_HEAD_H

#include "trace_context.h"

const volatile enum window prefix_window = WINDOW_DEFAULT;
const volatile enum window deep_window = DEEP_WINDOW_DEFAULT;

/* Whether a head is searched beyond the prefix window, over the rest of its segment and
 * later ones.
 */
enum deep_mode {
	DEEP_OFF,
	DEEP_ON,
	DEEP_AUTO, /* if the window has no context; at most deep_budget bytes */
};

const volatile enum deep_mode deep = DEEP_AUTO;

/* DEEP_AUTO: bytes that a CPU searches behind the window, per second. What it does not use
 * it keeps for up to a second.
 */
const volatile __u64 deep_budget = DEEP_BUDGET_DEFAULT;

/* How a payload begins. */
enum start {
	START_DATA,
	START_REQUEST = 1,    /* with a method of RFC 9110 or RFC 5789 */
	START_TOKEN = 2,      /* with another one: its request line decides */
	START_AFTER_LINE = 4, /* one of these after an empty line: RFC 9112, section 2.2 */
};

#define EMPTY_LINE ('\r' | '\n' << 8)

static __always_inline bool is_known_method(__u64 head)
{
	return MATCHES_EXACT(head, 4, 'G', 'E', 'T', ' ', 0, 0, 0, 0) ||
	       MATCHES_EXACT(head, 5, 'P', 'O', 'S', 'T', ' ', 0, 0, 0) ||
	       MATCHES_EXACT(head, 4, 'P', 'U', 'T', ' ', 0, 0, 0, 0) ||
	       MATCHES_EXACT(head, 5, 'H', 'E', 'A', 'D', ' ', 0, 0, 0) ||
	       MATCHES_EXACT(head, 7, 'D', 'E', 'L', 'E', 'T', 'E', ' ', 0) ||
	       MATCHES_EXACT(head, 6, 'P', 'A', 'T', 'C', 'H', ' ', 0, 0) ||
	       MATCHES_EXACT(head, 8, 'O', 'P', 'T', 'I', 'O', 'N', 'S', ' ') ||
	       MATCHES_EXACT(head, 8, 'C', 'O', 'N', 'N', 'E', 'C', 'T', ' ') ||
	       MATCHES_EXACT(head, 6, 'T', 'R', 'A', 'C', 'E', ' ', 0, 0);
}

static __always_inline bool is_method_byte(__u8 byte)
{
	return (__u8)(byte - 'A') < 26 || (__u8)(byte - '0') < 10 || byte == '-' || byte == '_';
}

/* Whether these are the bytes between a method and the rest of a request target. */
static __always_inline bool begins_target(__u8 blank, __u8 byte)
{
	return blank == ' ' && (byte == '/' || byte == '*' || (byte | 0x20) == 'h');
}

/* Whether a payload that begins with an upper-case letter begins with any method. */
static __always_inline bool is_other_method(struct __sk_buff *skb, struct scratch *s, __u32 off,
					    __u32 len, __u64 head)
{
	__u8 *text = s->text;
	__u32 i;

	/* Most data leaves here, without a load. */
	for (i = 1; i < 7; i++) {
		if (!is_method_byte(head >> 8))
			return begins_target(head >> 8, head >> 16);
		head >>= 8;
		FORGET(head, s->high);
	}
	if (len < 9) /* a method of 7 or more, SP, and a target */
		return false;
	if (len > METHOD_MAX + 2)
		len = METHOD_MAX + 2;
	BOUND_LENGTH(len, 64);
	if (bpf_skb_load_bytes(skb, off, text, len))
		return false;
	text[len] = 0;
	for (i = 7; i <= METHOD_MAX; i++)
		if (!is_method_byte(text[i]))
			return begins_target(text[i], text[i + 1]);
	return false;
}

/* Anything but the usual starts: set of enum start. head has the first bytes. */
VERIFIED_ALONE int unusual_start(struct __sk_buff *skb, struct scratch *s, __u32 off, __u32 len,
				 __u64 head)
{
	int start = START_DATA;

	if (!s || head == HTTP2_PREFACE)
		return START_DATA;
	if ((head & 0xffff) == EMPTY_LINE) {
		__u32 n;

		off += 2;
		len -= 2;
		if (!len)
			return START_DATA;
		n = len < sizeof(head) ? len : sizeof(head);
		head = 0;
		BOUND_LENGTH(n, sizeof(head));
		bpf_skb_load_bytes(skb, off, &head, n);
		if (is_known_method(head))
			return START_AFTER_LINE | START_REQUEST;
		start = START_AFTER_LINE;
	}
	if ((__u8)(head - 'A') < 26 && is_other_method(skb, s, off, len, head))
		return start | START_TOKEN;
	return START_DATA;
}

static __always_inline int start_of(struct __sk_buff *skb, struct scratch *s, __u32 off, __u32 len,
				    __u64 head)
{
	if ((__u8)(head - 'A') < 26) {
		if (is_known_method(head))
			return START_REQUEST;
	} else if ((head & 0xffff) != EMPTY_LINE) {
		return START_DATA; /* nearly all data */
	}
	return unusual_start(skb, s, off, len, head);
}

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
		return reads(FORMAT_W3C) && MATCHES_WORD(word, NAME_TRACEPARENT_0);
	case 'x' | '-' << 8:
		return (reads(FORMAT_B3MULTI) && MATCHES_WORD(word, PREFIX_B3_0)) ||
		       (reads(FORMAT_DATADOG) && MATCHES_WORD(word, PREFIX_DATADOG_0)) ||
		       (reads(FORMAT_XRAY) && MATCHES_WORD(word, NAME_AMZN_TRACE_ID_0)) ||
		       (reads(FORMAT_GCP) && MATCHES_WORD(word, NAME_CLOUD_TRACE_CONTEXT_0));
	case 'b' | '3' << 8:
		return reads(FORMAT_B3) && MATCHES_WORD(word, NAME_B3_0);
	case 'u' | 'b' << 8:
		return reads(FORMAT_JAEGER) && MATCHES_WORD(word, NAME_UBER_TRACE_ID_0);
	case 's' | 'w' << 8:
		return reads(FORMAT_SKYWALKING) && MATCHES_WORD(word, NAME_SW8_0);
	}
	return false;
}

/* x-b3-parentspanid, which is not read. */
static __always_inline bool is_b3_parent(__u64 word)
{
	return MATCHES_WORD(word, PREFIX_B3_0) && ((word >> 40 & 0xff) | 0x20) == 'p';
}

/* Whether the line with these first characters may say how long the message is. */
static __always_inline bool may_be_framing(__u64 word)
{
	word |= EACH(0x20);
	return word == WORD('c', 'o', 'n', 't', 'e', 'n', 't', '-') ||
	       word == WORD('t', 'r', 'a', 'n', 's', 'f', 'e', 'r');
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

/* The line at offset may be a framing header. */
static __always_inline void note_framing(struct walk *w, __u32 offset)
{
	if (!w->framing)
		w->framing = offset;
}

/* Not an outcome: the walk has a context, and s->walk.pos is the next line to look at. */
#define FAST_CONTEXT 16

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
		__u8 part = 0;
		__s64 len;

		if (!readable(f, p, 8)) {
			if ((w->b3.have & PART_IDS) == PART_IDS)
				return FAST_CONTEXT;
			break;
		}
		word = *(const __u64 *)p;
		if (i && reads(FORMAT_B3MULTI) && MATCHES_WORD(word, PREFIX_B3_0))
			len = fast_b3(f, p, &w->b3, &part);
		else if ((w->b3.have & PART_IDS) == PART_IDS) {
			return ends_walk(&w->b3) ? OUTCOME_UNSAMPLED : FAST_CONTEXT;
		} else if (!i || !may_be_trace_header(word)) {
			if (may_be_framing(word))
				note_framing(w, at - off);
			len = find_control(f, p);
		} else {
			if (w->b3.have || at - off + TRACEPARENT_LINE > window ||
			    !fast_traceparent(f, p, &w->traceparent))
				break;
			w->traceparent.offset = at - off;
			w->traceparent.have = PART_IDS;
			w->traceparents = 1;
			w->pos = at - off + TRACEPARENT_LINE;
			return ends_walk(&w->traceparent) ? OUTCOME_UNSAMPLED : FAST_CONTEXT;
		}
		if (len < 9)
			break; /* no line end found, or too short for a request line */
		/* The last 9 characters and the line end. */
		tail = at + len - 9;
		FORGET(tail, s->high);
		BOUND(tail);
		p = f->base + tail;
		if (!readable(f, p, 11) || *(const __u16 *)(p + 9) != EMPTY_LINE)
			break;
		if (!i && (*(const __u64 *)p != WORD(' ', 'H', 'T', 'T', 'P', '/', '1', '.') ||
			   (__u8)(*(const __u8 *)(p + 8) - '0') > 9))
			break;
		if (tail + 11 - off > window)
			break;
		if (part & PART_IDS)
			add_id(&w->b3, part, at - off);
		else if (part)
			set_sampling(&w->b3,
				     *(const __u8 *)(p + 8) == '1' ? SAMPLING_ACCEPTED :
								     SAMPLING_DENIED,
				     false);
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
	s->walk.b3.format = FORMAT_B3MULTI;
	return fast_walk(s, &f, off, window);
}

/* The same in scratch text, after the first read. */
VERIFIED_ALONE int fast_walk_text(struct scratch *s)
{
	if (!s)
		return OUTCOME_INCOMPLETE;
	s->walk.b3.format = FORMAT_B3MULTI;
	return fast_walk(s, &(struct fast_text){.base = s->text}, 0, s->walk.end);
}

/* Size of the first read: contains a context that was reordered to the start. */
#define FIRST_READ 384
/* A line has at least one byte and LF. */
#define LINES_MAX ((WINDOW_MAX + DEEP_LINE_MAX) / 2)

/* Offset of the next LF in [off, end), or -1. */
static __always_inline int find_lf(struct scratch *s, __u32 off, __u32 end)
{
	return find_byte(s, off, end, '\n');
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

/* Order in which contexts and denials are taken: the highest number wins. ids: it is a
 * context.
 */
static __always_inline __u64 preference(const struct context *c, bool ids)
{
	__u64 rank = ranks[c->format & (RANKS - 1)];

	if (!ordered && c->sampling == SAMPLING_DENIED)
		return 1;
	return (RANKS - rank) << 34 | (__u64)ids << 33 | (__u32)~c->offset;
}

/* Deep: an accepted context, of the most preferred format, ends the search at the end of
 * its segment.
 */
static __always_inline bool settles(const struct context *c)
{
	return c->sampling == SAMPLING_ACCEPTED &&
	       (!ordered || ranks[c->format & (RANKS - 1)] == 1);
}

static __always_inline bool walk_is_settled(struct walk *w)
{
	w->b3.format = FORMAT_B3MULTI;
	w->datadog.format = FORMAT_DATADOG;
	return w->accepted || (w->traceparent.have && settles(&w->traceparent)) ||
	       ((w->b3.have & PART_IDS) == PART_IDS && settles(&w->b3)) ||
	       ((w->datadog.have & PART_IDS) == PART_IDS && settles(&w->datadog));
}

static __always_inline void choose(struct walk *w, const struct context *c, bool ids)
{
	__u64 preferred = preference(c, ids);

	if (ids) {
		__u64 trace_id = *(const __u64 *)(c->trace_id + 8);
		__u64 span_id = *(const __u64 *)c->span_id;

		if (w->seen && (trace_id != w->seen_trace_id || span_id != w->seen_span_id))
			w->marks |= MARK_SEVERAL;
		if (settles(c))
			w->accepted = 1;
		w->seen = 1;
		w->seen_trace_id = trace_id;
		w->seen_span_id = span_id;
	}
	if (preferred > w->preference) {
		w->preference = preferred;
		w->found = *c;
	}
}

/* The same for s->id. */
VERIFIED_ALONE int choose_id(struct scratch *s, __u32 ids)
{
	if (s)
		choose(&s->walk, &s->id, ids);
	return 0;
}

/* A context in several headers, or the denial of one that is not complete. */
static __always_inline void choose_parts(struct walk *w, struct context *c, enum format format)
{
	c->format = format;
	if ((c->have & PART_IDS) == PART_IDS)
		choose(w, c, true);
	else if (c->sampling == SAMPLING_DENIED)
		choose(w, c, false);
}

/* Result when there are no more lines. */
VERIFIED_ALONE int finish_walk(struct walk *w, int outcome)
{
	if (!w)
		return outcome;
	if (w->traceparent.have)
		choose(w, &w->traceparent, true);
	if (w->b3.have)
		choose_parts(w, &w->b3, FORMAT_B3MULTI);
	if (w->datadog.have) {
		__u64 *high = (__u64 *)w->datadog.trace_id;

		if (!*high && w->traceparent.have && (w->datadog.have & PART_IDS) == PART_IDS &&
		    *(__u64 *)(w->datadog.trace_id + 8) == *(__u64 *)(w->traceparent.trace_id + 8))
			*high = *(__u64 *)w->traceparent.trace_id;
		choose_parts(w, &w->datadog, FORMAT_DATADOG);
	}
	if (!w->preference)
		return outcome;
	return w->found.sampling == SAMPLING_DENIED ? OUTCOME_UNSAMPLED : OUTCOME_FOUND;
}

/* Reach of a scan from the start of the packet, a power of two. */
#define SCAN_REACH 8192
#define SCAN_STEPS 32
#define SCAN_BLOCK 64

/* Position of a single bit, by the six bits that multiplying by it brings to the top. */
#define DE_BRUIJN 0x03f79d71b4cb0a89ULL
/* clang-format off */
static const __u8 lowest_bit[64] = {
	0, 1, 48, 2, 57, 49, 28, 3, 61, 58, 50, 42, 38, 29, 17, 4,
	62, 55, 59, 36, 53, 51, 43, 22, 45, 39, 33, 30, 24, 18, 12, 5,
	63, 47, 56, 27, 60, 41, 37, 16, 54, 35, 52, 21, 44, 32, 23, 11,
	46, 26, 40, 15, 34, 20, 31, 10, 25, 14, 19, 9, 13, 8, 7, 6,
};
/* clang-format on */

/* Marks the first LF with 0x80, and perhaps bytes after it. */
static __always_inline __u64 line_feeds(__u64 word)
{
	word ^= EACH('\n');
	return (word - EACH(1)) & ~word & HIGH1;
}

/* The high bits of eight bytes as one byte. */
static __always_inline __u64 one_bit_each(__u64 high_bits)
{
	return (high_bits >> 7) * 0x0102040810204080ULL >> 56;
}

/* The one context of the fast walk is the result. */
static __always_inline int finish_scan(struct walk *w)
{
	const struct context *c = w->traceparent.have ? &w->traceparent : &w->b3;

	if (c->sampling == SAMPLING_DENIED)
		return OUTCOME_UNSAMPLED;
	w->found = *c;
	w->unframed = w->framing ? w->framing : w->pos;
	return OUTCOME_FOUND;
}

/* What the line whose first characters are in word has to be read for. */
static __always_inline bool ends_head(__u64 word)
{
	return (word & 0xffff) == EMPTY_LINE;
}

/* The same at the end of the head, all of whose lines were seen. */
static __always_inline int finish_head(struct walk *w)
{
	if (!w->framing)
		w->head_end = w->pos + 2;
	return finish_scan(w);
}

/* The same for the last bytes, which are too few for another line. An empty line at
 * their end ends the head, unless there is one before it.
 */
static __always_inline int finish_tail(struct scratch *s, const struct fast_text *f, __u32 off,
				       __u32 end)
{
	__u64 at = end - 6;
	const void *p;

	FORGET(at, s->high);
	asm volatile("%0 &= %1" : "+r"(at) : "i"(SCAN_REACH - 1));
	p = f->base + at;
	if (!readable(f, p, 6) || *(const __u16 *)p == EMPTY_LINE ||
	    *(const __u16 *)(p + 2) != EMPTY_LINE || *(const __u16 *)(p + 4) != EMPTY_LINE)
		return finish_scan(&s->walk);
	s->walk.pos = end - 2 - off;
	return finish_head(&s->walk);
}

/* The same at the end of the window, after all lines that start before at. line: at is
 * the start of another one. A block may reach beyond the window.
 */
static __always_inline int finish_window(struct walk *w, __u32 at, __u32 window, bool line)
{
	int outcome = finish_scan(w);

	if (!w->framing) {
		w->in_line = !line || at > window;
		w->unframed = window;
	}
	return outcome;
}

static __always_inline bool may_be_context(__u64 word)
{
	return (word & 0xff) == '\n' || (may_be_trace_header(word) && !is_b3_parent(word));
}

/* Skips the lines from s->walk.pos on if none of them may be a trace header. Returns
 * the outcome, or OUTCOME_INCOMPLETE to leave the rest, from s->walk.pos on, to the
 * other walk. Two loops, for the verifier: blocks, then what is shorter than one.
 */
static __always_inline int scan(struct scratch *s, const struct fast_text *f, __u32 off,
				__u32 window)
{
	struct walk *w = &s->walk;
	__u32 end = off + window;
	__u64 at = off + w->pos;
	bool line = true;
	const void *p;

	for (int i = 0; i < SCAN_STEPS; i++) {
		__u64 found = 0, low;

		FORGET(at, s->high);
		asm volatile("%0 &= %1" : "+r"(at) : "i"(SCAN_REACH - 1));
		p = f->base + at;
		if (at >= end || !readable(f, p, SCAN_BLOCK + 16))
			break;
		if (line) {
			__u64 word = *(const __u64 *)p;

			w->pos = at - off;
			if (ends_head(word))
				return finish_head(w);
			if (may_be_context(word))
				return OUTCOME_INCOMPLETE;
			if (may_be_framing(word))
				note_framing(w, w->pos);
			line = false;
		}
		/* High bits: control characters, and others than ASCII. */
#pragma unroll
		for (int j = 0; j < SCAN_BLOCK; j += 8)
			found |= *(const __u64 *)(p + j) - EACH(' ');
		at += SCAN_BLOCK;
		if (found & HIGH1) {
			found = 0;
#pragma unroll
			for (int j = 0; j < SCAN_BLOCK; j += 8)
				found |= one_bit_each(line_feeds(*(const __u64 *)(p + j))) << j;
			low = lowest_bit[(found & -found) * DE_BRUIJN >> 58];
			line = found;
			if (found)
				at += low + 1 - SCAN_BLOCK;
		}
	}
	for (int i = 0; i < SCAN_BLOCK / 4; i++) {
		__u64 found, word;

		FORGET(at, s->high);
		asm volatile("%0 &= %1" : "+r"(at) : "i"(SCAN_REACH - 1));
		if (at >= end)
			return deep == DEEP_ON ? OUTCOME_INCOMPLETE :
						 finish_window(w, at - off, window, line);
		if (line)
			w->pos = at - off;
		p = f->base + at;
		/* No line of a context fits into less, and only --context-format makes a denial
		 * matter.
		 */
		if (!readable(f, p, 8)) {
			if (deep == DEEP_ON || ordered)
				return OUTCOME_INCOMPLETE;
			return finish_tail(s, f, off, end);
		}
		word = *(const __u64 *)p;
		if (line) {
			if (ends_head(word))
				return finish_head(w);
			if (may_be_context(word))
				return OUTCOME_INCOMPLETE;
			if (may_be_framing(word))
				note_framing(w, w->pos);
		}
		found = line_feeds(word);
		line = found;
		at += found ? ((found & -found) >> 7) * 0x0001020304050607ULL >> 56 : 7;
		at++;
	}
	return OUTCOME_INCOMPLETE;
}

VERIFIED_ALONE int scan_packet(struct __sk_buff *skb, struct scratch *s, __u32 off, __u32 window)
{
	struct fast_text f = {(const void *)(long)skb->data, (const void *)(long)skb->data_end,
			      true};

	if (!s || off >= FAST_REACH)
		return OUTCOME_INCOMPLETE;
	return scan(s, &f, off, window);
}

VERIFIED_ALONE int scan_text(struct scratch *s)
{
	if (!s)
		return OUTCOME_INCOMPLETE;
	return scan(s, &(struct fast_text){.base = s->text}, 0, s->walk.end);
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

/* After the walk over the first segment. */
static __always_inline bool has_request_line(const struct walk *w, int outcome)
{
	return w->request_line && outcome != OUTCOME_UNPARSABLE;
}

/* A traceparent line. A second one invalidates the first (W3C trace-context,
 * test_traceparent_duplicated).
 */
static __always_inline int parse_traceparent(struct scratch *s, __u32 value, __u32 end,
					     __u32 offset)
{
	struct walk *w = &s->walk;

	if (w->traceparents) {
		w->traceparent.have = 0;
		w->marks |= MARK_MALFORMED;
		return OUTCOME_INCOMPLETE;
	}
	w->traceparents = 1;
	if (read_traceparent(s, value, end) != VALUE_CONTEXT) {
		w->marks |= MARK_MALFORMED;
		return OUTCOME_INCOMPLETE;
	}
	w->traceparent = s->id;
	w->traceparent.offset = offset;
	w->traceparent.have = PART_IDS;
	return ends_walk(&w->traceparent) ? finish_walk(w, OUTCOME_NOT_FOUND) : OUTCOME_INCOMPLETE;
}

/* A header with a complete context. */
static __always_inline int parse_context(struct scratch *s, struct name name, __u32 value,
					 __u32 end, __u32 offset)
{
	struct walk *w = &s->walk;
	int read;

	switch (name.header) {
	case HEADER_TRACEPARENT:
		if (!name.configured)
			return parse_traceparent(s, value, end, offset);
		read = read_traceparent(s, value, end);
		break;
	case HEADER_B3:
		read = read_b3(s, value, end);
		break;
	case HEADER_UBER_TRACE_ID:
		read = read_uber_trace_id(s, value, end);
		break;
	case HEADER_AMZN_TRACE_ID:
		read = read_xray(s, value, end);
		break;
	case HEADER_CLOUD_TRACE_CONTEXT:
		read = read_gcp(s, value, end);
		break;
	default:
		read = read_sw8(s, value, end);
	}
	if (read == VALUE_MALFORMED)
		w->marks |= MARK_MALFORMED;
	if (read != VALUE_CONTEXT && read != VALUE_DENIAL)
		return OUTCOME_INCOMPLETE;
	s->id.offset = offset;
	choose_id(s, read == VALUE_CONTEXT);
	return ends_walk(&s->id) ? finish_walk(w, OUTCOME_NOT_FOUND) : OUTCOME_INCOMPLETE;
}

/* Whether the denial of a format in several headers ends the walk at this header. */
static __always_inline bool parts_end_walk(struct walk *w, __u32 header)
{
	if (!ordered)
		return false;
	w->b3.format = FORMAT_B3MULTI;
	if ((w->b3.have & PART_IDS) == PART_IDS && ends_walk(&w->b3) &&
	    (header < HEADER_B3_OTHER || header > HEADER_B3_FLAGS))
		return true;
	w->datadog.format = FORMAT_DATADOG;
	return (w->datadog.have & PART_IDS) == PART_IDS && ends_walk(&w->datadog) &&
	       header < HEADER_DATADOG_OTHER;
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
	if (deep && (deep == DEEP_ON || w->behind) && (w->skip_line || len > DEEP_LINE_MAX)) {
		w->request_line = 1; /* too long to be checked */
		return OUTCOME_INCOMPLETE;
	}
	if (!w->request_line)
		return parse_request_line(s, off, len);
	if (!len)
		return finish_walk(w, OUTCOME_NOT_FOUND);
	name = header_name(s, off);
	if (parts_end_walk(w, name.header))
		return finish_walk(w, OUTCOME_NOT_FOUND);
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
		w->marks |= MARK_MALFORMED; /* more than BLANKS_MAX */
		if (name.header == HEADER_TRACEPARENT && !name.configured) {
			w->traceparents = 1;
			w->traceparent.have = 0;
		}
		return OUTCOME_INCOMPLETE;
	}
	if (name.header < HEADER_B3_OTHER)
		return parse_context(s, name, value, end, w->base + off);
	if (name.header < HEADER_DATADOG_OTHER)
		ok = read_b3_part(s, name.header, value, end, w->base + off);
	else
		ok = read_datadog_part(s, name.header, value, end, w->base + off);
	if (!ok)
		w->marks |= MARK_MALFORMED;
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

struct search_budget {
	__u64 at; /* ns of CLOCK_MONOTONIC */
	__s64 left;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct search_budget);
} search_budgets SEC(".maps");

#define SECOND 1000000000ULL
#define BUDGET_TIME_MAX (10 * SECOND) /* no overflow with DEEP_BUDGET_MAX */
#define BUDGET_STEP (SECOND / 1000)   /* adds more than a byte even with DEEP_BUDGET_MIN */

/* DEEP_AUTO: whether this CPU may search behind the window now. A search may take more than
 * is left, by one segment: later ones pay for it. Out of line, as note_searched is: older
 * kernels have no stack left for their variables.
 */
static COLD RARE bool may_search(void)
{
	struct search_budget *b = bpf_map_lookup_elem(&search_budgets, &(__u32){0});
	__u64 now = bpf_ktime_get_ns(), passed;

	if (!b)
		return false;
	passed = now > b->at ? now - b->at : 0; /* another program may have interrupted this one */
	if (passed > BUDGET_TIME_MAX)
		passed = BUDGET_TIME_MAX;
	if (passed > BUDGET_STEP) {
		b->left += passed * deep_budget / SECOND;
		if (b->left > (__s64)deep_budget)
			b->left = deep_budget;
		b->at = now;
	}
	return b->left > 0;
}

/* Bytes were searched behind the window. */
static COLD RARE int note_searched(__u32 bytes)
{
	struct search_budget *b;

	count_more(COUNTER_SEARCH_BYTES, bytes);
	if (deep != DEEP_AUTO)
		return 0;
	b = bpf_map_lookup_elem(&search_budgets, &(__u32){0});
	if (b)
		b->left -= bytes;
	return 0;
}

/* Deep: continues the walk in s over len bytes at off. */
VERIFIED_ALONE RARE int parse_chunks(struct __sk_buff *skb, struct scratch *s, __u32 off, __u32 len)
{
	int outcome = OUTCOME_INCOMPLETE;

	if (!s)
		return OUTCOME_NOT_FOUND;
	for (int i = 0; i < 65536 / CHUNK_SIZE + 1; i++) {
		__u32 seen = s->walk.base + s->walk.end;

		FORGET(len, seen);
		if (seen >= deep_window) {
			outcome = OUTCOME_TRUNCATED;
			break;
		}
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

/* The same, within the budget. */
static __always_inline int search_chunks(struct __sk_buff *skb, struct scratch *s, __u32 off,
					 __u32 len)
{
	int outcome;
	__u32 from;

	if (is_limited(LIMIT_DEEP) || (deep == DEEP_AUTO && !may_search())) {
		count_rare(COUNTER_SEARCH_BUDGET);
		return OUTCOME_TRUNCATED;
	}
	s->walk.behind = 1;
	from = s->walk.base + s->walk.end;
	outcome = parse_chunks(skb, s, off, len);
	note_searched(s->walk.base + s->walk.end - from);
	if (outcome == OUTCOME_INCOMPLETE && walk_is_settled(&s->walk))
		return finish_walk(&s->walk, OUTCOME_NOT_FOUND);
	return outcome;
}

/* Deep: after a search. */
static __always_inline void mark_behind(struct walk *w, int outcome)
{
	if ((outcome == OUTCOME_FOUND || outcome == OUTCOME_UNSAMPLED) &&
	    (deep == DEEP_AUTO || w->found.offset >= prefix_window))
		w->marks |= MARK_BEHIND;
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

/* Forgets a context except for its IDs. */
static __always_inline void forget_context(struct context *c)
{
	__builtin_memset(&c->offset, 0, sizeof(*c) - offsetof(struct context, offset));
}

/* Starts a walk over a payload, len bytes at off. OUTCOME_INCOMPLETE: the head
 * continues after what may be read here.
 */
static __always_inline int begin_walk(struct __sk_buff *skb, struct scratch *s, __u32 off,
				      __u32 len, const enum access access)
{
	__u32 window = len < prefix_window ? len : prefix_window, first;
	int outcome = OUTCOME_INCOMPLETE;

	/* not the IDs: every path that uses some sets all of them */
	__builtin_memset(&s->walk, 0, offsetof(struct walk, found));
	forget_context(&s->walk.traceparent);
	forget_context(&s->walk.b3);
	forget_context(&s->walk.datadog);
	if (access == ACCESS_DIRECT && !context_headers.len) {
		outcome = fast_walk_packet(skb, s, off, window);
		if (outcome == FAST_CONTEXT)
			outcome = scan_packet(skb, s, off, window);
		if (outcome != OUTCOME_INCOMPLETE)
			return outcome;
	}
	first = window < FIRST_READ ? window : FIRST_READ;
	if (!(access == ACCESS_DIRECT && first == FIRST_READ && copy_first(skb, s, off)) &&
	    !append(skb, s, off, first))
		return OUTCOME_TRUNCATED;
	if (!s->walk.pos && !context_headers.len) {
		outcome = fast_walk_text(s);
		if (outcome == FAST_CONTEXT) {
			if (window > first && !append(skb, s, off + first, window - first))
				return OUTCOME_TRUNCATED;
			first = window;
			outcome = scan_text(s);
		}
		if (outcome != OUTCOME_INCOMPLETE)
			return outcome;
	}
	__builtin_memset(&s->walk.datadog, 0, sizeof(s->walk.datadog));
	outcome = parse_lines(s);
	if (outcome == OUTCOME_INCOMPLETE && window > first) {
		if (!append(skb, s, off + first, window - first))
			return OUTCOME_TRUNCATED;
		outcome = parse_lines(s);
	}
	return outcome;
}

/* Deep: whether the head is searched behind the window, which has outcome. What begins
 * with an unknown method is more likely no request if its first line does not end there.
 */
static __always_inline bool goes_on(const struct walk *w, int outcome, __u32 start)
{
	if (!deep || outcome != OUTCOME_TRUNCATED)
		return false;
	return deep == DEEP_ON || w->request_line || !(start & START_TOKEN);
}

/* The same, of a head whose window ended before it did. */
static __always_inline int search_behind(struct __sk_buff *skb, struct scratch *s, __u32 off,
					 __u32 len)
{
	__u32 window = len < prefix_window ? len : prefix_window;
	struct walk *w = &s->walk;
	int outcome = search_chunks(skb, s, off + window, len - window);

	if (w->behind)
		count_rare(COUNTER_SEARCH);
	if (outcome == OUTCOME_TRUNCATED)
		outcome = finish_walk(w, OUTCOME_TRUNCATED);
	mark_behind(w, outcome);
	return outcome;
}

static __always_inline int walk_whole(struct __sk_buff *skb, struct scratch *s, __u32 off,
				      __u32 len, __u32 start, const enum access access)
{
	int outcome;

	if (!s)
		return OUTCOME_UNPARSABLE;
	if (is_limited(LIMIT_NEW)) {
		s->walk.request_line = !(start & START_TOKEN);
		s->walk.marks = 0;
		return OUTCOME_NOT_CAPTURED;
	}
	outcome = begin_walk(skb, s, off, len, access);
	if (outcome == OUTCOME_TRUNCATED)
		return finish_walk(&s->walk, OUTCOME_TRUNCATED);
	if (outcome != OUTCOME_INCOMPLETE)
		return outcome;
	outcome = deep == DEEP_ON ? OUTCOME_TRUNCATED : finish_walk(&s->walk, OUTCOME_TRUNCATED);
	return goes_on(&s->walk, outcome, start) ? search_behind(skb, s, off, len) : outcome;
}

/* Walk the head at the start of a payload, len bytes at off, which begins like start;
 * s->walk.found is the context if the outcome is OUTCOME_FOUND.
 */
VERIFIED_ALONE int walk_direct(struct __sk_buff *skb, struct scratch *s, __u32 off, __u32 len,
			       __u32 start)
{
	return walk_whole(skb, s, off, len, start, ACCESS_DIRECT);
}

VERIFIED_ALONE int walk_loaded(struct __sk_buff *skb, struct scratch *s, __u32 off, __u32 len,
			       __u32 start)
{
	return walk_whole(skb, s, off, len, start, ACCESS_LOAD);
}

static __always_inline int walk_head(struct __sk_buff *skb, struct scratch *s, __u32 off, __u32 len,
				     __u32 start, const enum access access)
{
	return access == ACCESS_DIRECT ? walk_direct(skb, s, off, len, start) :
					 walk_loaded(skb, s, off, len, start);
}

#endif
