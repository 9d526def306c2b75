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
	__u64 head = 0;

	if (seg->payload_len >= sizeof(head))
		load(skb, seg->payload_off, &head, sizeof(head), access);
	else if (seg->payload_len)
		bpf_skb_load_bytes(skb, seg->payload_off, &head, seg->payload_len);
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

/* How a segment begins: its first 8 bytes, fewer at its end, and the outcome of
 * the walk over the request, NO_REQUEST where none begins. What the walk found
 * is in s->walk.
 */
static __always_inline int read_beginning(struct __sk_buff *skb, const struct segment *seg,
					  struct scratch *s, __u64 *head, const enum access access)
{
	__u32 place = known_place(seg);
	struct known_segment *k = &s->known[place];
	int outcome = NO_REQUEST;

	if (!seg->payload_len)
		return NO_REQUEST;
	if (is_known(k, seg)) {
		*head = k->head;
		outcome = k->outcome;
		if (outcome == NO_REQUEST)
			return NO_REQUEST;
		s->walk.request_line = k->request_line;
		s->walk.malformed = k->malformed;
		if (outcome == OUTCOME_FOUND)
			s->walk.found = s->contexts[place];
		return outcome;
	}
	*head = load_head(skb, seg, access);
	if (is_method(*head))
		outcome = walk_request(skb, seg, s, access);
	/* An open walk is more than its outcome. */
	if (outcome == OUTCOME_OPEN)
		return outcome;
	k->numbers = (__u64)seg->seq << 32 | seg->ack;
	k->payload_len = seg->payload_len;
	k->outcome = outcome;
	k->request_line = s->walk.request_line;
	k->malformed = s->walk.malformed;
	k->head = *head;
	if (outcome == OUTCOME_FOUND)
		s->contexts[place] = s->walk.found;
	return outcome;
}

#endif
