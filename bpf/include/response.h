/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What a segment of the server does: a response begins or goes on. */
#ifndef LAYERTRACE_RESPONSE_H
#define LAYERTRACE_RESPONSE_H

#include "request.h"

static __always_inline bool is_interim(__u16 status)
{
	return status >= 100 && status < 200 && status != 101;
}

/* Length of the interim response at the start of the segment, 0 when it is not
 * whole within the first read.
 */
static __always_inline __u32 interim_len(struct __sk_buff *skb, const struct segment *seg,
					 struct scratch *s)
{
	__u32 len = seg->payload_len < FIRST_READ ? seg->payload_len : FIRST_READ;

	s->walk.end = 0;
	return append(skb, s, seg->payload_off, len) ? find_head_end(s, len) : 0;
}

/* The start of a response; false when it belongs to another request or is not
 * the final one. skipped: bytes of interim responses before it.
 */
static __always_inline bool begin_response(struct __sk_buff *skb, const struct segment *seg,
					   struct scratch *s, struct connection *c, __u32 *skipped)
{
	__u16 status = read_status(skb, seg->payload_off);

	if (is_interim(status)) {
		__u64 head = 0;

		if (!c->skip_responses) {
			c->interim = 1;
			if (is_open(c))
				c->x.flags |= FLAG_INTERIM;
		}
		*skipped = interim_len(skb, seg, s);
		if (!*skipped || *skipped + sizeof(head) > seg->payload_len ||
		    bpf_skb_load_bytes(skb, seg->payload_off + *skipped, &head, sizeof(head)) ||
		    !is_response(head))
			return false;
		status = read_status(skb, seg->payload_off + *skipped);
		if (is_interim(status))
			return false;
	}
	if (c->skip_responses) {
		c->skipping = 1;
		c->skip_responses--;
		return false;
	}
	c->skipping = 0;
	c->interim = 0;
	c->waiting = 0;
	c->x.status = status;
	if (status == 101)
		c->x.flags |= FLAG_UPGRADED;
	return true;
}

/* Payload from the server of a known connection. */
static __always_inline void server_data(struct __sk_buff *skb, const struct segment *seg,
					struct scratch *s, struct connection *c, __u64 now)
{
	__u32 fresh, skipped = 0;
	enum arrival arrival = arrive(&c->server, seg->seq, seg->payload_len, &fresh);

	if (arrival == ARRIVAL_AGAIN) {
		c->x.retransmits++;
		count(COUNTER_RETRANSMITTED);
		if (!fresh) {
			note_copy(c, seg, false, now);
			return;
		}
	} else if (arrival != ARRIVAL_IN_ORDER) {
		count(COUNTER_OUT_OF_ORDER);
	}
	if (seg->begins.outcome != NO_REQUEST)
		count(COUNTER_REQUEST_IN_RESPONSE);
	if (c->phase == PHASE_SEARCHING)
		go_on_searching(skb, seg, s, c, false);
	if (c->phase == PHASE_IDLE && !c->skip_responses) {
		c->waiting = 0;
		return;
	}
	if (seg->begins.response && (c->phase != PHASE_RESPONSE || c->skipping)) {
		if (!begin_response(skb, seg, s, c, &skipped))
			return;
		fresh -= skipped < fresh ? skipped : fresh;
	} else if (c->skipping || c->skip_responses) {
		return;
	}
	if (!is_open(c))
		return;
	if (c->claim & 1) {
		count(COUNTER_LATE);
		return;
	}
	if (arrival == ARRIVAL_AHEAD || arrival == ARRIVAL_FILLED)
		c->x.flags |= FLAG_OUT_OF_ORDER;
	if (c->phase == PHASE_REQUEST) {
		c->phase = PHASE_RESPONSE;
		c->x.response_first = now;
		if (c->x.direction == DIRECTION_INGRESS)
			set_leaving(&c->x, seg->seq + skipped);
	}
	if (c->x.direction == DIRECTION_INGRESS)
		add_leaving(&c->x, seg);
	c->x.response_last = now;
	c->x.response_bytes += fresh;
	c->x.response_packets++;
}

#endif
