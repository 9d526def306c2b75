/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The walk over a request head: from the packet to text, as far as it may be
 * read, and on over its lines.
 */
#ifndef LAYERTRACE_WALK_H
#define LAYERTRACE_WALK_H

#include "prefix.h"

/* Appends len bytes of the packet to text; the caller keeps to its size. */
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

/* Deep: keeps the unfinished line at the front of text, so the next chunk can
 * follow. Of one that is too long only the last byte stays, which may be CR.
 */
__noinline int carry_line(struct scratch *s)
{
	__u32 len, from;
	struct walk *w;

	if (!s)
		return 0;
	w = &s->walk;
	len = w->end - w->pos;
	if (len > CARRY_MAX + 1) { /* the line and its CR */
		w->skip_line = 1;
		w->pos = w->end - 1;
		len = 1;
	}
	from = w->pos;
	for (__u32 i = 0; i <= CARRY_MAX / 8; i++) {
		if (i * 8 >= len)
			break;
		*(__u64 *)(s->text + i * 8) = text64(s, from + i * 8);
	}
	w->base += from;
	w->pos = 0;
	w->end = len;
	return 0;
}

/* Deep: one chunk of a segment, len bytes at off. */
static __always_inline int take_chunk(struct __sk_buff *skb, struct scratch *s, __u32 off,
				      __u32 len)
{
	carry_line(s);
	if (len > CHUNK_SIZE)
		len = CHUNK_SIZE;
	if (!append(skb, s, off, len))
		return OUTCOME_TRUNCATED;
	return take_lines(s);
}

/* Deep: goes on with the walk in s over len more bytes at off. */
__noinline int take_chunks(struct __sk_buff *skb, struct scratch *s, __u32 off, __u32 len)
{
	int outcome = OUTCOME_OPEN;

	if (!s)
		return OUTCOME_NONE;
	for (int i = 0; i < 65536 / CHUNK_SIZE + 1; i++) {
		__u32 seen = s->walk.base + s->walk.end;

		FORGET(len, seen);
		if (seen >= deep_window)
			return OUTCOME_TRUNCATED;
		if (!len)
			break;
		if (len > deep_window - seen)
			len = deep_window - seen;
		outcome = take_chunk(skb, s, off, len);
		if (outcome != OUTCOME_OPEN)
			break;
		off += CHUNK_SIZE;
		len -= len > CHUNK_SIZE ? CHUNK_SIZE : len;
	}
	return outcome;
}

/* The first read, where the packet may be looked at directly: moves of 8 bytes
 * take a third of the time that the helper's string copy does.
 */
static __always_inline bool copy_first(struct __sk_buff *skb, struct scratch *s, __u32 off)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	__u64 at = off;

	if (off >= FRONT_REACH)
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

/* Begins a walk over a segment's payload, len bytes at off. OUTCOME_OPEN: the
 * head goes on behind what may be read here.
 */
static __always_inline int begin_walk(struct __sk_buff *skb, struct scratch *s, __u32 off,
				      __u32 len, const enum access access)
{
	__u32 window = len < prefix_window ? len : prefix_window, first;
	int outcome = OUTCOME_OPEN;

	/* not found: whoever finds a context sets all of it */
	__builtin_memset(&s->walk, 0, offsetof(struct walk, found));
	__builtin_memset(&s->walk.b3.offset, 0,
			 sizeof(struct context) - offsetof(struct context, offset));
	if (access == ACCESS_DIRECT && !extra_names_len) {
		outcome = walk_front_of_packet(skb, s, off, window);
		if (outcome != OUTCOME_OPEN)
			return outcome;
	}
	first = window < FIRST_READ ? window : FIRST_READ;
	if (!(access == ACCESS_DIRECT && first == FIRST_READ && copy_first(skb, s, off)) &&
	    !append(skb, s, off, first))
		return OUTCOME_TRUNCATED;
	if (!s->walk.pos && !extra_names_len)
		outcome = walk_front_of_text(s);
	if (outcome != OUTCOME_OPEN)
		return outcome;
	__builtin_memset(&s->walk.datadog, 0, sizeof(s->walk.datadog));
	outcome = take_lines(s);
	if (outcome == OUTCOME_OPEN && window > first) {
		if (!append(skb, s, off + first, window - first))
			return OUTCOME_TRUNCATED;
		outcome = take_lines(s);
	}
	if (deep && outcome == OUTCOME_OPEN)
		outcome = take_chunks(skb, s, off + window, len - window);
	return outcome;
}

static __always_inline int whole_walk(struct __sk_buff *skb, struct scratch *s, __u32 off,
				      __u32 len, const enum access access)
{
	int outcome;

	if (!s)
		return OUTCOME_UNPARSABLE;
	outcome = begin_walk(skb, s, off, len, access);
	if (outcome == OUTCOME_OPEN && !deep)
		outcome = OUTCOME_TRUNCATED;
	return outcome == OUTCOME_TRUNCATED ? end_of_walk(&s->walk, OUTCOME_TRUNCATED) : outcome;
}

/* Walks the head at the start of a payload, len bytes at off: its outcome; what
 * it found is in s->walk. Functions of their own, since most segments begin
 * otherwise.
 */
__noinline int walk_directly(struct __sk_buff *skb, struct scratch *s, __u32 off, __u32 len)
{
	return whole_walk(skb, s, off, len, ACCESS_DIRECT);
}

__noinline int walk_loaded(struct __sk_buff *skb, struct scratch *s, __u32 off, __u32 len)
{
	return whole_walk(skb, s, off, len, ACCESS_LOAD);
}

static __always_inline int walk_head(struct __sk_buff *skb, struct scratch *s, __u32 off, __u32 len,
				     const enum access access)
{
	return access == ACCESS_DIRECT ? walk_directly(skb, s, off, len) :
					 walk_loaded(skb, s, off, len);
}

#endif
