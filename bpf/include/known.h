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

	asm volatile("" : "+r"(len)); /* the verifier has to see that it is not 0 */
	if (len >= sizeof(head))
		load(skb, off, &head, sizeof(head), access);
	else if (len)
		bpf_skb_load_bytes(skb, off, &head, len);
	return head;
}

/* A segment is known by its numbers and its length. Both numbers begin at random
 * (RFC 9293, section 3.4.1), and address translation leaves them as they are.
 */
static __always_inline __u64 numbers_of(const struct segment *seg)
{
	return (__u64)seg->seq << 32 | seg->ack;
}

/* The place in the table, by multiplicative hashing of the sequence number. */
static __always_inline __u32 known_place(__u32 seq)
{
	return (__u32)(seq * (__u32)(HASH_FACTOR >> 32)) >> (32 - KNOWN_BITS);
}

static __always_inline bool is_known(const struct known_segment *k, __u64 numbers,
				     __u32 payload_len)
{
	return k->numbers == numbers && k->payload_len == payload_len;
}

/* Never to be found half written, by whoever interrupts this. */
static __always_inline void note_known(struct known_segment *k, __u64 numbers, __u32 payload_len,
				       struct beginning b, __u64 head)
{
	*(volatile __u64 *)&k->numbers = 0;
	k->payload_len = payload_len;
	k->beginning = b;
	*(volatile __u64 *)&k->head = head;
	*(volatile __u64 *)&k->numbers = numbers;
}

static __always_inline struct beginning beginning_of(const struct segment *seg,
						     const struct scratch *s)
{
	return (struct beginning){
		.outcome = seg->outcome,
		.request_line = s->walk.request_line,
		.malformed = s->walk.malformed,
		.response = is_response(seg->head),
	};
}

/* Sets how a segment begins: its head and its outcome. What a walk found is in
 * s->walk.
 */
static __always_inline void read_beginning(struct __sk_buff *skb, struct segment *seg,
					   struct scratch *s, const enum access access)
{
	__u32 place = known_place(seg->seq);
	struct known_segment *k = &s->known[place];

	seg->outcome = NO_REQUEST;
	seg->head = 0;
	if (!seg->payload_len || is_beginning(seg))
		return;
	if (is_known(k, numbers_of(seg), seg->payload_len)) {
		seg->head = k->head;
		seg->outcome = k->beginning.outcome;
		s->walk.request_line = k->beginning.request_line;
		s->walk.malformed = k->beginning.malformed;
		if (seg->outcome == OUTCOME_FOUND)
			s->walk.found = s->contexts[place];
		return;
	}
	seg->head = load_head(skb, seg->payload_off, seg->payload_len, access);
	if (is_method(seg->head))
		seg->outcome = walk_head(skb, seg, s, access);
	if (seg->outcome == OUTCOME_OPEN)
		return; /* an open walk is more than its outcome */
	if (seg->outcome == OUTCOME_FOUND)
		s->contexts[place] = s->walk.found;
	note_known(k, numbers_of(seg), seg->payload_len, beginning_of(seg, s), seg->head);
}

#endif
