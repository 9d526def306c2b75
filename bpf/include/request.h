/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What a segment of the client does: a request begins or goes on. */
#ifndef LAYERTRACE_REQUEST_H
#define LAYERTRACE_REQUEST_H

#include "search.h"

static __always_inline struct connection *new_connection(const struct segment *seg,
							 struct scratch *s)
{
	struct connection *c;

	__builtin_memset(&s->fresh, 0, sizeof(s->fresh));
	s->fresh.claim = 1;
	s->fresh.client_is_a = seg->from_a;
	if (bpf_map_update_elem(&connections, &seg->key, &s->fresh, BPF_ANY)) {
		count(COUNTER_MAP_FULL);
		return NULL;
	}
	c = bpf_map_lookup_elem(&connections, &seg->key);
	if (!c)
		count(COUNTER_MAP_FULL);
	return c;
}

/* The client goes on where c was not followed: what passed meanwhile is not
 * missing. Its segment acknowledges all answers to what it asked before, and so
 * says where the next one begins: of that another segment may pass first.
 */
static __always_inline void resume(struct connection *c, const struct segment *seg)
{
	if (!c->client.known || before(c->client.next, seg->seq))
		begin_at(&c->client, seg->seq);
	begin_at(&c->server, seg->ack);
	begin_at(&c->driver_client, seg->seq);
	begin_at(&c->driver_server, seg->ack);
}

/* What a segment is that does not begin with a method: no outcome of a walk. */
#define NO_REQUEST (-1)

static __always_inline bool is_recorded(int outcome)
{
	return outcome == OUTCOME_FOUND || outcome == OUTCOME_OPEN;
}

static __always_inline void count_request(int outcome, bool malformed)
{
	if (outcome != OUTCOME_UNPARSABLE)
		count(COUNTER_REQUESTS);
	if (outcome != OUTCOME_OPEN)
		count_outcome(outcome, malformed);
}

/* Whether a segment of a connection on which nothing is followed is done with,
 * and counted: all but the beginnings of requests that are recorded.
 */
static __always_inline bool is_in_passing(struct beginning b)
{
	if (is_recorded(b.outcome))
		return false;
	if (b.outcome != NO_REQUEST)
		count_request(b.outcome, b.malformed);
	else if (b.response)
		count(COUNTER_RESPONSE_UNTRACKED);
	return true;
}

/* A segment of the client that begins with a method. c may be NULL. Returns
 * the connection when the segment belongs to an exchange or a search in it.
 */
static __always_inline struct connection *begin_request(struct __sk_buff *skb,
							const struct segment *seg,
							struct scratch *s, struct connection *c,
							__u64 now)
{
	int outcome = seg->begins.outcome;

	/* While a request has no response, what does not begin with a whole
	 * request line is more likely its body.
	 */
	if (c && c->phase == PHASE_REQUEST && !s->walk.request_line)
		outcome = OUTCOME_UNPARSABLE;
	count_request(outcome, s->walk.malformed);
	if (outcome == OUTCOME_UNPARSABLE)
		return c && is_open(c) ? c : NULL;
	if (c)
		close_previous(c);
	if (!is_recorded(outcome)) {
		if (c)
			c->waiting = 1;
		return NULL;
	}
	if (!c) {
		c = new_connection(seg, s);
		if (!c)
			return NULL;
		resume(c, seg);
		arrive(&c->client, seg->seq, seg->payload_len, &(__u32){0});
	}
	open_exchange(c, seg, now);
	if (outcome == OUTCOME_OPEN) {
		if (!save_search(&seg->key, s))
			return NULL;
		c->phase = PHASE_SEARCHING;
	} else {
		adopt_context(c, &s->walk);
	}
	read_options(skb, seg, s);
	set_connection_id(c, s);
	return c;
}

