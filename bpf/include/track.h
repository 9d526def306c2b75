/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* From a segment to what it does to its connection: the state table is in connection.h.
 * From top to bottom: requests, responses, the segment cache, the fast path, and the
 * dispatch of segments.
 */
#ifndef LAYERTRACE_TRACK_H
#define LAYERTRACE_TRACK_H

#include "framing.h"

/* Deep: a walk that continues in the next segment. */
struct partial_head {
	struct walk walk;
	__u8 line[DEEP_LINE_MAX + 8];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct connection_key);
	__type(value, struct partial_head);
} partial_heads SEC(".maps");

static __always_inline bool is_response(__u64 head)
{
	return MATCHES_EXACT(head, 7, 'H', 'T', 'T', 'P', '/', '1', '.', 0);
}

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

static __always_inline void set_endpoints(struct exchange_record *x, const struct segment *seg)
{
	const struct connection_key *k = &seg->key;

	__builtin_memcpy(x->client_addr, seg->from_a ? k->addr_a : k->addr_b, 16);
	__builtin_memcpy(x->server_addr, seg->from_a ? k->addr_b : k->addr_a, 16);
	x->client_port = seg->from_a ? k->port_a : k->port_b;
	x->server_port = seg->from_a ? k->port_b : k->port_a;
	x->ifindex = k->ifindex;
}

/* A retransmission of bytes that passed this point before. If a packet of the message
 * was dropped after this point, the driver gets the bytes only now, unless the qdisc
 * later reports that they were queued.
 */
static __always_inline void note_retransmit(struct connection *c, const struct segment *seg,
					    bool from_client, __u64 now)
{
	struct exchange_record *x = &c->x;

	if (!x->egress_dropped || from_client != (x->direction == DIRECTION_EGRESS))
		return;
	x->qdisc_bypass = 1;
	note_far_side(x, from_client, seg->seq, seg->seq + seg->payload_len, now);
}

/* Length of an empty line before a request line (RFC 9112, section 2.2). */
static __always_inline __u32 empty_line(__u64 head)
{
	return (head & 0xffff) == ('\r' | '\n' << 8) ? 2 : 0;
}

/* Loads the start of the request line. */
static __always_inline void load_request_line(struct __sk_buff *skb, const struct segment *seg,
					      struct exchange_record *x, __u32 skip)
{
	__u32 len = seg->payload_len - skip;

	if (!len || seg->payload_len < skip)
		return;
	if (len > REQUEST_LINE_MAX)
		len = REQUEST_LINE_MAX;
	BOUND_LENGTH(len, REQUEST_LINE_MAX_BOUND);
	if (len <= REQUEST_LINE_MAX)
		bpf_skb_load_bytes(skb, seg->payload_off + skip, x->request_line, len);
}

/* Fills the record of a request that begins in the segment. */
static __always_inline void start_record(struct __sk_buff *skb, const struct segment *seg,
					 const struct scratch *s, const struct connection *c,
					 struct exchange_record *x, __u64 now)
{
	__u64 head;

	__builtin_memset(x, 0, sizeof(*x));
	set_endpoints(x, seg);
	x->request_first = now;
	start_egress(x, seg->seq);
	x->direction = seg->direction;
	if (s->connection_id_len) {
		__builtin_memcpy(x->connection_id, s->connection_id, sizeof(x->connection_id));
		x->connection_id_len = s->connection_id_len;
		x->option_time = s->option_time;
	} else if (c->syn_option_len) {
		__builtin_memcpy(x->connection_id, c->syn_connection_id, sizeof(x->connection_id));
		x->connection_id_len = c->syn_option_len;
		x->flags |= FLAG_OPTION_LOST;
	}
	load_request_line(skb, seg, x, 0);
	__builtin_memcpy(&head, x->request_line, sizeof(head));
	if (empty_line(head))
		load_request_line(skb, seg, x, 2);
}

static __always_inline __u8 bodiless(__u64 head)
{
	if (MATCHES_EXACT(head, 5, 'H', 'E', 'A', 'D', ' ', 0, 0, 0))
		return BODILESS_HEAD;
	if (MATCHES_EXACT(head, 8, 'C', 'O', 'N', 'N', 'E', 'C', 'T', ' '))
		return BODILESS_CONNECT;
	return BODILESS_NONE;
}

static __always_inline __u8 bodiless_record(const struct exchange_record *x)
{
	__u64 head;

	__builtin_memcpy(&head, x->request_line, sizeof(head));
	return bodiless(head);
}

/* The same of a request that is not recorded. */
static __always_inline __u8 bodiless_segment(struct __sk_buff *skb, const struct segment *seg)
{
	__u64 head = load_head(skb, seg->payload_off, seg->payload_len, ACCESS_LOAD);

	if (empty_line(head))
		head = load_head(skb, seg->payload_off + 2, seg->payload_len - 2, ACCESS_LOAD);
	return bodiless(head);
}

/* The request that begins at seq becomes the current one. */
static __always_inline void become_current(struct connection *c, __u32 seq, __u8 head)
{
	c->request_start = seq;
	c->bodiless = head;
	c->response.kind = MESSAGE_NONE;
	c->status_len = 0;
	c->strange = 0;
	c->reports = 0;
	c->waits_since = 0;
	c->recorded = 0;
	c->phase = PHASE_REQUEST;
}

_Static_assert(COUNTER_HEAD_UNPARSABLE - COUNTER_CONTEXT_FOUND ==
		       OUTCOME_UNPARSABLE - OUTCOME_FOUND,
	       "each outcome has its counter, in the same order");

static __always_inline void count_outcome(int outcome, __u8 marks)
{
	count(COUNTER_CONTEXT_FOUND + outcome - OUTCOME_FOUND);
	if (marks & MARK_MALFORMED)
		count(COUNTER_CONTEXT_MALFORMED);
	if (marks & MARK_SEVERAL)
		count(COUNTER_CONTEXT_SEVERAL);
}

static __always_inline void set_context(struct exchange_record *x, const struct walk *w)
{
	__builtin_memcpy(x->trace_id, w->found.trace_id, sizeof(x->trace_id));
	__builtin_memcpy(x->span_id, w->found.span_id, sizeof(x->span_id));
	x->format = w->found.format;
	x->sampling = w->found.sampling;
	x->header_offset = w->found.offset;
	if (w->marks & MARK_MALFORMED)
		x->flags |= FLAG_MALFORMED;
	if (w->marks & MARK_SEVERAL)
		x->flags |= FLAG_SEVERAL_CONTEXTS;
}

