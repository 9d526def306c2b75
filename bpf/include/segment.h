/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What a segment does to its connection. */
#ifndef LAYERTRACE_SEGMENT_H
#define LAYERTRACE_SEGMENT_H

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

/* Walks the head at the start of a segment: its outcome, found in the scratch. */
static __always_inline int walk_request(struct __sk_buff *skb, const struct segment *seg,
					const enum access access)
{
	struct scratch *s = get_scratch();
	int outcome;

	if (!s)
		return OUTCOME_UNPARSABLE;
	outcome = begin_walk(skb, s, seg->payload_off, seg->payload_len, access);
	if (outcome == OUTCOME_OPEN && !deep)
		outcome = OUTCOME_TRUNCATED;
	return outcome == OUTCOME_TRUNCATED ? end_of_walk(&s->walk, OUTCOME_TRUNCATED) : outcome;
}

static __always_inline bool is_recorded(int outcome)
{
	return outcome == OUTCOME_FOUND || outcome == OUTCOME_OPEN;
}

static __always_inline void count_request(const struct walk *w, int outcome)
{
	if (outcome != OUTCOME_UNPARSABLE)
		count(COUNTER_REQUESTS);
	if (outcome != OUTCOME_OPEN)
		count_outcome(w, outcome);
}

/* A segment of the client that begins with a method. c may be NULL. Returns
 * the connection when the segment belongs to an exchange or a search in it.
 */
static __always_inline struct connection *
begin_request(struct __sk_buff *skb, const struct segment *seg, struct connection *c, int outcome,
	      __u64 now, enum direction direction, const enum access access)
{
	struct scratch *s = get_scratch();

	if (!s)
		return NULL;
	/* While a request has no response, what does not begin with a whole
	 * request line is more likely its body.
	 */
	if (c && c->phase == PHASE_REQUEST && !s->walk.request_line)
		outcome = OUTCOME_UNPARSABLE;
	count_request(&s->walk, outcome);
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
	open_exchange(c, seg, now, direction);
	if (outcome == OUTCOME_OPEN) {
		if (!save_search(&seg->key, s))
			return NULL;
		c->phase = PHASE_SEARCHING;
	} else {
		adopt_context(c, &s->walk);
	}
	read_options(skb, seg, s, access);
	set_connection_id(c, s);
	return c;
}

/* Deep: the walk in s is over; its context, if any, is the exchange's. */
static __always_inline void end_search(const struct segment *seg, struct connection *c,
				       struct walk *w, int outcome)
{
	if (outcome == OUTCOME_TRUNCATED)
		outcome = end_of_walk(w, OUTCOME_TRUNCATED);
	count_outcome(w, outcome);
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
					    struct connection *c, bool continues)
{
	struct scratch *s = get_scratch();
	int outcome = OUTCOME_TRUNCATED;