/* Deep: the walk in s is over; its context, if any, is the exchange's. */
static __always_inline void end_search(const struct segment *seg, struct connection *c,
				       struct walk *w, int outcome)
{
	if (outcome == OUTCOME_TRUNCATED)
		outcome = end_of_walk(w, OUTCOME_TRUNCATED);
	count_outcome(outcome, w->malformed);
	forget_search(&seg->key);
	c->phase = PHASE_IDLE;
	if (outcome == OUTCOME_FOUND) {
		adopt_context(c, w);
		c->x.flags |= FLAG_MULTI_SEGMENT;
	} else {
		c->waiting = 1;
	}
}

/* Deep: a segment behind the beginning of a request head: the head goes on in
 * it, or else (an answer, a gap) the window ends before it.
 */
static __always_inline void go_on_searching(struct __sk_buff *skb, const struct segment *seg,
					    struct scratch *s, struct connection *c, bool continues)
{
	int outcome = OUTCOME_TRUNCATED;

	if (!load_search(&seg->key, s)) {
		c->phase = PHASE_IDLE;
		count(COUNTER_HEAD_TRUNCATED);
		return;
	}
	if (continues) {
		outcome = take_chunks(skb, s, seg->payload_off, seg->payload_len);
		if (outcome == OUTCOME_OPEN) {
			if (!save_search(&seg->key, s))
				c->phase = PHASE_IDLE;
			return;
		}
	}
	end_search(seg, c, &s->walk, outcome);
}

static __always_inline void add_leaving(struct exchange_record *x, const struct segment *seg)
{
	__u32 end = seg->seq + seg->payload_len;

	if (before(x->leaving_end, end))
		x->leaving_end = end;
}

/* A segment that adds to the request. At the socket that sends it, its bytes were
 * written before it could be seen in a packet.
 */
static __always_inline void add_request_bytes(struct connection *c, const struct segment *seg,
					      const struct scratch *s, __u32 fresh, __u64 now)
{
	if (c->x.direction == DIRECTION_EGRESS)
		add_leaving(&c->x, seg);
	if (s->socket.cookie && seg->direction == DIRECTION_EGRESS) {
		if (!c->x.handover_request_first)
			c->x.handover_request_first = s->writing.first;
		c->x.handover_request_last = s->writing.last;
	}
	c->x.request_last = now;
	c->x.request_bytes += fresh;
	c->x.request_packets++;
}

/* Payload from the client of a known connection. */
static __always_inline void client_data(struct __sk_buff *skb, const struct segment *seg,
					struct scratch *s, struct connection *c, __u64 now)
{
	enum arrival arrival;
	__u32 fresh;

	if (!c->followed)
		resume(c, seg);
	arrival = arrive(&c->client, seg->seq, seg->payload_len, &fresh);
	if (arrival == ARRIVAL_AGAIN) {
		c->x.retransmits++;
		count(COUNTER_RETRANSMITTED);
		if (!fresh) {
			note_copy(c, seg, true, now);
			return;
		}
	} else if (arrival != ARRIVAL_IN_ORDER) {
		count(COUNTER_OUT_OF_ORDER);
	}
	if (c->phase == PHASE_SEARCHING) {
		if (arrival != ARRIVAL_AGAIN)
			go_on_searching(skb, seg, s, c, arrival == ARRIVAL_IN_ORDER);
	} else if (arrival != ARRIVAL_AGAIN && seg->begins.outcome != NO_REQUEST) {
		if (!begin_request(skb, seg, s, c, now))
			return;
	}
	if (c->phase == PHASE_IDLE)
		return;
	/* Cannot be told apart from the next request, whose head is late or missed. */
	if (c->phase == PHASE_RESPONSE &&
	    (arrival != ARRIVAL_IN_ORDER || c->client.gap_start != c->client.gap_end))
		return;
	if (is_open(c) && (c->claim & 1)) {
		count(COUNTER_LATE);
		return;
	}
	if (arrival == ARRIVAL_AHEAD || arrival == ARRIVAL_FILLED)
		c->x.flags |= FLAG_OUT_OF_ORDER;
	add_request_bytes(c, seg, s, fresh, now);
}

#endif
