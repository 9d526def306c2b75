/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* From the payload of a segment to the turn of its connection.
 *
 * follow           on_old_bytes | on_hole -> wait_on (disorder.h) | resync, walk_records ->
 *                    account
 */
#ifndef LAYERTRACE_FOLLOW_H
#define LAYERTRACE_FOLLOW_H

#include "disorder.h"

/* A segment of which all bytes, or later ones, have passed. */
static COLD int on_old_bytes(struct connection *c, bool from_client, __u32 seq, __u32 end)
{
	struct stream *st = stream_of(c, from_client);
	struct turn_message *m = message_of(c, from_client);
	__u32 fill = end - seq;

	if (!fills_gap(c, st, seq, end))
		return 0;
	if (m->first) {
		m->bytes += fill;
		m->packets++;
		m->last = c->now;
		m->small_delay = 0;
	}
	return 0;
}

/* The bytes between st->next and seq have not passed. */
static COLD int on_hole(struct connection *c, struct stream *st, __u32 seq)
{
	count(ENCRYPTED_COUNTER_HOLES);
	if (st->state != STREAM_SYNCED)
		return 0;
	if (st->partial_len || before(st->header_at, seq))
		begin_waiting(c, st);
	else
		note_gap(st, seq);
	return 0;
}

/* The first 8 bytes of a payload, 0 if it is shorter. */
static __always_inline __u64 load_head(struct __sk_buff *skb, __u32 off, __u32 len)
{
	__u64 head = 0;

	if (len < sizeof(head) || bpf_skb_load_bytes(skb, off, &head, sizeof(head)))
		return 0;
	return head;
}

/* A segment of a stream whose next header is unknown. Returns whether its first byte is one.
 */
static COLD int resync(struct __sk_buff *skb, struct connection *c, struct stream *st, __u32 off,
		       __u32 len)
{
	if (!is_record_header(load_head(skb, off, len))) {
		if (st->state == STREAM_LOST || c->role & ROLE_HELLO)
			c->turn.flags |= TURN_DESYNCHRONIZED;
		st->state = STREAM_LOST;
		c->lost++;
		return 0;
	}
	if (st->state == STREAM_LOST)
		count(ENCRYPTED_COUNTER_RESYNCHRONIZED);
	st->state = STREAM_SYNCED;
	st->header_at = st->next;
	st->partial_len = 0;
	st->in_message = 0;
	c->lost = 0;
	return 1;
}

/* Applies len bytes at offset off, which one end has sent, to the connection. */
VERIFIED_ALONE int follow(struct __sk_buff *skb, struct connection *c, __u32 seq, __u32 off,
			  __u32 len)
{
	__u32 end = seq + len;
	bool from_client, lost = false;
	struct stream *st;

	if (!skb || !c)
		return 0;
	from_client = c->from_client;
	st = stream_of(c, from_client);
	c->has_data = 0;
	c->has_large = 0;
	if (st->state == STREAM_WAITING)
		return wait_on(skb, c, seq, off, len);
	if (st->state != STREAM_UNSEEN) {
		if (!before(st->next, end)) {
			on_old_bytes(c, from_client, seq, end);
			return 0;
		}
		if (before(seq, st->next)) {
			off += st->next - seq;
			seq = st->next;
			c->turn.retransmits++;
		} else if (seq != st->next) {
			on_hole(c, st, seq);
			if (st->state == STREAM_WAITING)
				return wait_on(skb, c, seq, off, len);
			lost = st->state == STREAM_LOST;
		}
	}
	st->next = seq;
	if (st->state != STREAM_SYNCED && !resync(skb, c, st, off, end - seq)) {
		/* Its records are unknown, its time is not. */
		if (message_of(c, from_client)->first) {
			c->has_large = 1;
			account(c, from_client, end - seq, 1);
		}
		st->next = end;
		return 0;
	}
	st->next = end;
	if (st->in_message && before(seq, st->header_at)) {
		c->has_data = 1;
		c->has_large = st->in_message == LARGE_IN_MESSAGE;
	}
	walk_records(skb, c, st, seq, off, end - seq);
	if (lost)
		c->turn.flags |= TURN_DESYNCHRONIZED;
	end_flight(c, st, end);
	if (c->has_data)
		account(c, from_client, end - seq, 1);
	return 0;
}

#endif