/* The exchange in c->x becomes the current one's. */
static __always_inline void record_current(struct connection *c)
{
	c->phase = PHASE_REQUEST;
	c->recorded = 1;
	c->claim = (c->claim | 1) + 1;
}

/* Deep: stores the walk until the next segment. */
VERIFIED_ALONE int save_partial_head(struct scratch *s)
{
	const struct connection_key *key;
	struct partial_head *found;

	if (!s)
		return false;
	s = scratch_as_map_value(s);
	if (!s)
		return false;
	key = &s->segment.key;
	carry_line(s);
	/* text starts with the carried line; copy one block */
	found = bpf_map_lookup_elem(&partial_heads, key);
	if (!found) {
		/* any bytes will do for a new entry: overwritten below */
		if (bpf_map_update_elem(&partial_heads, key, s->text, BPF_ANY)) {
			count(COUNTER_MAP_FULL);
			return false;
		}
		found = bpf_map_lookup_elem(&partial_heads, key);
		if (!found)
			return false;
	}
	found->walk = s->walk;
	__builtin_memcpy(found->line, s->text, sizeof(found->line));
	return true;
}

static __always_inline bool load_partial_head(const struct connection_key *key, struct scratch *s)
{
	struct partial_head *found = bpf_map_lookup_elem(&partial_heads, key);

	if (!found)
		return false;
	s->walk = found->walk;
	__builtin_memcpy(s->text, found->line, sizeof(found->line));
	return true;
}

static __always_inline void forget_partial_head(const struct connection_key *key)
{
	if (deep)
		bpf_map_delete_elem(&partial_heads, key);
}

static __always_inline struct connection *new_connection(const struct segment *seg,
							 struct scratch *s)
{
	struct connection *c;

	__builtin_memset(&s->blank, 0, sizeof(s->blank));
	s->blank.claim = 1;
	s->blank.client_is_a = seg->from_a;
	if (bpf_map_update_elem(&connections, &seg->key, &s->blank, BPF_ANY)) {
		count(COUNTER_MAP_FULL);
		return NULL;
	}
	c = bpf_map_lookup_elem(&connections, &seg->key);
	if (!c)
		count(COUNTER_MAP_FULL);
	return c;
}

/* Resync after untracked traffic: bytes sent meanwhile are not a gap. The client's ACK
 * gives the server's next sequence number, even if the segment with that number is
 * reordered.
 */
static __always_inline void resync(struct connection *c, const struct segment *seg)
{
	if (seg->from_a != c->client_is_a)
		return;
	if (!c->client.valid || before(c->client.next, seg->seq))
		resync_at(&c->client, seg->seq);
	if (is_syn(seg)) { /* acknowledges nothing */
		c->server.valid = 0;
		c->driver_server.valid = 0;
		resync_at(&c->driver_client, seg->seq);
		return;
	}
	resync_at(&c->server, seg->ack);
	resync_at(&c->driver_client, seg->seq);
	resync_at(&c->driver_server, seg->ack);
}

/* Not an outcome of a walk: the payload does not start with a method. */
#define NOT_A_REQUEST (-1)

static __always_inline bool is_recorded(int outcome)
{
	return outcome == OUTCOME_FOUND || outcome == OUTCOME_INCOMPLETE;
}

static __always_inline void count_request(int outcome, __u8 marks)
{
	if (outcome != OUTCOME_UNPARSABLE)
		count(COUNTER_REQUESTS);
	if (outcome != OUTCOME_INCOMPLETE)
		count_outcome(outcome, marks);
}

/* Handles a segment of an untracked connection, unless it begins a request to be
 * recorded: counts it and returns true.
 */
static __always_inline bool finish_untracked(struct payload_kind b)
{
	if (is_recorded(b.outcome))
		return false;
	if (b.outcome != NOT_A_REQUEST)
		count_request(b.outcome, b.marks);
	else if (b.response)
		count(COUNTER_RESPONSE_UNTRACKED);
	else if (b.marks)
		count_unseen(b.marks);
	return true;
}

/* The kernel's facts about the socket, for a request that begins at one. */
static __always_inline void set_socket(struct exchange_record *x, const struct scratch *s,
				       const struct connection *c)
{
	if (!s->socket.cookie)
		return;
	x->is_socket = 1;
	x->is_client = c->client_is_a;
	x->cookie = s->socket.cookie;
	x->netns = s->socket.netns;
	x->uid = s->socket.uid;
	x->cgroup = s->socket.cgroup;
	x->tgid = s->socket.tgid;
}

/* Emits the requests in the queue, whose responses will not be seen. */
VERIFIED_ALONE int drop_queue(struct connection *c, const struct connection_key *connection,
			      __u32 flags)
{
	if (!c || !connection)
		return 0;
	for (int i = 0; i < QUEUE_MAX; i++) {
		struct queue_key key = {.connection = *connection};

		if (!pending(c))
			break;
		key.number = c->answered;
		emit_queued(&key, flags);
		c->answered++;
	}
	c->queued = c->answered;
	c->overflow = 0;
	return 0;
}

/* Ends what is current to make way for a request that begins in the segment. False if
 * the response to an earlier one has not ended: the request has to wait.
 */
static __always_inline bool make_way(const struct segment *seg, struct connection *c)
{
	bool lost;

	if (c->phase == PHASE_HEAD) {
		count(COUNTER_DISCARDED);
		c->phase = PHASE_IDLE;
	}
	if (!expects_more(c))
		return true;
	/* The client has bytes of the server that did not pass here. A FIN takes one number. */
	lost = c->strange || (c->server.valid && before(c->server.next + 1, seg->ack));
	if (!lost) {
		if (pending(c) || c->overflow || c->phase == PHASE_REQUEST)
			return false;
		if (c->phase == PHASE_RESPONSE && is_unfinished(&c->response, &c->server))
			return false;
	}
	if (is_open(c)) {
		__u32 flags = guessed(c);

		if (lost && !is_complete(c))
			flags |= FLAG_PACKETS_MISSING;
		emit(c, c->claim, flags);
	}
	if (lost) {
		drop_queue(c, &seg->key, FLAG_PACKETS_MISSING);
		resync_at(&c->server, seg->ack);
	}
	c->phase = PHASE_IDLE;
	return true;
}

