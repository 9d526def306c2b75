/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* How segments begin. A segment passes several points of a node, sockets and
 * interfaces, one right after the other and mostly on one CPU: what the first
 * one reads of it, the others need not read again.
 */
#ifndef LAYERTRACE_KNOWN_H
#define LAYERTRACE_KNOWN_H

#include "request.h"

static __always_inline __u64 load_head(struct __sk_buff *skb, const struct segment *seg,
				       const enum access access)
{
	__u32 len = seg->payload_len;
	__u64 head = 0;

	asm volatile("" : "+r"(len)); /* the verifier has to see that it is not 0 */
	if (len >= sizeof(head))
		load(skb, seg->payload_off, &head, sizeof(head), access);
	else if (len)
		bpf_skb_load_bytes(skb, seg->payload_off, &head, len);
	return head;
}

/* The place of a segment in the table, by multiplicative hashing. */
static __always_inline __u32 known_place(const struct segment *seg)
{
	return (__u32)(seg->seq * (__u32)(HASH_FACTOR >> 32)) >> (32 - KNOWN_BITS);
}

/* A segment is known by its numbers and its length. Both numbers begin at random
 * (RFC 9293, section 3.4.1), and address translation leaves them as they are.
 */
static __always_inline bool is_known(const struct known_segment *k, const struct segment *seg)
{
	return k->numbers == ((__u64)seg->seq << 32 | seg->ack) &&
	       k->payload_len == seg->payload_len;
}

/* Sets how a segment begins: its head and its outcome. What a walk found is in
 * s->walk.
 */
static __always_inline void read_beginning(struct __sk_buff *skb, struct segment *seg,
					   struct scratch *s, const enum access access)
{
	__u32 place = known_place(seg);
	struct known_segment *k = &s->known[place];

	seg->outcome = NO_REQUEST;
	seg->head = 0;
	if (!seg->payload_len || is_beginning(seg))
		return;
	if (is_known(k, seg)) {
		seg->head = k->head;
		seg->outcome = k->outcome;
		s->walk.request_line = k->request_line;
		s->walk.malformed = k->malformed;
		if (seg->outcome == OUTCOME_FOUND)
			s->walk.found = s->contexts[place];
		return;
	}
	seg->head = load_head(skb, seg, access);
	if (is_method(seg->head))
		seg->outcome = walk_head(skb, seg, s, access);
	if (seg->outcome == OUTCOME_OPEN)
		return; /* an open walk is more than its outcome */
	k->numbers = (__u64)seg->seq << 32 | seg->ack;
	k->payload_len = seg->payload_len;
	k->outcome = seg->outcome;
	k->request_line = s->walk.request_line;
	k->malformed = s->walk.malformed;
	k->head = seg->head;
	if (seg->outcome == OUTCOME_FOUND)
		s->contexts[place] = s->walk.found;
}

#endif
