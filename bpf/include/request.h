/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Bytes from the client: from a request's head to its record, and the queue of requests
 * that wait for the response to an earlier one. The state table is in connection.h.
 *
 * on_client_data  -> begin_request, follow (framing.h), add_request_bytes
 * begin_request   -> make_way -> emit; start_record, set_context; else enqueue
 * dequeue         the next request in the queue becomes the current one
 * continue_head   deep: a head over several segments
 */
#ifndef LAYERTRACE_REQUEST_H
#define LAYERTRACE_REQUEST_H

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

	__builtin_memset(x, 0, INTERFACE_RECORD_SIZE);
	if (s->socket.cookie)
		__builtin_memset(&x->cookie, 0, SOCKET_RECORD_REST);
	set_endpoints(x, seg);
	x->request_first = now;
	x->request_seq = seg->seq;
	start_egress(x, seg->seq);
	x->direction = seg->direction;
	if (s->options.id_len) {
		__builtin_memcpy(x->connection_id, s->options.id, sizeof(x->connection_id));
		x->connection_id_len = s->options.id_len;
		x->option_time = s->options.time;
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

_Static_assert(COUNTER_NOT_CAPTURED - COUNTER_CONTEXT_FOUND == OUTCOME_NOT_CAPTURED - OUTCOME_FOUND,
	       "each outcome has its counter, in the same order");

VERIFIED_ALONE int count_outcome(int outcome, __u32 marks)
{
	count(COUNTER_CONTEXT_FOUND + outcome - OUTCOME_FOUND);
	if (marks & MARK_MALFORMED)
		count_rare(COUNTER_CONTEXT_MALFORMED);
	if (marks & MARK_SEVERAL)
		count_rare(COUNTER_CONTEXT_SEVERAL);
	if (marks & MARK_BEHIND)
		count(COUNTER_CONTEXT_BEHIND);
	return 0;
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
VERIFIED_ALONE RARE int save_partial_head(struct scratch *s)
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
			count_rare(COUNTER_MAP_FULL);
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
		count_rare(COUNTER_MAP_FULL);
		return NULL;
	}
	c = bpf_map_lookup_elem(&connections, &seg->key);
	if (!c)
		count_rare(COUNTER_MAP_FULL);
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
	if (is_proven(c) && !is_near(&c->client, seg->seq))
		set_proof(c, PROOF_NONE); /* of another connection, for all that is known */
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

/* Requests without a sampled context are recorded too: for a look at one machine, where
 * few have one.
 */
const volatile bool all_requests;

/* With all_requests: whether a request is recorded although it has no sampled context. Its
 * record has none either.
 */
static __always_inline bool is_recorded_anyway(int outcome, bool request_line)
{
	return all_requests && request_line &&
	       (outcome == OUTCOME_UNSAMPLED || outcome == OUTCOME_NOT_FOUND ||
		outcome == OUTCOME_TRUNCATED);
}

static __always_inline bool is_recorded(struct payload_kind b)
{
	return b.outcome == OUTCOME_FOUND || b.outcome == OUTCOME_INCOMPLETE ||
	       is_recorded_anyway(b.outcome, b.request_line);
}

/* A request at a socket. */
static COLD int limit_at_socket(struct payload_kind *b)
{
	if (is_recorded(*b) && is_limited(LIMIT_SOCKETS))
		b->outcome = OUTCOME_NOT_CAPTURED;
	return 0;
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
	if (is_recorded(b))
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

/* Whether the handshake has just passed that precedes the segment. */
static __always_inline bool follows_handshake(const struct segment *seg)
{
	const struct handshakes *h = bpf_map_lookup_elem(&latest_handshakes, &(__u32){0});
	__u32 slot = hash_of_key(&seg->key, seg->key.ifindex) >> (64 - HANDSHAKE_BITS);

	slot &= (1 << HANDSHAKE_BITS) - 1;
	return h && h->of[slot] == ((__u64)seg->seq << 32 | seg->ack);
}

/* A connection without proof has been stored. Of too many the oldest one is forgotten. */
static __always_inline void limit_unproven(const struct scratch *s, const struct connection *c)
{
	struct tracked *f = bpf_map_lookup_elem(&tracked_connections, &(__u32){0});
	struct connection_key *place;
	struct connection *oldest;
	__u32 i, *tracked;

	if (!f)
		return;
	i = __sync_fetch_and_add(&f->next, 1) % unproven_max;
	place = bpf_map_lookup_elem(&unproven_connections, &i);
	if (!place)
		return;
	oldest = bpf_map_lookup_elem(&connections, place);
	tracked = tracked_counter_at(place);
	/* not c itself */
	if (oldest && tracked && !is_proven(oldest) && oldest->last_ns != c->last_ns) {
		emit(oldest, oldest->claim, 0); /* counts it */
		set_proof(oldest, PROOF_NONE);
		set_tracked(oldest, tracked, 0);
		bpf_map_delete_elem(&connections, place);
	}
	*place = s->segment.key;
}

/* A connection without proof is new, or a request has begun on one. */
VERIFIED_ALONE RARE int await_proof(struct scratch *s, struct connection *c, bool begun)
{
	bool proven;

	if (!s || !c)
		return 0;
	proven = begun && (s->socket.cookie || follows_handshake(&s->segment));
	if (!proven && c->proof == PROOF_NONE)
		limit_unproven(s, c);
	set_proof(c, proven ? PROOF_SEEN : begun ? PROOF_AWAITED : PROOF_NONE);
	return 0;
}

/* Unproven connections may have requests in the queue while there are fewer. */
#define QUEUE_UNPROVEN 64

static __always_inline bool may_queue(const struct connection *c)
{
	const struct tracked *f = bpf_map_lookup_elem(&tracked_connections, &(__u32){0});

	return is_proven(c) || (f && (f->unproven & COUNT_MASK) < QUEUE_UNPROVEN);
}

/* Emits the requests in the queue, whose responses will not be seen. */
VERIFIED_ALONE RARE int drop_queue(struct connection *c, const struct connection_key *connection,
				   __u32 flags)
{
	if (!c || !connection)
		return 0;
	for (int i = 0; i < QUEUE_MAX; i++) {
		struct queue_key key = {.connection = *connection};

		if (!pending(c))
			break;
		key.number = c->answered;
		emit_queued(&key, flags, is_proven(c));
		c->answered++;
	}
	c->queued = c->answered;
	c->overflow = 0;
	return 0;
}

/* Ends what is current to make way for a request that begins in the segment. False if
 * the response to an earlier one has not ended: the request has to wait.
 */
VERIFIED_ALONE int make_way(const struct scratch *s, struct connection *c)
{
	const struct segment *seg;
	bool lost;

	if (!s || !c)
		return false;
	seg = &s->segment;
	if (c->phase == PHASE_HEAD) {
		count_rare(COUNTER_DISCARDED);
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
VERIFIED_ALONE RARE int enqueue(struct __sk_buff *skb, struct scratch *s, struct connection *c,
				__u64 now)
{
	struct queue_key key = {};
	struct queued_request *q;
	__u32 recorded;

	if (!s || !c)
		return 0;
	count_rare(COUNTER_PIPELINED);
	if (c->recorded)
		c->x.flags |= FLAG_PIPELINED;
	if (c->overflow || pending(c) >= QUEUE_MAX || !may_queue(c)) {
		count_rare(COUNTER_QUEUE_FULL);
		if (c->overflow < 255)
			c->overflow++;
		return 0;
	}
	recorded = is_recorded(s->segment.kind) && s->segment.kind.outcome != OUTCOME_INCOMPLETE;
	s = scratch_as_map_value(s);
	if (!s)
		return 0;
	q = &s->queued;
	__builtin_memset(q, 0, sizeof(*q));
	q->start = s->segment.seq;
	q->recorded = recorded;
	q->proven = is_proven(c);
	if (!recorded)
		q->bodiless = bodiless_segment(skb, &s->segment);
	if (recorded) {
		read_options(skb, &s->segment, s);
		start_record(skb, &s->segment, s, c, &q->x, now);
		q->bodiless = bodiless_record(&q->x);
		if (s->segment.kind.outcome == OUTCOME_FOUND)
			set_context(&q->x, &s->walk);
		q->x.flags |= FLAG_PIPELINED | (c->unsure ? FLAG_END_GUESSED : 0);
		set_socket(&q->x, s, c);
	}
	key.connection = s->segment.key;
	key.number = c->queued;
	if (bpf_map_update_elem(&queued_requests, &key, q, BPF_ANY))
		count_rare(COUNTER_QUEUE_FULL);
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
VERIFIED_ALONE RARE int add_to_queued(struct scratch *s, struct connection *c, __u32 fresh,
				      __u64 now, __u32 back)
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
	if (!is_proven(c))
		await_proof(s, c, true);
	start_message(&c->request, seg->seq, BODY_FRAMED);
	if (!make_way(s, c)) {
		if (outcome == OUTCOME_INCOMPLETE) /* deep: its context cannot be searched */
			count_rare(COUNTER_DISCARDED);
		enqueue(skb, s, c, now);
		return;
	}
	c->unsure = 0;
	become_current(c, seg->seq, BODILESS_NONE);
	if (!is_recorded(seg->kind)) {
		c->bodiless = bodiless_segment(skb, seg);
		return;
	}
	read_options(skb, seg, s);
	start_record(skb, seg, s, c, &c->x, now);
	c->bodiless = bodiless_record(&c->x);
	if (outcome == OUTCOME_FOUND)
		set_context(&c->x, &s->walk);
	if (outcome != OUTCOME_INCOMPLETE) {
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
	mark_behind(w, outcome);
	count_outcome(outcome, w->marks);
	forget_partial_head(&seg->key);
	c->phase = PHASE_REQUEST;
	if (outcome == OUTCOME_FOUND) {
		set_context(&c->x, w);
		c->x.flags |= FLAG_MULTI_SEGMENT;
	} else if (!is_recorded_anyway(outcome, w->request_line)) {
		return;
	}
	record_current(c);
	count(COUNTER_STARTED);
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
		outcome = search_chunks(skb, s, seg->payload_off, seg->payload_len);
		if (outcome == OUTCOME_INCOMPLETE) {
			if (!save_partial_head(s))
				c->phase = PHASE_REQUEST;
			return;
		}
	}
	end_head(seg, c, &s->walk, outcome);
}

/* Bytes that passed before. */
VERIFIED_ALONE int on_seen_bytes(const struct scratch *s, struct connection *c, bool from_client,
				 __u64 now)
{
	const struct segment *seg;

	if (!s || !c)
		return 0;
	seg = &s->segment;
	arrive(from_client ? &c->client : &c->server, seg->seq, seg->payload_len, &(__u32){0});
	c->x.retransmits++;
	count_rare(COUNTER_RETRANSMITTED);
	note_retransmit(c, seg, from_client, now);
	return 0;
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
		b.outcome = walk_loaded(skb, s, off + skip, len - skip, start);
		if (start & START_TOKEN && !has_request_line(&s->walk, b.outcome))
			b.outcome = NOT_A_REQUEST;
		b.request_line = s->walk.request_line;
		b.marks = s->walk.marks;
	}
	if (s->socket.cookie)
		limit_at_socket(&b);
	seg->kind = b;
}

/* A request is not recorded that came before the latest one: which response is whose is
 * uncertain.
 */
static __always_inline void lose_order(struct connection *c)
{
	c->unsure = 1;
	c->x.flags |= FLAG_END_GUESSED;
	count_rare(COUNTER_FRAMING_LOST);
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
	bool begins = false, whole;

	part = uniform_part(&c->client, seg->seq, len);
	if (is_seen(&c->client, seg->seq)) {
		seg->payload_len = part;
		if (before(seg->seq, c->client_start))
			lose_order(c); /* overtaken by the first segment seen */
		on_seen_bytes(s, c, true, now);
		return part;
	}
	whole = is_whole(&c->response, &c->server); /* misses_acked() forgets the gap */
	if (misses_acked(&c->server, seg->ack)) {
		give_up_missing(&c->response, &c->server);
		if (is_open(c) && !whole)
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
		count_rare(COUNTER_OUT_OF_ORDER);
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
		count_rare(COUNTER_LATE);
		return part;
	}
	if (arrival != ARRIVAL_IN_ORDER)
		c->x.flags |= FLAG_OUT_OF_ORDER;
	add_request_bytes(&c->x, seg, s, fresh, now);
	correct_bytes(&c->x, &c->x.request_bytes, m, &c->client);
	return part;
}

#endif