/* The request in the segment waits for the response to an earlier one. */
VERIFIED_ALONE int enqueue(struct __sk_buff *skb, struct scratch *s, struct connection *c,
			   __u64 now)
{
	struct queue_key key = {};
	struct queued_request *q;
	__u32 recorded;

	if (!s || !c)
		return 0;
	count(COUNTER_PIPELINED);
	if (c->recorded)
		c->x.flags |= FLAG_PIPELINED;
	if (c->overflow || pending(c) >= QUEUE_MAX) {
		count(COUNTER_QUEUE_FULL);
		if (c->overflow < 255)
			c->overflow++;
		return 0;
	}
	recorded = s->segment.kind.outcome == OUTCOME_FOUND;
	s = scratch_as_map_value(s);
	if (!s)
		return 0;
	q = &s->queued;
	__builtin_memset(q, 0, sizeof(*q));
	q->start = s->segment.seq;
	q->recorded = recorded;
	if (!recorded)
		q->bodiless = bodiless_segment(skb, &s->segment);
	if (recorded) {
		read_options(skb, &s->segment, s);
		start_record(skb, &s->segment, s, c, &q->x, now);
		q->bodiless = bodiless_record(&q->x);
		set_context(&q->x, &s->walk);
		q->x.flags |= FLAG_PIPELINED | (c->unsure ? FLAG_END_GUESSED : 0);
		set_socket(&q->x, s, c);
	}
	key.connection = s->segment.key;
	key.number = c->queued;
	if (bpf_map_update_elem(&queued_requests, &key, q, BPF_ANY))
		count(COUNTER_QUEUE_FULL);
	else if (recorded)
		count(COUNTER_STARTED);
	c->queued++;
	return 0;
}

/* The next request in the queue becomes the current one. */
VERIFIED_ALONE int dequeue(struct scratch *s, struct connection *c)
{
	struct queued_request *q;
	struct queue_key key = {};

	if (!s || !c)
		return 0;
	emit(c, c->claim, guessed(c));
	if (!pending(c)) {
		if (c->overflow < 255)
			c->overflow--;
		become_current(c, c->request_start, BODILESS_NONE);
		return 0;
	}
	key.connection = s->segment.key;
	key.number = c->answered;
	q = bpf_map_lookup_elem(&queued_requests, &key);
	c->answered++;
	become_current(c, c->request_start, BODILESS_NONE);
	if (!q)
		return 0;
	c->request_start = q->start;
	c->bodiless = q->bodiless;
	if (q->recorded) {
		c->x = q->x;
		c->reports = q->reports;
	}
	/* Otherwise the sweep has emitted it. */
	if (!bpf_map_delete_elem(&queued_requests, &key) && q->recorded)
		record_current(c);
	if (c->unsure && c->recorded)
		c->x.flags |= FLAG_END_GUESSED;
	return 0;
}

static __always_inline void extend_egress(struct exchange_record *x, __u32 end)
{
	if (before(x->egress_seq_end, end))
		x->egress_seq_end = end;
}

/* Adds a segment to the request. At the sending socket, its bytes were written before
 * the packet was seen.
 */
static __always_inline void add_request_bytes(struct exchange_record *x, const struct segment *seg,
					      const struct scratch *s, __u32 fresh, __u64 now)
{
	if (x->direction == DIRECTION_EGRESS)
		extend_egress(x, seg->seq + seg->payload_len);
	if (s->socket.cookie && seg->direction == DIRECTION_EGRESS) {
		if (!x->far_request_first)
			x->far_request_first = s->write_times.first;
		x->far_request_last = s->write_times.last;
	}
	x->request_last = now;
	x->request_bytes += fresh;
	x->request_packets++;
}

/* Bytes that overtook a head, or the end of a message, were not counted as its own, or
 * counted though they are not. Its framing gives the right number.
 */
static __always_inline void correct_bytes(struct exchange_record *x, __u64 *bytes,
					  const struct message *m, const struct stream *st)
{
	__s32 wrong = m->at - m->start - (__u32)*bytes;

	if (m->kind != MESSAGE_ENDS || !wrong || !is_whole(m, st))
		return;
	*bytes += wrong;
	x->flags |= FLAG_OUT_OF_ORDER;
}

/* Adds a segment to the request that is that far back in the queue. */
VERIFIED_ALONE int add_to_queued(struct scratch *s, struct connection *c, __u32 fresh, __u64 now,
				 __u32 back)
{
	struct queue_key key = {};
	struct queued_request *q;

	if (!s || !c)
		return 0;
	key.connection = s->segment.key;
	key.number = (__u8)(c->queued - 1 - back);
	q = bpf_map_lookup_elem(&queued_requests, &key);
	if (!q || !q->recorded || before(s->segment.seq, q->start))
		return 0;
	add_request_bytes(&q->x, &s->segment, s, fresh, now);
	if (back || fresh != s->segment.payload_len)
		q->x.flags |= FLAG_OUT_OF_ORDER;
	if (c->unsure)
		q->x.flags |= FLAG_END_GUESSED;
	if (!back)
		correct_bytes(&q->x, &q->x.request_bytes, &c->request, &c->client);
	return 1;
}

/* A request head at the start of the segment. */
static __always_inline void begin_request(struct __sk_buff *skb, struct segment *seg,
					  struct scratch *s, struct connection *c, __u64 now)
{
	int outcome = seg->kind.outcome;

	c->last_ns = now; /* before the claim, which the sweep reads first */
	start_message(&c->request, seg->seq, BODY_FRAMED);
	if (!make_way(seg, c)) {
		if (outcome == OUTCOME_INCOMPLETE) /* deep: its context cannot be searched */
			count(COUNTER_DISCARDED);
		enqueue(skb, s, c, now);
		return;
	}
	c->unsure = 0;
	become_current(c, seg->seq, BODILESS_NONE);
	if (!is_recorded(outcome)) {
		c->bodiless = bodiless_segment(skb, seg);
		return;
	}
	read_options(skb, seg, s);
	start_record(skb, seg, s, c, &c->x, now);
	c->bodiless = bodiless_record(&c->x);
	if (outcome == OUTCOME_FOUND) {
		set_context(&c->x, &s->walk);
		record_current(c);
		count(COUNTER_STARTED);
	} else if (save_partial_head(s)) {
		c->phase = PHASE_HEAD;
	}
}

