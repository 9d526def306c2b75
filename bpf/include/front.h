/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The first lines of a request head, read where they lie in the packet: with
 * the context in front nothing needs to be copied. It knows only what is usual,
 * lines that end with CRLF, a traceparent of version 00 and x-b3-*, and leaves
 * the rest to the walk of prefix.h, from the line on where it stopped.
 */
#ifndef LAYERTRACE_FRONT_H
#define LAYERTRACE_FRONT_H

#include "header_line.h"
#include "packet.h"

/* Lines looked at, the request line among them, and their longest length. */
#define FRONT_LINES 12
#define FRONT_LINE_MAX 128
/* "traceparent: " with a value of version 00 and CRLF. */
#define TRACEPARENT_LINE 70
/* Furthest start of a line, from the start of the packet: a power of 2. */
#define FRONT_REACH 1024

/* Forgets what the verifier knows of a value, by way of one that it knows
 * nothing of: it would follow every length of a line apart.
 */
#define FORGET(value, unknown) \
	asm volatile("%0 ^= %1\n%0 ^= %1" : "+r"(value) : "r"((typeof(value))(unknown)))

/* Makes the verifier see that a place is within reach; the compiler, which
 * knows, would leave a plain & out.
 */
#define BOUND(at) asm volatile("%0 &= %1" : "+r"(at) : "i"(FRONT_REACH - 1))

/* Bytes below ' ' in a word: 0x80 for the first one, and perhaps in bytes behind
 * it.
 */
static __always_inline __u64 control_bytes(__u64 word)
{
	return (word - EACH(' ')) & ~word & HIGH1;
}

/* May the line be a trace header? word: its first characters. */
static __always_inline bool may_matter(__u64 word)
{
	switch ((word | 0x2020) & 0xffff) {
	case 't' | 'r' << 8:
		return MATCHES(word, 8, 't', 'r', 'a', 'c', 'e', 'p', 'a', 'r');
	case 'x' | '-' << 8:
		return MATCHES(word, 5, 'x', '-', 'b', '3', '-', 0, 0, 0) ||
		       MATCHES(word, 8, 'x', '-', 'd', 'a', 't', 'a', 'd', 'o');
	case 'b' | '3' << 8:
	case 'u' | 'b' << 8:
	case 's' | 'w' << 8:
		return true;
	}
	return false;
}

/* Where the lines lie: in the packet, each look ahead has to be checked against
 * its end; scratch text has room behind it.
 */
struct front {
	const void *base;
	const void *end; /* in the packet */
	bool in_packet;
};

static __always_inline bool readable(const struct front *f, const void *p, const __u32 n)
{
	return !f->in_packet || p + n <= f->end;
}

/* Offset of the first control character from p on, -1 when it is too far. */
static __always_inline __s64 find_control(const struct front *f, const void *p)
{
#pragma unroll
	for (int i = 0; i < FRONT_LINE_MAX; i += 8) {
		__u64 found;

		if (i % 64 == 0 && !readable(f, p + i, 64))
			return -1;
		found = control_bytes(*(const __u64 *)(p + i));
		if (found)
			return i + (((found & -found) >> 7) * 0x0001020304050607ULL >> 56);
	}
	return -1;
}

/* The line at p, if it is a valid traceparent of version 00 and nothing else. */
static __always_inline bool front_traceparent(const struct front *f, const void *p,
					      struct context *c)
{
	const __u8 *line = p;
	__u8 flags;

