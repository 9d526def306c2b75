/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* From a segment to what becomes of its connection. */
#ifndef LAYERTRACE_SEGMENT_H
#define LAYERTRACE_SEGMENT_H

#include "passing.h"
#include "response.h"

/* A connection begins: remember its option, forget an older connection. */
static __always_inline void on_syn(struct __sk_buff *skb, const struct segment *seg,
				   struct scratch *s, struct connection *c, __u32 *followed)
{
	if (c && seg->seq + 1 == c->client.next)
		return; /* the SYN again */
	if (c) {
		if (is_open(c))
			emit(c, c->claim, 0);
		follow(c, followed, 0);
		bpf_map_delete_elem(&connections, &seg->key);
	}
	if (!read_options(skb, seg, s))
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

/* What a segment with payload does to its connection. */
static __always_inline struct connection *take_payload(struct __sk_buff *skb,
						       const struct segment *seg, struct scratch *s,
						       struct connection *c)
{
	__u64 now;

	if (!c && is_in_passing(seg->begins))
		return NULL;
	now = bpf_ktime_get_ns();
	if (!c) {
		c = begin_request(skb, seg, s, NULL, now);
		if (!c)
			return NULL;
		add_request_bytes(c, seg, s, seg->payload_len, now);
	} else if (seg->from_a == c->client_is_a) {
		client_data(skb, seg, s, c, now);
	} else {
		server_data(skb, seg, s, c, now);
	}
	c->last_ns = now;
	return c;
}

/* The peer's TCP has all bytes before the sequence number ack: also the last of
 * the message that the socket sent?
 */
static __always_inline void note_acknowledged(struct exchange_record *x, __u32 ack, __u64 now)
{
	if (x->leaving_start == x->leaving_end || before(ack, x->leaving_end) ||
	    x->handover_end == x->leaving_end)
		return;
	x->handover_end = x->leaving_end;
	x->acknowledged = now;
}

/* What the socket knows goes into an exchange that has just begun. */
static __always_inline void describe_socket(struct connection *c, const struct scratch *s)
{
	struct exchange_record *x = &c->x;

	if (!x->is_socket) {
		x->is_socket = 1;
		x->is_client = c->client_is_a;
		x->cookie = s->socket.cookie;
		x->netns = s->socket.netns;
		x->uid = s->socket.uid;
	}
	if (s->segment.direction == DIRECTION_INGRESS && s->segment.payload_len)
		note_acknowledged(x, s->segment.ack, c->last_ns);
}

/* The segment in s may belong to something. followed: the count of its
 * connection. Returns whether what comes next can belong to an
 * exchange. A function of its own: most segments belong to nothing, and code
 * that they pass on their way has to be fetched.
 */
__noinline int take_followed(struct __sk_buff *skb, struct scratch *s, __u32 *followed)
{
	const struct segment *seg;
	struct connection *c;

	if (!s || !followed)
		return 0;
	s = same_scratch(s);
	if (!s)
		return 0;
	seg = &s->segment;
	c = bpf_map_lookup_elem(&connections, &seg->key);
	if (is_beginning(seg)) {
		on_syn(skb, seg, s, c, followed);
		return 0;
	}
	if (seg->payload_len)
		c = take_payload(skb, seg, s, c);
	if (c && is_end(seg))
		c = on_end(seg, c, followed);
	if (!c)
		return 0;
	follow(c, followed, has_open_end(c));
	if (s->socket.cookie && c->phase != PHASE_IDLE)
		describe_socket(c, s);
	return c->followed;
}

/* Whether a segment can belong to something. */
static __always_inline bool concerns(const struct segment *seg, __u32 followed)
{
	return followed || is_beginning(seg) || is_end(seg) || !is_in_passing(seg->begins);
}

/* Fills the segment of s, as parse_segment. Out of line: what it needs of the stack
 * is free again for those that are called next.
 */
static __noinline int parse_directly(struct __sk_buff *skb, struct scratch *s, __u32 l2, bool bare)
{
	return parse_segment(skb, &s->segment, l2, ACCESS_DIRECT, bare);
}

static __always_inline bool parse(struct __sk_buff *skb, struct scratch *s, __u32 l2,
				  const enum access access)
{
	return access == ACCESS_DIRECT ? parse_directly(skb, s, l2, false) :
					 parse_segment(skb, &s->segment, l2, access, false);
}

/* What has to be read of a packet at an interface: into s, as little fits on the
 * stack.
 */
static __always_inline void look_closely(struct __sk_buff *skb, __u32 l2, enum direction direction,
					 const enum access access)
{
	struct scratch *s = claim_scratch();
	struct segment *seg;
	__u32 *followed;

	if (!s)
		return;
	seg = &s->segment;
	if (parse(skb, s, l2, access) && is_chosen(seg)) {
		seg->direction = direction;
		followed = followed_count(&seg->key, seg->key.ifindex);
		read_beginning(skb, seg, s, access);
		if (followed && concerns(seg, *followed)) {
			s->socket.cookie = 0;
			take_followed(skb, s, followed);
		}
	}
	release_scratch(s);
}

/* Out of the way of those that only pass. */
static __noinline int look_closely_directly(struct __sk_buff *skb, __u32 l2,
					    enum direction direction)
{
	look_closely(skb, l2, direction, ACCESS_DIRECT);
	return 0;
}

/* The body of every capture program at an interface; l2 is the link-layer
 * header's length.
 */
static __always_inline void capture(struct __sk_buff *skb, __u32 l2, enum direction direction,
				    const enum access access)
{
	struct glance g;

	if (access != ACCESS_DIRECT) {
		look_closely(skb, l2, direction, access);
		return;
	}
	if (glance_at(skb, l2, &g)) {
		if (!g.chosen)
			return;
		if (!(follows_any() &&
		      is_followed(followed_sums(g.addrs, g.ports, skb->ifindex))) &&
		    passes_by(skb, &g, access))
			return;
	}
	look_closely_directly(skb, l2, direction);
}

#endif