/* Deep: the search is over; a context found belongs to the exchange. */
static __always_inline void end_head(const struct segment *seg, struct connection *c,
				     struct walk *w, int outcome)
{
	if (outcome == OUTCOME_TRUNCATED)
		outcome = finish_walk(w, OUTCOME_TRUNCATED);
	count_outcome(outcome, w->marks);
	forget_partial_head(&seg->key);
	c->phase = PHASE_REQUEST;
	if (outcome == OUTCOME_FOUND) {
		set_context(&c->x, w);
		c->x.flags |= FLAG_MULTI_SEGMENT;
		record_current(c);
		count(COUNTER_STARTED);
	}
}

/* Deep: a segment after the start of a request head, which either continues the head or
 * (a response, a gap) ends the search.
 */
static __always_inline void continue_head(struct __sk_buff *skb, const struct segment *seg,
					  struct scratch *s, struct connection *c, bool continues)
{
	int outcome = OUTCOME_TRUNCATED;

	if (!load_partial_head(&seg->key, s)) {
		c->phase = PHASE_REQUEST;
		count(COUNTER_HEAD_TRUNCATED);
		return;
	}
	if (continues) {
		outcome = parse_chunks(skb, s, seg->payload_off, seg->payload_len);
		if (outcome == OUTCOME_INCOMPLETE) {
			if (!save_partial_head(s))
				c->phase = PHASE_REQUEST;
			return;
		}
	}
	end_head(seg, c, &s->walk, outcome);
}

/* Bytes that passed before. */
static __always_inline void on_seen_bytes(const struct segment *seg, struct connection *c,
					  bool from_client, __u64 now)
{
	arrive(from_client ? &c->client : &c->server, seg->seq, seg->payload_len, &(__u32){0});
	c->x.retransmits++;
	count(COUNTER_RETRANSMITTED);
	note_retransmit(c, seg, from_client, now);
}

/* Whether the bytes at seq belong to m by its framing. */
static __always_inline bool is_inside(const struct message *m, __u32 seq)
{
	switch (m->kind) {
	case MESSAGE_HEAD:
	case MESSAGE_CHUNKS:
		return true;
	case MESSAGE_ENDS:
		return m->length || before(seq, m->at);
	}
	return false;
}

/* What a segment starts with that is not the first part of its packet. */
static __always_inline void classify_rest(struct __sk_buff *skb, struct segment *seg,
					  struct scratch *s)
{
	__u32 off = seg->payload_off, len = seg->payload_len, skip;
	__u64 head = load_head(skb, off, len, ACCESS_LOAD);
	struct payload_kind b = {.outcome = NOT_A_REQUEST, .response = is_response(head)};
	int start = b.response ? START_DATA : start_of(skb, s, off, len, head);

	if (start) {
		skip = start & START_AFTER_LINE ? 2 : 0;
		b.outcome = walk_loaded(skb, s, off + skip, len - skip);
		if (start & START_TOKEN && !has_request_line(&s->walk, b.outcome))
			b.outcome = NOT_A_REQUEST;
		b.request_line = s->walk.request_line;
		b.marks = s->walk.marks;
	}
	seg->kind = b;
}

/* A request is not recorded that came before the latest one: which response is whose is
 * uncertain.
 */
static __always_inline void lose_order(struct connection *c)
{
	c->unsure = 1;
	c->x.flags |= FLAG_END_GUESSED;
	count(COUNTER_FRAMING_LOST);
}

/* Payload from the client. Returns the length of the first part that is uniform, to
 * which it shortens the segment.
 */
static __always_inline __u32 on_client_data(struct __sk_buff *skb, struct segment *seg,
					    struct scratch *s, struct connection *c, __u64 now)
{
	__u32 len = seg->payload_len, fresh, part;
	struct message *m = &c->request;
	enum arrival arrival;
	bool begins = false;

	part = uniform_part(&c->client, seg->seq, len);
	if (is_seen(&c->client, seg->seq)) {
		seg->payload_len = part;
		if (before(seg->seq, c->client_start))
			lose_order(c); /* overtaken by the first segment seen */
		on_seen_bytes(seg, c, true, now);
		return part;
	}
	if (misses_acked(&c->server, seg->ack)) {
		give_up_missing(&c->response, &c->server);
		if (is_open(c) && !is_whole(&c->response, &c->server))
			c->x.flags |= FLAG_PACKETS_MISSING;
	}
	if (seg->kind.outcome != NOT_A_REQUEST && m->kind != MESSAGE_TUNNEL &&
	    c->phase != PHASE_HEAD && (!is_inside(m, seg->seq) || before(seg->seq, m->start))) {
		int outcome = seg->kind.outcome;

		/* Without a complete request line this is more likely the body of a request that
		 * has no response yet.
		 */
		if (c->phase == PHASE_REQUEST && m->kind != MESSAGE_ENDS && !seg->kind.request_line)
			outcome = OUTCOME_UNPARSABLE;
		count_request(outcome, seg->kind.marks);
		begins = outcome != OUTCOME_UNPARSABLE;
		if (begins && m->kind != MESSAGE_NONE && before(seg->seq, m->start) &&
		    expects_more(c)) {
			/* A later one was taken before it. */
			begins = false;
			lose_order(c);
		}
	}
	if (begins)
		begin_request(skb, seg, s, c, now);
	if (is_inside(m, seg->seq) && !before(seg->seq, m->start))
		part = follow(skb, s, m, seg->payload_off, part);
	seg->payload_len = part;
	arrival = arrive(&c->client, seg->seq, part, &fresh);
	if (arrival != ARRIVAL_IN_ORDER)
		count(COUNTER_OUT_OF_ORDER);
	if (m->kind == MESSAGE_TUNNEL ||
	    (m->kind == MESSAGE_ENDS && !m->length && !before(seg->seq, m->at)))
		return part; /* of no request */
	if (lose_framing(skb, seg, m, &c->client)) {
		c->unsure = 1;
		if (!pending(c) && !c->overflow)
			c->x.flags |= FLAG_END_GUESSED;
	}
	if (c->overflow)
		return part; /* its request is not in the queue */
	if (pending(c)) {
		__u32 back = before(seg->seq, m->start);

		/* Late bytes of a request before the latest. */
		if (back < pending(c)) {
			if (!add_to_queued(s, c, fresh, now, back))
				c->unsure |= back;
			return part;
		}
	} else if (before(seg->seq, m->start)) {
		return part;
	}
	if (!c->recorded && c->phase != PHASE_HEAD)
		return part;
	/* Indistinguishable from the next request with its head late or missing. */
	if (c->phase == PHASE_RESPONSE && m->kind != MESSAGE_ENDS && m->kind != MESSAGE_CHUNKS &&
	    (arrival != ARRIVAL_IN_ORDER || c->client.missing))
		return part;
	if (c->phase != PHASE_HEAD && (c->claim & 1)) {
		count(COUNTER_LATE);
		return part;
	}
	if (arrival != ARRIVAL_IN_ORDER)
		c->x.flags |= FLAG_OUT_OF_ORDER;
	add_request_bytes(&c->x, seg, s, fresh, now);
	correct_bytes(&c->x, &c->x.request_bytes, m, &c->client);
	return part;
}