	if (!readable(f, p, 72))
		return false;
	if (!MATCHES(*(const __u64 *)p, 8, 't', 'r', 'a', 'c', 'e', 'p', 'a', 'r') ||
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

/* The x-b3-* line at p: its length without CRLF, -1 when prefix.h has to look
 * at it. part: what it says; an ID is in c already, but counts only once the
 * line has been seen to end there.
 */
static __always_inline __s64 front_b3(const struct front *f, const void *p, struct context *c,
				      __u8 *part)
{
	const __u8 *line = p;
	__u64 rest;

	if (!readable(f, p, 48))
		return -1;
	rest = *(const __u64 *)(p + 5);
	if (((rest & 0xff) | 0x20) == 'p')
		return find_control(f, p); /* x-b3-parentspanid, or nothing */
	if (MATCHES(rest, 8, 't', 'r', 'a', 'c', 'e', 'i', 'd', ':') && line[13] == ' ' &&
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
	if (MATCHES(rest, 8, 's', 'a', 'm', 'p', 'l', 'e', 'd', ':') && line[13] == ' ' &&
	    (line[14] | 1) == '1' && !(c->have & PART_SAMPLING)) {
		*part = PART_SAMPLING;
		return 15;
	}
	return -1;
}

/* Walks the first lines of a payload at off, of which window bytes may be read.
 * OUTCOME_OPEN: prefix.h goes on from s->walk.pos.
 */
static __always_inline int walk_front(struct scratch *s, const struct front *f, __u32 off,
				      __u32 window)
{
	struct walk *w = &s->walk;
	__u64 at = off;

	BOUND(at);
	for (int i = 0; i < FRONT_LINES; i++) {
		const void *p = f->base + at;
		__u64 behind, word;
		bool b3 = false;
		__u8 part = 0;
		__s64 len;

		if (!readable(f, p, 8))
			break;
		word = *(const __u64 *)p;
		if (!i || !may_matter(word)) {
			len = find_control(f, p);
		} else if (MATCHES(word, 5, 'x', '-', 'b', '3', '-', 0, 0, 0)) {
			b3 = true;
			len = front_b3(f, p, &w->b3, &part);
		} else {
			if (w->b3.have || at - off + TRACEPARENT_LINE > window ||
			    !front_traceparent(f, p, &w->found))
				break;
			w->found.offset = at - off;
			return w->found.sampling == SAMPLING_DENIED ? OUTCOME_UNSAMPLED :
								      OUTCOME_FOUND;
		}
		if (len < 9)
			break; /* none, or too short for a request line */
		/* From 9 characters before the line's end on. */
		behind = at + len - 9;
		FORGET(behind, s->high);
		BOUND(behind);
		p = f->base + behind;
		if (!readable(f, p, 11) || *(const __u16 *)(p + 9) != ('\r' | '\n' << 8))
			break;
		if (!i && (*(const __u64 *)p != WORD(' ', 'H', 'T', 'T', 'P', '/', '1', '.') ||
			   (__u8)(*(const __u8 *)(p + 8) - '0') > 9))
			break;
		if (behind + 11 - off > window)
			break;
		if (part & PART_IDS) {
			have_id(&w->b3, part, at - off);
		} else if (part) {
			decide(w, &w->b3,
			       *(const __u8 *)(p + 8) == '1' ? SAMPLING_ACCEPTED : SAMPLING_DENIED);
		} else if (!b3 && (w->b3.have & PART_IDS) == PART_IDS) {
			break; /* whole, with the decision left open */
		}
		if (w->b3.have == (PART_IDS | PART_SAMPLING))
			return use(w, &w->b3, FORMAT_B3_MULTI);
		at = behind + 11;
		w->request_line = 1;
		w->pos = at - off;
	}
	return OUTCOME_OPEN;
}

/* Both are functions of their own, or else the verifier would go through the
 * lines again for each way that leads to them.
 */
__noinline int walk_front_of_packet(struct __sk_buff *skb, struct scratch *s, __u32 off,
				    __u32 window)
{
	struct front f = {(const void *)(long)skb->data, (const void *)(long)skb->data_end, true};

	if (!s || off >= FRONT_REACH)
		return OUTCOME_OPEN;
	return walk_front(s, &f, off, window);
}

/* The same in text, once its first bytes are read. */
__noinline int walk_front_of_text(struct scratch *s)
{
	if (!s)
		return OUTCOME_OPEN;
	return walk_front(s, &(struct front){.base = s->text}, 0, s->walk.end);
}

#endif
