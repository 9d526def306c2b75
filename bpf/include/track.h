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

/* Status code of "HTTP/1.x NNN", or 0. */
static __always_inline __u16 read_status(struct __sk_buff *skb, __u32 off)
{
	__u8 text[4];

	if (bpf_skb_load_bytes(skb, off + 8, text, sizeof(text)) || text[0] != ' ')
		return 0;
	for (int i = 1; i < 4; i++)
		if (text[i] < '0' || text[i] > '9')
			return 0;
	return (text[1] - '0') * 100 + (text[2] - '0') * 10 + text[3] - '0';
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

/* Starts a new exchange in c, with the times and sizes of its first segment. */
static __always_inline void open_exchange(struct connection *c, const struct segment *seg,
					  __u64 now)
{
	struct exchange_record *x = &c->x;

	__builtin_memset(x, 0, sizeof(*x));
	set_endpoints(x, seg);
	x->request_first = now;
	start_egress(x, seg->seq);
	c->last_ns = now; /* before the claim, which the sweep reads first */
	x->direction = seg->direction;
	c->request_total = 0;
	c->response_total = 0;
	c->response_framing = FRAMING_UNKNOWN;
	c->complete = 0;
	c->guessed = 0;
	c->reports = 0;
	c->waits_since = 0;
	if (c->pipelined_responses)
		x->flags |= FLAG_PIPELINED;
	c->client_is_a = seg->from_a;
	c->in_pipelined_response = 0;
}

/* Keeps the start of the request line, and what follows from its method. */
static __always_inline void read_request_line(struct __sk_buff *skb, const struct segment *seg,
					      struct scratch *s, struct connection *c)
{
	__u32 len = seg->payload_len < REQUEST_LINE_MAX ? seg->payload_len : REQUEST_LINE_MAX;
	__u64 head;

	BOUND_LENGTH(len, REQUEST_LINE_MAX_BOUND);
	if (!len || len > REQUEST_LINE_MAX ||
	    bpf_skb_load_bytes(skb, seg->payload_off, c->x.request_line, len))
		return;
	__builtin_memcpy(&head, c->x.request_line, sizeof(head));
	c->bodiless = BODILESS_NONE;
	if (MATCHES_EXACT(head, 5, 'H', 'E', 'A', 'D', ' ', 0, 0, 0))
		c->bodiless = BODILESS_HEAD;
	else if (MATCHES_EXACT(head, 8, 'C', 'O', 'N', 'N', 'E', 'C', 'T', ' '))
		c->bodiless = BODILESS_CONNECT;
	c->request_total = 1; /* no body */
	c->request_end = seg->seq + 1;
	if (MATCHES_EXACT(head, 4, 'G', 'E', 'T', ' ', 0, 0, 0, 0) || c->bodiless)
		return;
	c->request_total = 0;
	if (parse_framing(skb, seg, s, 0) && s->framing.kind != FRAMING_CHUNKED)
		c->request_total = s->framing.head_len + s->framing.length;
	c->request_end = seg->seq + c->request_total;
}

static __always_inline void set_connection_id(struct connection *c, const struct scratch *s)
{
	struct exchange_record *x = &c->x;

	if (s->connection_id_len) {
		__builtin_memcpy(x->connection_id, s->connection_id, sizeof(x->connection_id));
		x->connection_id_len = s->connection_id_len;
		x->option_time = s->option_time;
	} else if (c->syn_option_len) {
		__builtin_memcpy(x->connection_id, c->syn_connection_id, sizeof(x->connection_id));
		x->connection_id_len = c->syn_option_len;
		x->flags |= FLAG_OPTION_LOST;
	}
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

/* The context in the walk makes the exchange in c an open one. */
static __always_inline void adopt_context(struct connection *c, const struct walk *w)
{
	struct exchange_record *x = &c->x;

	__builtin_memcpy(x->trace_id, w->found.trace_id, sizeof(x->trace_id));
	__builtin_memcpy(x->span_id, w->found.span_id, sizeof(x->span_id));
	x->format = w->found.format;
	x->sampling = w->found.sampling;
	x->header_offset = w->found.offset;
	if (w->marks & MARK_MALFORMED)
		x->flags |= FLAG_MALFORMED;
	if (w->marks & MARK_SEVERAL)
		x->flags |= FLAG_SEVERAL_CONTEXTS;
	c->phase = PHASE_REQUEST;
	c->claim = (c->claim | 1) + 1;
	count(COUNTER_STARTED);
}

/* Deep: stores the walk until the next segment. */
static __always_inline bool save_partial_head(const struct connection_key *key, struct scratch *s)
{
	struct partial_head *found;

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
	if (!c->client.valid || before(c->client.next, seg->seq))
		resync_at(&c->client, seg->seq);
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
	return true;
}

/* A client segment that starts with a method; c may be NULL. Returns the connection if
 * the segment belongs to an exchange in it.
 */
static __always_inline struct connection *begin_request(struct __sk_buff *skb,
							const struct segment *seg,
							struct scratch *s, struct connection *c,
							__u64 now)
{
	int outcome = seg->kind.outcome;

	/* Without a complete request line this is more likely the body of a request that has no
	 * response yet.
	 */
	if (c && c->phase == PHASE_REQUEST && !s->walk.request_line)
		outcome = OUTCOME_UNPARSABLE;
	count_request(outcome, s->walk.marks);
	if (outcome == OUTCOME_UNPARSABLE)
		return c && is_open(c) ? c : NULL;
	if (c)
		close_previous(c);
	if (!is_recorded(outcome)) {
		if (c)
			c->awaiting_response = 1;
		return NULL;
	}
	if (!c) {
		c = new_connection(seg, s);
		if (!c)
			return NULL;
		resync(c, seg);
		arrive(&c->client, seg->seq, seg->payload_len, &(__u32){0});
		c->client_start = seg->seq;
	}
	open_exchange(c, seg, now);
	if (outcome == OUTCOME_INCOMPLETE) {
		if (!save_partial_head(&seg->key, s))
			return NULL;
		c->phase = PHASE_HEAD;
	} else {
		adopt_context(c, &s->walk);
	}
	read_request_line(skb, seg, s, c);
	read_options(skb, seg, s);
	set_connection_id(c, s);
	return c;
}

/* Deep: the search is over; a context found belongs to the exchange. */
static __always_inline void end_head(const struct segment *seg, struct connection *c,
				     struct walk *w, int outcome)
{
	if (outcome == OUTCOME_TRUNCATED)
		outcome = finish_walk(w, OUTCOME_TRUNCATED);
	count_outcome(outcome, w->marks);
	forget_partial_head(&seg->key);
	c->phase = PHASE_IDLE;
	if (outcome == OUTCOME_FOUND) {
		adopt_context(c, w);
		c->x.flags |= FLAG_MULTI_SEGMENT;
	} else {
		c->awaiting_response = 1;
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
		c->phase = PHASE_IDLE;
		count(COUNTER_HEAD_TRUNCATED);
		return;
	}
	if (continues) {
		outcome = parse_chunks(skb, s, seg->payload_off, seg->payload_len);
		if (outcome == OUTCOME_INCOMPLETE) {
			if (!save_partial_head(&seg->key, s))
				c->phase = PHASE_IDLE;
			return;
		}
	}
	end_head(seg, c, &s->walk, outcome);
}

static __always_inline void extend_egress(struct exchange_record *x, __u32 end)
{
	if (before(x->egress_seq_end, end))
		x->egress_seq_end = end;
}

/* Adds a segment to the request. At the sending socket, its bytes were written before
 * the packet was seen.
 */
static __always_inline void add_request_bytes(struct connection *c, const struct segment *seg,
					      const struct scratch *s, __u32 fresh, __u64 now)
{
	if (c->x.direction == DIRECTION_EGRESS)
		extend_egress(&c->x, seg->seq + seg->payload_len);
	if (s->socket.cookie && seg->direction == DIRECTION_EGRESS) {
		if (!c->x.far_request_first)
			c->x.far_request_first = s->write_times.first;
		c->x.far_request_last = s->write_times.last;
	}
	c->x.request_last = now;
	c->x.request_bytes += fresh;
	c->x.request_packets++;
}

/* Whether a segment of the client belongs to the body of its request. By sequence numbers,
 * where they are unambiguous: segments that overtook the head are not in request_bytes.
 */
static __always_inline bool is_in_body(const struct connection *c, const struct segment *seg)
{
	if (!is_open(c) || (c->claim & 1))
		return false;
	if (c->request_total >> 31)
		return c->x.request_bytes < c->request_total;
	return before(seg->seq, c->request_end);
}

/* Payload from the client of a stored connection. */
static __always_inline void on_client_data(struct __sk_buff *skb, const struct segment *seg,
					   struct scratch *s, struct connection *c, __u64 now)
{
	enum arrival arrival;
	__u32 fresh;

	if (!c->tracked)
		resync(c, seg);
	arrival = arrive(&c->client, seg->seq, seg->payload_len, &fresh);
	if (arrival == ARRIVAL_AGAIN) {
		c->x.retransmits++;
		count(COUNTER_RETRANSMITTED);
		if (!fresh) {
			note_retransmit(c, seg, true, now);
			return;
		}
	} else if (arrival != ARRIVAL_IN_ORDER) {
		count(COUNTER_OUT_OF_ORDER);
	}
	if (c->phase == PHASE_HEAD) {
		if (arrival != ARRIVAL_AGAIN)
			continue_head(skb, seg, s, c, arrival == ARRIVAL_IN_ORDER);
	} else if (arrival != ARRIVAL_AGAIN && seg->kind.outcome != NOT_A_REQUEST &&
		   !is_in_body(c, seg)) {
		if (!begin_request(skb, seg, s, c, now))
			return;
	}
	if (c->phase == PHASE_IDLE)
		return;
	/* Indistinguishable from the next request with its head late or missing. */
	if (c->phase == PHASE_RESPONSE &&
	    (arrival != ARRIVAL_IN_ORDER || c->client.gap_start != c->client.gap_end))
		return;
	if (is_open(c) && (c->claim & 1)) {
		count(COUNTER_LATE);
		return;
	}
	if (arrival == ARRIVAL_AHEAD || arrival == ARRIVAL_FILLED)
		c->x.flags |= FLAG_OUT_OF_ORDER;
	/* Bytes of the body that overtook the head, if that was all that was missing. */
	if (arrival == ARRIVAL_FILLED && c->phase == PHASE_REQUEST && !c->x.request_packets &&
	    c->client.gap_start == c->client.gap_end)
		fresh += c->client.next - (seg->seq + seg->payload_len);
	add_request_bytes(c, seg, s, fresh, now);
}

static __always_inline bool is_interim(__u16 status)
{
	return status >= 100 && status < 200 && status != 101;
}

/* Length of the interim response at the start of the segment, or 0 if it exceeds the
 * first read.
 */
static __always_inline __u32 interim_len(struct __sk_buff *skb, const struct segment *seg,
					 struct scratch *s)
{
	__u32 len = seg->payload_len < FIRST_READ ? seg->payload_len : FIRST_READ;

	s->walk.end = 0;
	return append(skb, s, seg->payload_off, len) ? find_head_end(s, len) : 0;
}

/* Start of a response. False if it belongs to another request or is not the final one.
 * skipped: bytes of interim responses before it.
 */
static __always_inline bool begin_response(struct __sk_buff *skb, const struct segment *seg,
					   struct scratch *s, struct connection *c, __u32 *skipped)
{
	__u16 status = read_status(skb, seg->payload_off);

	if (is_interim(status)) {
		__u64 head = 0;

		if (!c->pipelined_responses && is_open(c))
			c->x.flags |= FLAG_INTERIM;
		*skipped = interim_len(skb, seg, s);
		if (!*skipped || *skipped + sizeof(head) > seg->payload_len ||
		    bpf_skb_load_bytes(skb, seg->payload_off + *skipped, &head, sizeof(head)) ||
		    !is_response(head))
			return false;
		status = read_status(skb, seg->payload_off + *skipped);
		if (is_interim(status))
			return false;
	}
	if (c->pipelined_responses) {
		c->in_pipelined_response = 1;
		c->pipelined_responses--;
		return false;
	}
	c->in_pipelined_response = 0;
	c->awaiting_response = 0;
	c->x.status = status;
	if (status == 101)
		c->x.flags |= FLAG_UPGRADED;
	return true;
}

/* A segment passes several points of a node (sockets and interfaces) one right after
 * the other, mostly on the same CPU: later points reuse what the first one read.
 */
static __always_inline __u32 cache_slot(__u32 seq)
{
	return (__u32)(seq * (__u32)(HASH_FACTOR >> 32)) >> (32 - SEGMENT_CACHE_BITS);
}

/* Reads the framing of the response that begins in the segment, at offset skipped. */
static __always_inline void frame_response(struct __sk_buff *skb, const struct segment *seg,
					   struct scratch *s, struct connection *c, __u32 skipped)
{
	__u64 seq_ack = (__u64)seg->seq << 32 | seg->ack;
	struct cached_framing *k = &s->cached_framings[cache_slot(seg->seq)];
	__u16 status = c->x.status;

	if (!skipped && k->seq_ack == seq_ack) {
		s->framing = k->framing;
	} else {
		parse_framing(skb, seg, s, skipped);
		if (!skipped) {
			k->framing = s->framing;
			k->seq_ack = seq_ack;
		}
	}
	if (!s->framing.head_len)
		return;
	if (status == 101 || (c->bodiless == BODILESS_CONNECT && status >= 200 && status < 300)) {
		c->x.flags |= FLAG_UPGRADED;
		s->framing.kind = FRAMING_LENGTH;
		s->framing.length = 0;
	} else if (c->bodiless == BODILESS_HEAD || status == 204 || status == 304) {
		s->framing.kind = FRAMING_LENGTH;
		s->framing.length = 0;
	}
	c->response_framing = s->framing.kind;
	if (s->framing.kind == FRAMING_LENGTH)
		c->response_total = s->framing.head_len + s->framing.length;
	c->chunks.left = 0;
	c->chunks.state = CHUNK_SIZE_LINE;
}

/* Follows the framing over a segment of the response, from offset skipped on, of which
 * fresh bytes are new. Returns how many of its bytes are after the end of the response.
 */
static __always_inline __u32 follow_response(struct __sk_buff *skb, const struct segment *seg,
					     struct scratch *s, struct connection *c,
					     enum arrival arrival, __u32 skipped, __u32 fresh)
{
	__u32 begin = skipped, len = seg->payload_len - skipped, after = 0, known;

	if (c->response_framing == FRAMING_LENGTH) {
		/* Offsets are modulo 4 GiB. */
		__u64 end = (__u64)(seg->seq + skipped - c->response_start) + len;

		if (c->response_total <= ~0U && end > c->response_total)
			after = end - c->response_total < len ? end - c->response_total : len;
		known = after < fresh ? fresh - after : 0;
		if (c->x.response_bytes + known >= c->response_total)
			c->complete = 1;
		return after;
	}
	if (c->response_framing != FRAMING_CHUNKED)
		return 0;
	if (c->complete && !c->guessed)
		return len;
	if (arrival == ARRIVAL_AGAIN)
		begin = seg->payload_len - fresh;
	else if (arrival != ARRIVAL_IN_ORDER)
		c->chunks.state = CHUNK_LOST;
	if (c->chunks.state == CHUNK_LOST) {
		c->complete = c->guessed =
			c->server.gap_start == c->server.gap_end && ends_like_last_chunk(skb, seg);
		return 0;
	}
	if (seg->seq + begin == c->response_start)
		begin += s->framing.head_len;
	if (begin < seg->payload_len)
		after = follow_chunks(skb, &c->chunks, seg->payload_off + begin,
				      seg->payload_len - begin);
	c->complete = c->chunks.state == CHUNK_END;
	return after;
}

/* Whether the request that waits for a response has been seen to its end. */
static __always_inline bool is_request_whole(const struct connection *c)
{
	return c->request_total && c->x.request_bytes >= c->request_total;
}

/* A response head while a request waits for its response: false if the server had not
 * seen that request, or answers one that did not pass this point. In the second case the
 * request that waits gets no response here.
 */
static __always_inline bool answers_request(const struct segment *seg, struct connection *c)
{
	if (c->phase != PHASE_REQUEST || c->pipelined_responses)
		return true;
	if (!before(c->x.egress_seq_start, seg->ack))
		return false;
	/* A FIN takes one sequence number. */
	if (!before(c->client.next + 1, seg->ack))
		return true;
	if (!is_request_whole(c)) {
		c->x.flags |= FLAG_PACKETS_MISSING;
		return true;
	}
	emit(c, c->claim, FLAG_PACKETS_MISSING);
	c->phase = PHASE_IDLE;
	return false;
}

/* Whether the segment is the head of a response whose next segment overtook it. */
static __always_inline bool is_late_head(const struct segment *seg, const struct connection *c,
					 enum arrival arrival)
{
	return seg->kind.response && c->phase == PHASE_RESPONSE && !c->x.status &&
	       arrival == ARRIVAL_FILLED && before(seg->seq, c->response_start);
}

/* Payload from the server of a stored connection. */
static __always_inline void on_server_data(struct __sk_buff *skb, const struct segment *seg,
					   struct scratch *s, struct connection *c, __u64 now)
{
	__u32 fresh, skipped = 0, after;
	enum arrival arrival = arrive(&c->server, seg->seq, seg->payload_len, &fresh);

	if (arrival == ARRIVAL_AGAIN) {
		c->x.retransmits++;
		count(COUNTER_RETRANSMITTED);
		if (!fresh) {
			note_retransmit(c, seg, false, now);
			return;
		}
	} else if (arrival != ARRIVAL_IN_ORDER) {
		count(COUNTER_OUT_OF_ORDER);
	}
	if (seg->kind.outcome != NOT_A_REQUEST)
		count(COUNTER_REQUEST_IN_RESPONSE);
	if (c->phase == PHASE_HEAD)
		continue_head(skb, seg, s, c, false);
	if (c->phase == PHASE_IDLE && !c->pipelined_responses) {
		c->awaiting_response = 0;
		return;
	}
	if (seg->kind.response && (c->phase != PHASE_RESPONSE || c->in_pipelined_response)) {
		if (!answers_request(seg, c) || !begin_response(skb, seg, s, c, &skipped))
			return;
		fresh -= skipped < fresh ? skipped : fresh;
	} else if (c->in_pipelined_response || c->pipelined_responses) {
		return;
	} else if (is_late_head(seg, c, arrival)) {
		c->x.status = read_status(skb, seg->payload_off);
		c->response_start = seg->seq;
		frame_response(skb, seg, s, c, 0);
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
		c->response_start = seg->seq + skipped;
		if (seg->kind.response)
			frame_response(skb, seg, s, c, skipped);
		if (c->x.direction == DIRECTION_INGRESS)
			start_egress(&c->x, seg->seq + skipped);
	}
	after = follow_response(skb, seg, s, c, arrival, skipped, fresh);
	if (after >= fresh)
		return; /* not of this response */
	fresh -= after;
	if (c->x.direction == DIRECTION_INGRESS)
		extend_egress(&c->x, seg->seq + seg->payload_len - after);
	c->x.response_last = now;
	c->x.response_bytes += fresh;
	c->x.response_packets++;
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
		if (start & START_TOKEN && !has_request_line(&s->walk, b.outcome))
			b.outcome = NOT_A_REQUEST;
		if (b.outcome == OUTCOME_INCOMPLETE)
			return b;
		b.request_line = s->walk.request_line;
		b.marks = s->walk.marks;
		if (b.outcome == OUTCOME_FOUND)
			s->cached_contexts[slot] = s->walk.found;
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
	if (!seg->payload_len || is_syn(seg))
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
	h->seq_ack = (__u64)SEQUENCE_NUMBER(*tcp) << 32 | bpf_ntohl(tcp->ack);
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

/* A new connection: keep its option, drop an older connection with the same key. */
static __always_inline void on_syn(struct __sk_buff *skb, const struct segment *seg,
				   struct scratch *s, struct connection *c, __u32 *tracked)
{
	if (c && seg->seq + 1 == c->client_start)
		return; /* a copy of the connection's SYN */
	if (c) {
		if (is_open(c))
			emit_ended(c, 0);
		set_tracked(c, tracked, 0);
		bpf_map_delete_elem(&connections, &seg->key);
	}
	if (!read_options(skb, seg, s))
		return;
	c = new_connection(seg, s);
	if (!c)
		return;
	c->client.valid = 1;
	c->client.next = seg->seq + 1;
	c->client_start = seg->seq + 1;
	c->last_ns = bpf_ktime_get_ns();
	c->syn_option_len = s->connection_id_len;
	__builtin_memcpy(c->syn_connection_id, s->connection_id, sizeof(c->syn_connection_id));
}

/* Returns the connection unless it has ended. */
static __always_inline struct connection *on_fin_or_rst(const struct segment *seg,
							struct connection *c, __u32 *tracked)
{
	bool from_client = seg->from_a == c->client_is_a;

	if (seg->flags & TCP_RST) {
		if (is_open(c))
			emit_ended(c, FLAG_RESET);
	} else {
		if (from_client)
			c->client.fin = 1;
		else
			c->server.fin = 1;
		/* Servers often close with the last byte of the response. More follows: the
		 * driver transmits it, and the client application reads it before it closes.
		 */
		if (!c->client.fin || !c->server.fin)
			return c;
		if (is_open(c))
			emit_ended(c, 0);
	}
	if (c->phase == PHASE_HEAD)
		count(COUNTER_DISCARDED);
	forget_partial_head(&seg->key);
	set_tracked(c, tracked, 0);
	bpf_map_delete_elem(&connections, &seg->key);
	return NULL;
}

/* Applies a segment with payload to its connection. */
static __always_inline struct connection *on_payload(struct __sk_buff *skb,
						     const struct segment *seg, struct scratch *s,
						     struct connection *c)
{
	__u64 now;

	if (!c && finish_untracked(seg->kind))
		return NULL;
	now = bpf_ktime_get_ns();
	if (!c) {
		c = begin_request(skb, seg, s, NULL, now);
		if (!c)
			return NULL;
		add_request_bytes(c, seg, s, seg->payload_len, now);
	} else if (seg->from_a == c->client_is_a) {
		on_client_data(skb, seg, s, c, now);
	} else {
		on_server_data(skb, seg, s, c, now);
	}
	c->last_ns = now;
	return c;
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

	if (!x->is_socket) {
		x->is_socket = 1;
		x->is_client = c->client_is_a;
		x->cookie = s->socket.cookie;
		x->netns = s->socket.netns;
		x->uid = s->socket.uid;
		x->cgroup = s->socket.cgroup;
		x->tgid = s->socket.tgid;
	}
	if (s->segment.direction == DIRECTION_INGRESS && s->segment.payload_len)
		note_ack(x, s->segment.ack, c->last_ns);
}

/* Tracks the segment in s; tracked is the counter of its connection. Returns whether
 * later segments may belong to an exchange.
 */
VERIFIED_ALONE int track_segment(struct __sk_buff *skb, struct scratch *s, __u32 *tracked)
{
	const struct segment *seg;
	struct connection *c;

	if (!s || !tracked)
		return 0;
	s = scratch_as_map_value(s);
	if (!s)
		return 0;
	seg = &s->segment;
	c = bpf_map_lookup_elem(&connections, &seg->key);
	if (is_syn(seg)) {
		on_syn(skb, seg, s, c, tracked);
		return 0;
	}
	if (seg->payload_len)
		c = on_payload(skb, seg, s, c);
	if (c && is_fin_or_rst(seg))
		c = on_fin_or_rst(seg, c, tracked);
	if (!c)
		return 0;
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