static __always_inline bool is_interim(__u16 status)
{
	return status >= 100 && status < 200 && status != 101;
}

/* Status code of "HTTP/1.x NNN", or 0. */
static __always_inline __u16 read_status(const __u8 *line)
{
	if (line[8] != ' ')
		return 0;
	for (int i = 9; i < STATUS_LINE; i++)
		if (line[i] < '0' || line[i] > '9')
			return 0;
	return (line[9] - '0') * 100 + (line[10] - '0') * 10 + line[11] - '0';
}

enum status_result {
	STATUS_NONE, /* not a response head */
	STATUS_CUT,  /* continues in the next segment */
	STATUS_READ,
};

/* Reads the status line at the start of the segment, or what is left of one. */
VERIFIED_ALONE int read_status_line(struct __sk_buff *skb, struct scratch *s, struct connection *c)
{
	const __u64 magic = WORD('H', 'T', 'T', 'P', '/', '1', '.', 0);
	__u64 head, mask = ~0ULL >> 8;
	const struct segment *seg;
	__u8 bytes[16] = {};
	__u32 have, n;

	if (!s || !c)
		return STATUS_NONE;
	seg = &s->segment;
	have = c->status_len;
	if (have >= STATUS_LINE)
		have = 0;
	n = STATUS_LINE - have;
	if (n > seg->payload_len)
		n = seg->payload_len;
	BOUND_LENGTH(n, 16);
	if (bpf_skb_load_bytes(skb, seg->payload_off, bytes, n))
		return STATUS_NONE;
	if (!have) {
		__builtin_memcpy(c->status_line, bytes, STATUS_LINE);
	} else {
		for (__u32 i = 0; i < STATUS_LINE; i++)
			if (i >= have)
				c->status_line[i] = bytes[(i - have) & 15];
	}
	have += n;
	__builtin_memcpy(&head, c->status_line, sizeof(head));
	if (have < 7)
		mask >>= 8 * (7 - have);
	if ((head ^ magic) & mask)
		return STATUS_NONE;
	c->status_len = have;
	return have < STATUS_LINE ? STATUS_CUT : STATUS_READ;
}

/* Whether the current request's response may begin with the segment. False if the server
 * had not seen that request, or answers one that did not pass this point.
 */
static __always_inline bool answers_request(const struct segment *seg, struct connection *c)
{
	if (!before(c->request_start, seg->ack)) {
		c->strange = 1;
		return false;
	}
	/* A FIN takes one sequence number. */
	if (!before(c->client.next + 1, seg->ack))
		return true;
	c->x.flags |= FLAG_PACKETS_MISSING;
	if (pending(c) || !is_whole(&c->request, &c->client)) {
		resync_at(&c->client, seg->ack);
		c->unsure |= give_up_missing(&c->request, &c->client);
		return true;
	}
	if (c->recorded)
		emit(c, c->claim, 0);
	c->phase = PHASE_IDLE;
	return false;
}

/* A response to the current request begins in the segment, or continues after a part of
 * its status line. Without one the response has no head.
 */
static __always_inline void begin_response(const struct segment *seg, struct connection *c,
					   enum status_result result, __u64 now)
{
	struct message *m = &c->response;
	__u32 cut = m->kind == MESSAGE_STATUS ? seg->seq - m->start : 0;
	struct exchange_record *x = &c->x;
	__u16 status = 0;

	if (result == STATUS_READ)
		status = read_status(c->status_line);
	if (!status)
		result = STATUS_NONE;
	c->status_len = 0;
	c->strange = 0;
	start_message(m, seg->seq, BODY_TO_CLOSE);
	m->start -= cut;
	if (cut)
		m->line = LINE_MIDDLE;
	if (is_interim(status)) {
		m->kind = MESSAGE_INTERIM;
		x->flags |= FLAG_INTERIM;
		return;
	}
	if (result == STATUS_NONE)
		m->kind = MESSAGE_UNKNOWN;
	c->phase = PHASE_RESPONSE;
	x->status = status;
	x->response_first = cut ? c->status_ns : now;
	x->response_bytes += cut;
	x->response_packets += cut != 0;
	if (x->direction == DIRECTION_INGRESS)
		start_egress(x, m->start);
	if (status == 101 || (c->bodiless == BODILESS_CONNECT && status >= 200 && status < 300)) {
		x->flags |= FLAG_UPGRADED;
		m->body = BODY_NONE;
		c->request.kind = MESSAGE_TUNNEL;
	} else if (c->bodiless == BODILESS_HEAD || status == 204 || status == 304) {
		m->body = BODY_NONE;
	}
}

/* Whose the bytes at the start of the segment are, which passes for the first time.
 * Returns whether they belong to the current response or to an interim one before it.
 */
static __always_inline bool find_response(struct __sk_buff *skb, const struct segment *seg,
					  struct scratch *s, struct connection *c, __u64 now)
{
	bool in_order = !c->server.valid || seg->seq == c->server.next;
	struct message *m = &c->response;
	enum status_result result;

	if (c->phase == PHASE_RESPONSE) {
		bool over =
			m->kind == MESSAGE_ENDS ? !is_inside(m, seg->seq) : m->kind >= MESSAGE_TAIL;

		/* The head came after a later segment. */
		if (m->kind == MESSAGE_NONE && seg->kind.response && !in_order) {
			__u64 first = c->x.response_first;

			c->status_len = 0;
			if (read_status_line(skb, s, c) != STATUS_READ)
				return true;
			m->kind = MESSAGE_NONE;
			begin_response(seg, c, STATUS_READ, first);
			return true;
		}
		if (!over || !(pending(c) || c->overflow))
			return m->kind != MESSAGE_ENDS || !over;
		/* Fewer than 7 bytes may be the start of a head. */
		if (!seg->kind.response && (m->kind != MESSAGE_ENDS || seg->payload_len >= 7))
			return m->kind != MESSAGE_ENDS;
		dequeue(s, c);
	}
	if (m->kind == MESSAGE_INTERIM)
		return true;
	if (!answers_request(seg, c))
		return false;
	if (!in_order && m->kind == MESSAGE_STATUS)
		m->kind = MESSAGE_NONE; /* its rest is not read */
	if (!in_order && !seg->kind.response) {
		/* Bytes before it are missing, perhaps the head. */
		c->phase = PHASE_RESPONSE;
		c->x.response_first = now;
		m->start = seg->seq;
		if (c->x.direction == DIRECTION_INGRESS)
			start_egress(&c->x, seg->seq);
		return true;
	}
	if (m->kind != MESSAGE_STATUS)
		c->status_len = 0;
	result = read_status_line(skb, s, c);
	if (result == STATUS_CUT) {
		if (m->kind != MESSAGE_STATUS) {
			m->kind = MESSAGE_STATUS;
			m->start = seg->seq;
			c->status_ns = now;
		}
		m->at = seg->seq + seg->payload_len;
		return true;
	}
	begin_response(seg, c, result, now);
	return true;
}

