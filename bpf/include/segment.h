/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* From a segment to what becomes of its connection. */
#ifndef LAYERTRACE_SEGMENT_H
#define LAYERTRACE_SEGMENT_H

#include "known.h"
#include "response.h"

/* A connection begins: remember its option, forget an older connection. */
static __always_inline void on_syn(struct __sk_buff *skb, const struct segment *seg,
				   struct scratch *s, struct connection *c, __u32 *followed,
				   const enum access access)
{
	if (c && seg->seq + 1 == c->client.next)
		return; /* the SYN again */
	if (c) {
		if (is_open(c))
			emit(c, c->claim, 0);
		follow(c, followed, 0);
		bpf_map_delete_elem(&connections, &seg->key);
	}
	if (!read_options(skb, seg, s, access))
		return;
	c = new_connection(seg, s);
	if (!c)
		return;
	c->client.known = 1;
	c->client.next = seg->seq + 1;
	c->syn_option_len = s->connection_id_len;
	__builtin_memcpy(c->syn_connection_id, s->connection_id, sizeof(c->syn_connection_id));
}

/* Returns the connection unless it is over. */
static __always_inline struct connection *on_end(const struct segment *seg, struct connection *c,
						 __u32 *followed)
{
	bool from_client = seg->from_a == c->client_is_a;

	if (seg->flags & TCP_RST) {
		if (is_open(c))
			emit(c, c->claim, c->phase == PHASE_REQUEST ? FLAG_RESET : 0);
	} else {
		if (from_client)
			c->client.fin = 1;
		else
			c->server.fin = 1;
		/* With the last byte of a response the server often closes. What
		 * comes behind it is still to be seen: the driver sends it, the
		 * application that asked reads it before it closes, too.
		 */
		if (!c->client.fin || !c->server.fin)
			return c;
		if (is_open(c))
			emit(c, c->claim, 0);
	}
	if (c->phase == PHASE_SEARCHING)
		count(COUNTER_DISCARDED);
	forget_search(&seg->key);
	follow(c, followed, 0);
	bpf_map_delete_elem(&connections, &seg->key);
	return NULL;
}

/* Whether a segment without a connection to be followed is done with: all but
 * the beginnings of requests that are recorded.
 */
static __always_inline bool is_in_passing(const struct scratch *s, __u64 head, int outcome)
{
	if (is_recorded(outcome))
		return false;
	if (outcome == NO_REQUEST) {
		if (is_response(head))
			count(COUNTER_RESPONSE_UNTRACKED);
		return true;
	}
	count_request(&s->walk, outcome);
	return true;
}

/* What a segment with payload does to its connection. */
static __always_inline struct connection *take_payload(struct __sk_buff *skb,
						       const struct segment *seg, struct scratch *s,
						       struct connection *c, __u64 head,
						       int outcome, enum direction direction,
						       const enum access access)
{
	__u64 now;

	if (!c && is_in_passing(s, head, outcome))
		return NULL;
	now = bpf_ktime_get_ns();
	if (!c) {
		c = begin_request(skb, seg, s, NULL, outcome, now, direction, access);
		if (!c)
			return NULL;
		add_request_bytes(c, seg, seg->payload_len, now);
	} else if (seg->from_a == c->client_is_a) {
		client_data(skb, seg, s, c, outcome, now, direction, access);
	} else {
		server_data(skb, seg, s, c, head, now);
	}
	c->last_ns = now;
	return c;
}

static __always_inline struct connection *take_with(struct __sk_buff *skb,
						    const struct segment *seg, struct scratch *s,
						    enum direction direction,
						    const enum access access)
{
	bool begins = (seg->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	bool ends = seg->flags & (TCP_FIN | TCP_RST);
	__u32 *followed = followed_count(&seg->key);
	int outcome = NO_REQUEST;
	struct connection *c;
	__u64 head = 0;

	if (!followed)
		return NULL;
	if (!begins) {
		outcome = read_beginning(skb, seg, s, &head, access);
		if (!ends && !*followed && is_in_passing(s, head, outcome))
			return NULL;
	}
	c = bpf_map_lookup_elem(&connections, &seg->key);
	if (begins) {
		on_syn(skb, seg, s, c, followed, access);
		return NULL;
	}
	if (seg->payload_len)
		c = take_payload(skb, seg, s, c, head, outcome, direction, access);
	if (c && ends)
		c = on_end(seg, c, followed);
	if (c)
		follow(c, followed, has_open_end(c));
	return c;
}

/* What a segment of a known or unknown connection does. Returns the
 * connection, or NULL when there is none to be followed.
 */
static __always_inline struct connection *take_segment(struct __sk_buff *skb,
						       const struct segment *seg,
						       enum direction direction,
						       const enum access access)
{
	struct scratch *s = claim_scratch();
	struct connection *c;

	if (!s)
		return NULL;
	c = take_with(skb, seg, s, direction, access);
	release_scratch(s);
	return c;
}

/* The body of every capture program; l2 is the link-layer header's length. */
static __always_inline void capture(struct __sk_buff *skb, __u32 l2, enum direction direction,
				    const enum access access)
{
	struct segment seg;

	if (parse_segment(skb, &seg, l2, access))
		take_segment(skb, &seg, direction, access);
}

#endif