	if (!s || !load_search(&seg->key, s)) {
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

static __always_inline void add_request_bytes(struct connection *c, const struct segment *seg,
					      __u32 fresh, __u64 now)
{
	if (c->x.direction == DIRECTION_EGRESS)
		add_leaving(&c->x, seg);
	c->x.request_last = now;
	c->x.request_bytes += fresh;
	c->x.request_packets++;
}

/* Payload from the client of a known connection. */
static __always_inline void client_data(struct __sk_buff *skb, const struct segment *seg,
					struct connection *c, int outcome, __u64 now,
					enum direction direction, const enum access access)
{
	enum arrival arrival;
	__u32 fresh;

	if (!c->followed)
		resume(c, seg);
	arrival = arrive(&c->client, seg->seq, seg->payload_len, &fresh);
	if (arrival == ARRIVAL_AGAIN) {
		c->x.retransmits++;
		count(COUNTER_RETRANSMITTED);
		if (!fresh)
			return;
	} else if (arrival != ARRIVAL_IN_ORDER) {
		count(COUNTER_OUT_OF_ORDER);
	}
	if (c->phase == PHASE_SEARCHING) {
		if (arrival != ARRIVAL_AGAIN)
			go_on_searching(skb, seg, c, arrival == ARRIVAL_IN_ORDER);
	} else if (arrival != ARRIVAL_AGAIN && outcome != NO_REQUEST) {
		if (!begin_request(skb, seg, c, outcome, now, direction, access))
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
	add_request_bytes(c, seg, fresh, now);
}

static __always_inline bool is_interim(__u16 status)
{
	return status >= 100 && status < 200 && status != 101;
}

/* Length of the interim response at the start of the segment, 0 when it is not
 * whole within the first read.
 */
static __always_inline __u32 interim_len(struct __sk_buff *skb, const struct segment *seg)
{
	struct scratch *s = get_scratch();
	__u32 len = seg->payload_len < FIRST_READ ? seg->payload_len : FIRST_READ;

	if (!s)
		return 0;
	s->walk.end = 0;
	return append(skb, s, seg->payload_off, len) ? find_head_end(s, len) : 0;
}

/* The start of a response; false when it belongs to another request or is not
 * the final one. skipped: bytes of interim responses before it.
 */
static __always_inline bool begin_response(struct __sk_buff *skb, const struct segment *seg,
					   struct connection *c, __u32 *skipped)
{
	__u16 status = read_status(skb, seg->payload_off);

	if (is_interim(status)) {
		__u64 head = 0;

		if (!c->skip_responses) {
			c->interim = 1;
			if (is_open(c))
				c->x.flags |= FLAG_INTERIM;
		}
		*skipped = interim_len(skb, seg);
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
					struct connection *c, __u64 head, __u64 now)
{
	__u32 fresh, skipped = 0;
	enum arrival arrival = arrive(&c->server, seg->seq, seg->payload_len, &fresh);

	if (arrival == ARRIVAL_AGAIN) {
		c->x.retransmits++;
		count(COUNTER_RETRANSMITTED);
		if (!fresh)
			return;
	} else if (arrival != ARRIVAL_IN_ORDER) {
		count(COUNTER_OUT_OF_ORDER);
	}
	if (is_method(head))
		count(COUNTER_REQUEST_IN_RESPONSE);
	if (c->phase == PHASE_SEARCHING)
		go_on_searching(skb, seg, c, false);
	if (c->phase == PHASE_IDLE && !c->skip_responses) {
		c->waiting = 0;
		return;
	}
	if (is_response(head) && (c->phase != PHASE_RESPONSE || c->skipping)) {
		if (!begin_response(skb, seg, c, &skipped))
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

/* A connection begins: remember its option, forget an older connection. */
static __always_inline void on_syn(struct __sk_buff *skb, const struct segment *seg,
				   struct connection *c, __u32 *followed, const enum access access)
{
	struct scratch *s = get_scratch();

	if (c && seg->seq + 1 == c->client.next)
		return; /* the SYN again */
	if (c) {
		if (is_open(c))
			emit(c, c->claim, 0);
		follow(c, followed, 0);
		bpf_map_delete_elem(&connections, &seg->key);
	}
	if (!s || !read_options(skb, seg, s, access))
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

/* Whether a segment without a connection to be followed is done with: all but
 * the beginnings of requests that are recorded.
 */
static __always_inline bool is_in_passing(const struct segment *seg, __u64 head, int outcome)
{
	struct scratch *s;

	if (is_recorded(outcome))
		return false;
	if (outcome == NO_REQUEST) {
		if (is_response(head))
			count(COUNTER_RESPONSE_UNTRACKED);
		return true;
	}
	s = get_scratch();
	if (s)
		count_request(&s->walk, outcome);
	return true;
}

/* What a segment with payload does to its connection. */
static __always_inline struct connection *
take_payload(struct __sk_buff *skb, const struct segment *seg, struct connection *c, __u64 head,
	     int outcome, enum direction direction, const enum access access)
{
	__u64 now;

	if (!c && is_in_passing(seg, head, outcome))
		return NULL;
	now = bpf_ktime_get_ns();
	if (!c) {
		c = begin_request(skb, seg, NULL, outcome, now, direction, access);
		if (!c)
			return NULL;
		add_request_bytes(c, seg, seg->payload_len, now);
	} else if (seg->from_a == c->client_is_a) {
		client_data(skb, seg, c, outcome, now, direction, access);
	} else {
		server_data(skb, seg, c, head, now);
	}
	c->last_ns = now;
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
	bool begins = (seg->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	bool ends = seg->flags & (TCP_FIN | TCP_RST);
	__u32 *followed = followed_count(&seg->key);
	int outcome = NO_REQUEST;
	struct connection *c;
	__u64 head = 0;

	if (!followed)
		return NULL;
	if (!begins) {
		head = load_head(skb, seg, access);
		if (is_method(head))
			outcome = walk_request(skb, seg, access);
		if (!ends && !*followed && is_in_passing(seg, head, outcome))
			return NULL;
	}
	c = bpf_map_lookup_elem(&connections, &seg->key);
	if (begins) {
		on_syn(skb, seg, c, followed, access);
		return NULL;
	}
	if (seg->payload_len)
		c = take_payload(skb, seg, c, head, outcome, direction, access);
	if (c && ends)
		c = on_end(seg, c, followed);
	if (c)
		follow(c, followed, has_open_end(c));
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