/* Payload from the server: like on_client_data(). */
static __always_inline __u32 on_server_data(struct __sk_buff *skb, struct segment *seg,
					    struct scratch *s, struct connection *c, __u64 now)
{
	struct message *m = &c->response;
	struct exchange_record *x = &c->x;
	enum arrival arrival;
	__u32 fresh, part;
	bool own = false;

	part = uniform_part(&c->server, seg->seq, seg->payload_len);
	if (is_seen(&c->server, seg->seq)) {
		seg->payload_len = part;
		on_seen_bytes(seg, c, false, now);
		return part;
	}
	if (misses_acked(&c->client, seg->ack)) {
		c->unsure |= give_up_missing(&c->request, &c->client);
		if (is_open(c) && before(c->request_start, c->client.gap_end))
			x->flags |= FLAG_PACKETS_MISSING;
	}
	if (seg->kind.outcome != NOT_A_REQUEST)
		count(COUNTER_REQUEST_IN_RESPONSE);
	if (is_open(c))
		own = find_response(skb, seg, s, c, now);
	if (own && (m->kind == MESSAGE_INTERIM || c->phase == PHASE_RESPONSE))
		part = follow(skb, s, m, seg->payload_off, part);
	seg->payload_len = part;
	arrival = arrive(&c->server, seg->seq, part, &fresh);
	if (arrival != ARRIVAL_IN_ORDER)
		count(COUNTER_OUT_OF_ORDER);
	if (!own) {
		if (is_open(c) && c->recorded && (c->claim & 1))
			count(COUNTER_LATE);
		return part;
	}
	if (lose_framing(skb, seg, m, &c->server) && c->phase == PHASE_REQUEST)
		begin_response(seg, c, STATUS_NONE, now);
	if (c->phase != PHASE_RESPONSE)
		return part; /* interim, or the start of a status line */
	/* It may contain the responses to requests that wait. */
	if (m->kind >= MESSAGE_TAIL && m->kind != MESSAGE_ENDS)
		c->unsure = 1;
	if (!c->recorded) {
		if (!pending(c) && !c->overflow)
			c->phase = PHASE_IDLE;
		return part;
	}
	if (c->claim & 1) {
		count(COUNTER_LATE);
		return part;
	}
	if (arrival != ARRIVAL_IN_ORDER)
		x->flags |= FLAG_OUT_OF_ORDER;
	if (x->direction == DIRECTION_INGRESS)
		extend_egress(x, seg->seq + part);
	x->response_last = now;
	x->response_bytes += fresh;
	x->response_packets++;
	correct_bytes(x, &x->response_bytes, m, &c->server);
	return part;
}

/* Identified by its numbers and length: both numbers start at random values (RFC 9293,
 * section 3.4.1) and address translation preserves them.
 */
static __always_inline bool is_cached(const struct cached_segment *k, __u64 seq_ack,
				      __u32 payload_len)
{
	return k->seq_ack == seq_ack && k->payload_len == payload_len;
}

/* Seqlock-style publish: an interrupting program never sees a partial entry. */
static __always_inline void cache_segment(struct cached_segment *k, __u64 seq_ack,
					  __u32 payload_len, struct payload_kind b)
{
	*(volatile __u64 *)&k->seq_ack = 0;
	asm volatile("" ::: "memory");
	k->payload_len = payload_len;
	k->kind = b;
	asm volatile("" ::: "memory");
	*(volatile __u64 *)&k->seq_ack = seq_ack;
}

/* Reads the start of an uncached segment, payload_len bytes at off. The context, if
 * found, is in s->walk. An incomplete walk is more than its start and is not cached.
 */
static __always_inline struct payload_kind read_payload(struct __sk_buff *skb, struct scratch *s,
							__u64 seq_ack, __u32 off, __u32 payload_len,
							const enum access access)
{
	__u64 head = load_head(skb, off, payload_len, access);
	struct payload_kind b = {.outcome = NOT_A_REQUEST, .response = is_response(head)};
	__u32 slot = cache_slot(seq_ack >> 32);

	int start = b.response ? START_DATA : start_of(skb, s, off, payload_len, head);

	if (start) {
		__u32 skip = start & START_AFTER_LINE ? 2 : 0;

		b.outcome = walk_head(skb, s, off + skip, payload_len - skip, access);
		if (start & START_TOKEN && !has_request_line(&s->walk, b.outcome)) {
			b.outcome = NOT_A_REQUEST;
			s->walk.marks = 0;
		}
		b.request_line = s->walk.request_line;
		b.marks = s->walk.marks;
		if (b.outcome == OUTCOME_INCOMPLETE)
			return b;
		if (b.outcome == OUTCOME_FOUND)
			s->cached_contexts[slot] = s->walk.found;
	} else {
		b.marks = unreadable_start(head);
	}
	cache_segment(&s->segment_cache[slot], seq_ack, payload_len, b);
	return b;
}

/* Sets seg->kind, from the cache if possible. The context, if found, is in s->walk. */
static __always_inline void classify_payload(struct __sk_buff *skb, struct segment *seg,
					     struct scratch *s, const enum access access)
{
	__u64 seq_ack = (__u64)seg->seq << 32 | seg->ack;
	__u32 slot = cache_slot(seg->seq);
	struct cached_segment *k = &s->segment_cache[slot];

