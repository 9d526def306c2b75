/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* How segments begin. A segment passes several points of a node, sockets and
 * interfaces, one right after the other and mostly on one CPU: what the first
 * one reads of it, the others need not read again.
 */
#ifndef LAYERTRACE_KNOWN_H
#define LAYERTRACE_KNOWN_H

#include "request.h"

static __always_inline __u64 load_head(struct __sk_buff *skb, __u32 off, __u32 len,
				       const enum access access)
{
	__u64 head = 0;

	if (len >= sizeof(head)) {
		load(skb, off, &head, sizeof(head), access);
	} else if (len) {
		BOUND_LENGTH(len, sizeof(head));
		bpf_skb_load_bytes(skb, off, &head, len);
	}
	return head;
}

/* The place of a segment in the table, by multiplicative hashing. */
static __always_inline __u32 known_place(__u32 seq)
{
	return (__u32)(seq * (__u32)(HASH_FACTOR >> 32)) >> (32 - KNOWN_BITS);
}

/* A segment is known by its numbers and its length. Both numbers begin at random
 * (RFC 9293, section 3.4.1), and address translation leaves them as they are.
 */
static __always_inline bool is_known(const struct known_segment *k, __u64 numbers,
				     __u32 payload_len)
{
	return k->numbers == numbers && k->payload_len == payload_len;
}

/* Never to be found half written, by whoever interrupts this. */
static __always_inline void note_known(struct known_segment *k, __u64 numbers, __u32 payload_len,
				       struct beginning b)
{
	*(volatile __u64 *)&k->numbers = 0;
	asm volatile("" ::: "memory");
	k->payload_len = payload_len;
	k->beginning = b;
	asm volatile("" ::: "memory");
	*(volatile __u64 *)&k->numbers = numbers;
}

/* Reads how a segment begins that is not known: payload_len bytes at off. What a
 * walk found is in s->walk; an open walk is more than what it began with, and not
 * noted.
 */
static __always_inline struct beginning read_anew(struct __sk_buff *skb, struct scratch *s,
						  __u64 numbers, __u32 off, __u32 payload_len,
						  const enum access access)
{
	__u64 head = load_head(skb, off, payload_len, access);
	struct beginning b = {.outcome = NO_REQUEST, .response = is_response(head)};
	__u32 place = known_place(numbers >> 32);

	if (!b.response && is_method(head)) {
		b.outcome = walk_head(skb, s, off, payload_len, access);
		if (b.outcome == OUTCOME_OPEN)
			return b;
		b.request_line = s->walk.request_line;
		b.malformed = s->walk.malformed;
		if (b.outcome == OUTCOME_FOUND)
			s->contexts[place] = s->walk.found;
	}
	note_known(&s->known[place], numbers, payload_len, b);
	return b;
}

/* Sets how a segment begins. What a walk found is in s->walk. */
static __always_inline void read_beginning(struct __sk_buff *skb, struct segment *seg,
					   struct scratch *s, const enum access access)
{
	__u64 numbers = (__u64)seg->seq << 32 | seg->ack;
	__u32 place = known_place(seg->seq);
	struct known_segment *k = &s->known[place];

	seg->begins = (struct beginning){.outcome = NO_REQUEST};
	if (!seg->payload_len || is_beginning(seg))
		return;
	if (!is_known(k, numbers, seg->payload_len)) {
		seg->begins =
			read_anew(skb, s, numbers, seg->payload_off, seg->payload_len, access);
		return;
	}
	seg->begins = k->beginning;
	s->walk.request_line = k->beginning.request_line;
	s->walk.malformed = k->beginning.malformed;
	if (seg->begins.outcome == OUTCOME_FOUND)
		s->walk.found = s->contexts[place];
}

#endif