	seg->kind = (struct payload_kind){.outcome = NOT_A_REQUEST};
	if (!seg->payload_len)
		return;
	if (!is_cached(k, seq_ack, seg->payload_len)) {
		seg->kind =
			read_payload(skb, s, seq_ack, seg->payload_off, seg->payload_len, access);
		return;
	}
	seg->kind = k->kind;
	s->walk.request_line = k->kind.request_line;
	s->walk.marks = k->kind.marks;
	if (seg->kind.outcome == OUTCOME_FOUND)
		s->walk.found = s->cached_contexts[slot];
}

/* Header fields that the fast path needs. */
struct fast_headers {
	__u64 seq_ack; /* as in struct cached_segment */
	__u64 addrs;   /* sum, as for tracked_counter_by_sums() */
	__u32 ports;
	__u32 payload_off;
	__u32 payload_len;
	__u8 flags;
	bool ports_match; /* one of its ports passes the filter */
};

/* Reads plain headers in place: TCP over IPv4 without options or IPv6 without extension
 * headers, from l2 on. False for anything else. Nearly all segments take only this
 * path: keep it short, leave anything unusual to slow_path().
 */
static __always_inline bool parse_fast(struct __sk_buff *skb, __u32 l2, struct fast_headers *h)
{
	const void *data = (void *)(long)skb->data + l2, *end = (void *)(long)skb->data_end;
	const struct ipv4_header *ip = data;
	const struct ipv6_header *ip6 = data;
	const struct tcp_header *tcp;
	__u32 sport, dport, off, head, len;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		off = l2 + sizeof(*ip);
		tcp = (const void *)(ip + 1);
		if ((const void *)(tcp + 1) > end || ip->version_ihl != 0x45 ||
		    ip->protocol != IPPROTO_TCP || ip->fragment & bpf_htons(IP_MF_OR_OFFSET))
			return false;
		len = bpf_ntohs(ip->total_len) - sizeof(*ip);
		h->addrs = mapped_ipv4(ip->src) + mapped_ipv4(ip->dst);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		off = l2 + sizeof(*ip6);
		tcp = (const void *)(ip6 + 1);
		if ((const void *)(tcp + 1) > end || ip6->next_header != IPPROTO_TCP)
			return false;
		len = bpf_ntohs(ip6->payload_len);
		h->addrs = ip6->src[0] + ip6->src[1] + ip6->dst[0] + ip6->dst[1];
	} else {
		return false;
	}
	head = (tcp->data_offset >> 4) * 4;
	/* Also a length of 0 (BIG TCP). */
	if (len > 0xffff || len < head)
		return false;
	sport = bpf_ntohs(tcp->src);
	dport = bpf_ntohs(tcp->dst);
	h->ports_match = !filter_ports || has_port(ports, sport) || has_port(ports, dport);
	h->ports = sport + dport;
	h->payload_off = off + head;
	h->payload_len = len - head;
	h->flags = tcp->flags;
	h->seq_ack = (__u64)SEQUENCE_NUMBER(*tcp) << 32 | ACKNOWLEDGEMENT(*tcp);
	return true;
}

/* Handles a segment of an untracked connection; false leaves it to the slow path. The
 * cache is read without claiming it: an interrupting program may overwrite the entry,
 * which the second look at its numbers reveals.
 */
static __always_inline bool skip_untracked(struct __sk_buff *skb, const struct fast_headers *h,
					   const enum access access)
{
	struct scratch *s = bpf_map_lookup_elem(&scratches, &(__u32){0});
	struct cached_segment *k;
	struct payload_kind b;

	if (h->flags & (TCP_SYN | TCP_FIN | TCP_RST) || !s)
		return false;
	if (!h->payload_len)
		return true;
	k = &s->segment_cache[cache_slot(h->seq_ack >> 32)];
	if (is_cached(k, h->seq_ack, h->payload_len)) {
		b = k->kind;
		asm volatile("" ::: "memory");
		if (k->seq_ack != h->seq_ack)
			return false;
	} else {
		if (__sync_lock_test_and_set(&s->claimed, 1))
			return false;
		b = read_payload(skb, s, h->seq_ack, h->payload_off, h->payload_len, access);
		release_scratch(s);
	}
	return finish_untracked(b);
}

/* The connection ends: emits what is open, and deletes it. */
static COLD int end_connection(const struct segment *seg, struct connection *c, __u32 reset)
{
	__u32 *tracked;

	if (is_open(c))
		emit(c, c->claim, flags_at_end(c, reset));
	if (pending(c))
		drop_queue(c, &seg->key, reset);
	if (c->phase == PHASE_HEAD)
		count(COUNTER_DISCARDED);
	forget_partial_head(&seg->key);
	tracked = tracked_counter_at(&seg->key);
	if (tracked)
		set_tracked(c, tracked, 0);
	return bpf_map_delete_elem(&connections, &seg->key);
}

/* A new connection: keep its option, drop an older connection with the same key. */
static COLD struct connection *on_syn(struct __sk_buff *skb, const struct segment *seg,
				      struct scratch *s, struct connection *c)
{
	if (c && seg->seq + 1 == c->client_start)
		return c; /* a copy of the connection's SYN */
	if (c)
		end_connection(seg, c, 0);
	if (!read_options(skb, seg, s))
		return NULL;
	c = new_connection(seg, s);
	if (!c)
		return NULL;
	c->client.valid = 1;
	c->client.next = seg->seq + 1;
	c->client_start = seg->seq + 1;
	c->last_ns = bpf_ktime_get_ns();
	c->syn_option_len = s->connection_id_len;
	__builtin_memcpy(c->syn_connection_id, s->connection_id, sizeof(c->syn_connection_id));
	return c;
}

/* Whether the connection has ended. Servers often close with the last byte of the
 * response. More follows: the driver transmits it, and the client application reads it
 * before it closes. Bytes before a FIN can pass after it.
 */
static __always_inline bool has_ended(const struct connection *c)
{
	return c->client.fin && c->server.fin &&
	       ((is_closed(&c->client) && is_closed(&c->server)) || is_complete(c));
}

static __always_inline void on_fin(const struct segment *seg, struct connection *c, __u32 end)
{
	struct stream *st = seg->from_a == c->client_is_a ? &c->client : &c->server;

	st->fin = 1;
	/* Untracked bytes are not missing. */
	st->fin_seq = c->tracked ? end : st->next;
}

/* Deep: a segment while the search for the context goes on. */
VERIFIED_ALONE int search_on(struct __sk_buff *skb, struct scratch *s, struct connection *c)
{
	const struct segment *seg;
	bool from_client;

	if (!s || !c)
		return 0;
	s = scratch_as_map_value(s);
	if (!s)
		return 0;
	seg = &s->segment;
	from_client = seg->from_a == c->client_is_a;
	if (!is_seen(from_client ? &c->client : &c->server, seg->seq))
		continue_head(skb, seg, s, c, from_client && seg->seq == c->client.next);
	return 0;
}

/* Applies the first part of a segment with payload to its connection. Returns the length
 * of the part.
 */
VERIFIED_ALONE int track_part(struct __sk_buff *skb, struct scratch *s, struct connection *c)
{
	struct segment *seg;
	__u32 part;
	__u64 now;

	if (!s || !c)
		return 0;
	seg = &s->segment;
	now = bpf_ktime_get_ns();
	if (seg->from_a == c->client_is_a)
		part = on_client_data(skb, seg, s, c, now);
	else
		part = on_server_data(skb, seg, s, c, now);
	c->last_ns = now;
	return part;
}

/* Messages in one segment. */
#define PARTS_MAX 24

/* Applies a segment with payload to its connection. */
static __always_inline void on_payload(struct __sk_buff *skb, struct segment *seg,
				       struct scratch *s, struct connection *c)
{
	__u32 end = seg->payload_off + seg->payload_len;

	if (!c->tracked)
		resync(c, seg);
	for (int i = 0; i < PARTS_MAX; i++) {
		__u32 part;

		if (deep && c->phase == PHASE_HEAD)
			search_on(skb, s, c);
		part = track_part(skb, s, c);

		seg->payload_off += part;
		seg->seq += part;
		if (!part || seg->payload_off >= end)
			return;
		seg->payload_len = end - seg->payload_off;
		classify_rest(skb, seg, s);
	}
	/* What follows belongs to requests that are not seen. */
	count(COUNTER_QUEUE_FULL);
	c->overflow = 255;
}

/* The peer has acknowledged all bytes before ack: also the end of the message that the
 * socket sent?
 */
static __always_inline void note_ack(struct exchange_record *x, __u32 ack, __u64 now)
{
	if (x->egress_seq_start == x->egress_seq_end || before(ack, x->egress_seq_end) ||
	    x->egress_seq_done == x->egress_seq_end)
		return;
	x->egress_seq_done = x->egress_seq_end;
	x->acknowledged = now;
}

/* Copies the socket's facts into an exchange that has just begun. */
static __always_inline void describe_socket(struct connection *c, const struct scratch *s)
{
	struct exchange_record *x = &c->x;

	if (!x->is_socket)
		set_socket(x, s, c);
	if (s->segment.direction == DIRECTION_INGRESS && s->segment.payload_len)
		note_ack(x, s->segment.ack, c->last_ns);
}

/* Tracks the segment in s; tracked is the counter of its connection. Returns whether
 * later segments may belong to an exchange.
 */
static __always_inline int track_segment(struct __sk_buff *skb, struct scratch *s, __u32 *tracked)
{
	struct segment *seg = &s->segment;
	struct connection *c;
	__u32 end;

	c = bpf_map_lookup_elem(&connections, &seg->key);
	if (is_syn(seg))
		c = on_syn(skb, seg, s, c);
	end = seg->seq + is_syn(seg) + seg->payload_len;
	if (seg->payload_len) {
		seg->seq += is_syn(seg);
		if (!c) {
			if (finish_untracked(seg->kind))
				return 0;
			c = new_connection(seg, s);
			if (!c)
				return 0;
			c->client_start = seg->seq;
		}
		on_payload(skb, seg, s, c);
	}
	if (!c)
		return 0;
	if (seg->flags & TCP_FIN)
		on_fin(seg, c, end);
	if (seg->flags & TCP_RST || has_ended(c)) {
		end_connection(seg, c, seg->flags & TCP_RST ? FLAG_RESET : 0);
		return 0;
	}
	set_tracked(c, tracked, expects_more(c));
	if (s->socket.cookie && c->phase != PHASE_IDLE)
		describe_socket(c, s);
	return c->tracked;
}

/* Whether a segment may change a connection. */
static __always_inline bool needs_connection(const struct segment *seg, __u32 tracked)
{
	return tracked || is_syn(seg) || is_fin_or_rst(seg) || !finish_untracked(seg->kind);
}

/* parse_segment() out of line, which also frees its stack for later calls. */
static COLD int parse_direct(struct __sk_buff *skb, struct scratch *s, __u32 l2, bool keep_acks)
{
	return parse_segment(skb, &s->segment, l2, ACCESS_DIRECT, keep_acks);
}

static __always_inline bool parse(struct __sk_buff *skb, struct scratch *s, __u32 l2,
				  const enum access access)
{
	return access == ACCESS_DIRECT ? parse_direct(skb, s, l2, false) :
					 parse_segment(skb, &s->segment, l2, access, false);
}

/* Captures at an interface whatever the fast path does not handle. The segment is in
 * scratch memory for lack of stack.
 */
static __always_inline void slow_path(struct __sk_buff *skb, __u32 l2, enum direction direction,
				      const enum access access)
{
	struct scratch *s = claim_scratch();
	struct segment *seg;
	__u32 *tracked;

	if (!s)
		return;
	seg = &s->segment;
	if (parse(skb, s, l2, access) && ports_match(seg)) {
		seg->direction = direction;
		tracked = tracked_counter(&seg->key, seg->key.ifindex);
		classify_payload(skb, seg, s, access);
		if (tracked && needs_connection(seg, *tracked)) {
			s->socket.cookie = 0;
			track_segment(skb, s, tracked);
		}
	}
	release_scratch(s);
}

static COLD int slow_path_direct(struct __sk_buff *skb, __u32 l2, enum direction direction)
{
	slow_path(skb, l2, direction, ACCESS_DIRECT);
	return 0;
}

/* Body of the capture programs at interfaces; l2 is the length of the link-layer
 * header.
 */
static __always_inline void capture(struct __sk_buff *skb, __u32 l2, enum direction direction,
				    const enum access access)
{
	struct fast_headers h;

	if (access != ACCESS_DIRECT) {
		slow_path(skb, l2, direction, access);
		return;
	}
	if (parse_fast(skb, l2, &h)) {
		if (!h.ports_match)
			return;
		if (!(any_tracked() &&
		      is_tracked(tracked_counter_by_sums(h.addrs, h.ports, skb->ifindex))) &&
		    skip_untracked(skb, &h, access))
			return;
	}
	slow_path_direct(skb, l2, direction);
}

#endif
