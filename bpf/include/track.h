/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* From a segment to what becomes of its connection. */
#ifndef LAYERTRACE_TRACK_H
#define LAYERTRACE_TRACK_H

#include "http_head.h"

/* Deep: a walk that waits for the next segment. */
struct partial_head {
	struct walk walk;
	__u8 line[CARRY_MAX + 8];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct connection_key);
	__type(value, struct partial_head);
} partial_heads SEC(".maps");

static __always_inline bool is_method(__u64 head)
{
	return MATCHES_EXACT(head, 4, 'G', 'E', 'T', ' ', 0, 0, 0, 0) ||
	       MATCHES_EXACT(head, 5, 'P', 'O', 'S', 'T', ' ', 0, 0, 0) ||
	       MATCHES_EXACT(head, 4, 'P', 'U', 'T', ' ', 0, 0, 0, 0) ||
	       MATCHES_EXACT(head, 5, 'H', 'E', 'A', 'D', ' ', 0, 0, 0) ||
	       MATCHES_EXACT(head, 7, 'D', 'E', 'L', 'E', 'T', 'E', ' ', 0) ||
	       MATCHES_EXACT(head, 6, 'P', 'A', 'T', 'C', 'H', ' ', 0, 0) ||
	       MATCHES_EXACT(head, 8, 'O', 'P', 'T', 'I', 'O', 'N', 'S', ' ') ||
	       MATCHES_EXACT(head, 8, 'C', 'O', 'N', 'N', 'E', 'C', 'T', ' ') ||
	       MATCHES_EXACT(head, 6, 'T', 'R', 'A', 'C', 'E', ' ', 0, 0);
}

static __always_inline bool is_response(__u64 head)
{
	return MATCHES_EXACT(head, 7, 'H', 'T', 'T', 'P', '/', '1', '.', 0);
}

/* Status code of "HTTP/1.x NNN", 0 when there is none. */
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

/* A copy is sent again of bytes that passed the capture before. Where a packet of
 * the message was dropped behind it, the driver gets them now, unless the queue
 * says later that they waited there.
 */
static __always_inline void note_retransmit(struct connection *c, const struct segment *seg,
					    bool from_client, __u64 now)
{
	struct exchange_record *x = &c->x;

	if (!x->egress_dropped || from_client != (x->direction == DIRECTION_EGRESS))
		return;
	x->qdisc_bypass = 1;
	note_far_side(x, seg, from_client, now);
}

/* A new exchange in c, whose times and sizes are still those of its first
 * segment.
 */
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
	if (c->pipelined_responses)
		x->flags |= FLAG_PIPELINED;
	c->client_is_a = seg->from_a;
	c->informational = 0;
	c->in_pipelined_response = 0;
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

static __always_inline void count_outcome(int outcome, bool malformed)
{
	count(COUNTER_CONTEXT_FOUND + outcome - OUTCOME_FOUND);
	if (malformed)
		count(COUNTER_CONTEXT_MALFORMED);
}

/* The context in s->walk belongs to the exchange in c from now on. */
static __always_inline void adopt_context(struct connection *c, const struct walk *w)
{
	struct exchange_record *x = &c->x;

	__builtin_memcpy(x->trace_id, w->found.trace_id, sizeof(x->trace_id));
	__builtin_memcpy(x->span_id, w->found.span_id, sizeof(x->span_id));
	x->format = w->found.format;
	x->sampling = w->found.sampling;
	x->header_offset = w->found.offset;
	if (w->malformed)
		x->flags |= FLAG_MALFORMED;
	c->phase = PHASE_REQUEST;
	c->claim = (c->claim | 1) + 1;
	count(COUNTER_STARTED);
}

/* Deep: puts the walk aside until the next segment. */
static __always_inline bool save_partial_head(const struct connection_key *key, struct scratch *s)
{
	struct partial_head *found;

	carry_line(s);
	/* text starts with the carried line; copy as one block */
	found = bpf_map_lookup_elem(&partial_heads, key);
	if (!found) {
		/* any bytes do for a new entry: they are overwritten below */
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
static __always_inline void resync(struct connection *c, const struct segment *seg)
{
	if (!c->client.known || before(c->client.next, seg->seq))
		resync_at(&c->client, seg->seq);
	resync_at(&c->server, seg->ack);
	resync_at(&c->driver_client, seg->seq);
	resync_at(&c->driver_server, seg->ack);
}

/* What a segment is that does not begin with a method: no outcome of a walk. */
#define NOT_A_REQUEST (-1)

static __always_inline bool is_recorded(int outcome)
{
	return outcome == OUTCOME_FOUND || outcome == OUTCOME_INCOMPLETE;
}

static __always_inline void count_request(int outcome, bool malformed)
{
	if (outcome != OUTCOME_UNPARSABLE)
		count(COUNTER_REQUESTS);
	if (outcome != OUTCOME_INCOMPLETE)
		count_outcome(outcome, malformed);
}

/* Whether a segment of a connection on which nothing is followed is done with,
 * and counted: all but the beginnings of requests that are recorded.
 */
static __always_inline bool finish_untracked(struct beginning b)
{
	if (is_recorded(b.outcome))
		return false;
	if (b.outcome != NOT_A_REQUEST)
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
	int outcome = seg->kind.outcome;

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
			c->awaiting_response = 1;
		return NULL;
	}
	if (!c) {
		c = new_connection(seg, s);
		if (!c)
			return NULL;
		resync(c, seg);
		arrive(&c->client, seg->seq, seg->payload_len, &(__u32){0});
	}
	open_exchange(c, seg, now);
	if (outcome == OUTCOME_INCOMPLETE) {
		if (!save_partial_head(&seg->key, s))
			return NULL;
		c->phase = PHASE_HEAD;
	} else {
		adopt_context(c, &s->walk);
	}
	read_options(skb, seg, s);
	set_connection_id(c, s);
	return c;
}

/* Deep: the walk in s is over; its context, if any, is the exchange's. */
static __always_inline void end_head(const struct segment *seg, struct connection *c,
				     struct walk *w, int outcome)
{
	if (outcome == OUTCOME_TRUNCATED)
		outcome = finish_walk(w, OUTCOME_TRUNCATED);
	count_outcome(outcome, w->malformed);
	forget_partial_head(&seg->key);
	c->phase = PHASE_IDLE;
	if (outcome == OUTCOME_FOUND) {
		adopt_context(c, w);
		c->x.flags |= FLAG_MULTI_SEGMENT;
	} else {
		c->awaiting_response = 1;
	}
}

/* Deep: a segment behind the beginning of a request head: the head goes on in
 * it, or else (an answer, a gap) the window ends before it.
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

static __always_inline void extend_egress(struct exchange_record *x, const struct segment *seg)
{
	__u32 end = seg->seq + seg->payload_len;

	if (before(x->egress_seq_end, end))
		x->egress_seq_end = end;
}

/* A segment that adds to the request. At the socket that sends it, its bytes were
 * written before it could be seen in a packet.
 */
static __always_inline void add_request_bytes(struct connection *c, const struct segment *seg,
					      const struct scratch *s, __u32 fresh, __u64 now)
{
	if (c->x.direction == DIRECTION_EGRESS)
		extend_egress(&c->x, seg);
	if (s->socket.cookie && seg->direction == DIRECTION_EGRESS) {
		if (!c->x.far_request_first)
			c->x.far_request_first = s->write_times.first;
		c->x.far_request_last = s->write_times.last;
	}
	c->x.request_last = now;
	c->x.request_bytes += fresh;
	c->x.request_packets++;
}

/* Payload from the client of a known connection. */
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
	} else if (arrival != ARRIVAL_AGAIN && seg->kind.outcome != NOT_A_REQUEST) {
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

		if (!c->pipelined_responses) {
			c->informational = 1;
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
	if (c->pipelined_responses) {
		c->in_pipelined_response = 1;
		c->pipelined_responses--;
		return false;
	}
	c->in_pipelined_response = 0;
	c->informational = 0;
	c->awaiting_response = 0;
	c->x.status = status;
	if (status == 101)
		c->x.flags |= FLAG_UPGRADED;
	return true;
}

/* Payload from the server of a known connection. */
static __always_inline void on_server_data(struct __sk_buff *skb, const struct segment *seg,
					   struct scratch *s, struct connection *c, __u64 now)
{
	__u32 fresh, skipped = 0;
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
		if (!begin_response(skb, seg, s, c, &skipped))
			return;
		fresh -= skipped < fresh ? skipped : fresh;
	} else if (c->in_pipelined_response || c->pipelined_responses) {
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
			start_egress(&c->x, seg->seq + skipped);
	}
	if (c->x.direction == DIRECTION_INGRESS)
		extend_egress(&c->x, seg);
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

/* The place of a segment in the table, by multiplicative hashing. */
static __always_inline __u32 cache_slot(__u32 seq)
{
	return (__u32)(seq * (__u32)(HASH_FACTOR >> 32)) >> (32 - SEGMENT_CACHE_BITS);
}

/* A segment is known by its numbers and its length. Both numbers begin at random
 * (RFC 9293, section 3.4.1), and address translation leaves them as they are.
 */
static __always_inline bool is_cached(const struct cached_segment *k, __u64 seq_ack,
				      __u32 payload_len)
{
	return k->seq_ack == seq_ack && k->payload_len == payload_len;
}

/* Never to be found half written, by whoever interrupts this. */
static __always_inline void cache_segment(struct cached_segment *k, __u64 seq_ack,
					  __u32 payload_len, struct beginning b)
{
	*(volatile __u64 *)&k->seq_ack = 0;
	asm volatile("" ::: "memory");
	k->payload_len = payload_len;
	k->beginning = b;
	asm volatile("" ::: "memory");
	*(volatile __u64 *)&k->seq_ack = seq_ack;
}

/* Reads how a segment begins that is not known: payload_len bytes at off. What a
 * walk found is in s->walk; an open walk is more than what it began with, and not
 * noted.
 */
static __always_inline struct beginning read_payload(struct __sk_buff *skb, struct scratch *s,
						     __u64 seq_ack, __u32 off, __u32 payload_len,
						     const enum access access)
{
	__u64 head = load_head(skb, off, payload_len, access);
	struct beginning b = {.outcome = NOT_A_REQUEST, .response = is_response(head)};
	__u32 place = cache_slot(seq_ack >> 32);

	if (!b.response && is_method(head)) {
		b.outcome = walk_head(skb, s, off, payload_len, access);
		if (b.outcome == OUTCOME_INCOMPLETE)
			return b;
		b.request_line = s->walk.request_line;
		b.malformed = s->walk.malformed;
		if (b.outcome == OUTCOME_FOUND)
			s->cached_contexts[place] = s->walk.found;
	}
	cache_segment(&s->known[place], seq_ack, payload_len, b);
	return b;
}

/* Sets how a segment begins. What a walk found is in s->walk. */
static __always_inline void classify_payload(struct __sk_buff *skb, struct segment *seg,
					     struct scratch *s, const enum access access)
{
	__u64 seq_ack = (__u64)seg->seq << 32 | seg->ack;
	__u32 place = cache_slot(seg->seq);
	struct cached_segment *k = &s->known[place];

	seg->kind = (struct beginning){.outcome = NOT_A_REQUEST};
	if (!seg->payload_len || is_syn(seg))
		return;
	if (!is_cached(k, seq_ack, seg->payload_len)) {
		seg->kind =
			read_payload(skb, s, seq_ack, seg->payload_off, seg->payload_len, access);
		return;
	}
	seg->kind = k->beginning;
	s->walk.request_line = k->beginning.request_line;
	s->walk.malformed = k->beginning.malformed;
	if (seg->kind.outcome == OUTCOME_FOUND)
		s->walk.found = s->cached_contexts[place];
}

/* What a segment's headers say. */
struct fast_headers {
	__u64 seq_ack; /* as of a known segment */
	__u64 addrs;   /* sums, as followed_sums takes them */
	__u32 ports;
	__u32 payload_off;
	__u32 payload_len;
	__u8 flags;
	bool chosen; /* one of its ports is, or none has to be */
};

/* Fills g for TCP behind IPv4 without options or IPv6 without extension headers,
 * in packet memory from l2 on; false for all else.
 */
static __always_inline bool parse_fast(struct __sk_buff *skb, __u32 l2, struct fast_headers *g)
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
		g->addrs = mapped_ipv4(ip->src) + mapped_ipv4(ip->dst);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		off = l2 + sizeof(*ip6);
		tcp = (const void *)(ip6 + 1);
		if ((const void *)(tcp + 1) > end || ip6->next_header != IPPROTO_TCP)
			return false;
		len = bpf_ntohs(ip6->payload_len);
		g->addrs = ip6->src[0] + ip6->src[1] + ip6->dst[0] + ip6->dst[1];
	} else {
		return false;
	}
	head = (tcp->data_offset >> 4) * 4;
	/* A length of 0 (BIG TCP) as well. */
	if (len > 0xffff || len < head)
		return false;
	sport = bpf_ntohs(tcp->src);
	dport = bpf_ntohs(tcp->dst);
	g->chosen = !filter_ports || port_is_chosen(sport) || port_is_chosen(dport);
	g->ports = sport + dport;
	g->payload_off = off + head;
	g->payload_len = len - head;
	g->flags = tcp->flags;
	g->seq_ack = (__u64)SEQUENCE_NUMBER(*tcp) << 32 | bpf_ntohl(tcp->ack);
	return true;
}

/* Whether a segment of a connection on which nothing is followed is done with.
 * What an earlier point noted is read without a claim: whoever interrupts may
 * note another segment there meanwhile, which the numbers tell.
 */
static __always_inline bool skip_untracked(struct __sk_buff *skb, const struct fast_headers *g,
					   const enum access access)
{
	struct scratch *s = bpf_map_lookup_elem(&scratches, &(__u32){0});
	struct cached_segment *k;
	struct beginning b;

	if (g->flags & (TCP_SYN | TCP_FIN | TCP_RST) || !s)
		return false;
	if (!g->payload_len)
		return true;
	k = &s->known[cache_slot(g->seq_ack >> 32)];
	if (is_cached(k, g->seq_ack, g->payload_len)) {
		b = k->beginning;
		asm volatile("" ::: "memory");
		if (k->seq_ack != g->seq_ack)
			return false;
	} else {
		if (__sync_lock_test_and_set(&s->claimed, 1))
			return false;
		b = read_payload(skb, s, g->seq_ack, g->payload_off, g->payload_len, access);
		release_scratch(s);
	}
	return finish_untracked(b);
}

/* A connection begins: remember its option, forget an older connection. */
static __always_inline void on_syn(struct __sk_buff *skb, const struct segment *seg,
				   struct scratch *s, struct connection *c, __u32 *tracked)
{
	if (c && seg->seq + 1 == c->client.next)
		return; /* the SYN again */
	if (c) {
		if (is_open(c))
			emit(c, c->claim, 0);
		set_tracked(c, tracked, 0);
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
static __always_inline struct connection *on_fin_or_rst(const struct segment *seg,
							struct connection *c, __u32 *tracked)
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
	if (c->phase == PHASE_HEAD)
		count(COUNTER_DISCARDED);
	forget_partial_head(&seg->key);
	set_tracked(c, tracked, 0);
	bpf_map_delete_elem(&connections, &seg->key);
	return NULL;
}

/* What a segment with payload does to its connection. */
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

/* The peer's TCP has all bytes before the sequence number ack: also the last of
 * the message that the socket sent?
 */
static __always_inline void note_ack(struct exchange_record *x, __u32 ack, __u64 now)
{
	if (x->egress_seq_start == x->egress_seq_end || before(ack, x->egress_seq_end) ||
	    x->egress_seq_done == x->egress_seq_end)
		return;
	x->egress_seq_done = x->egress_seq_end;
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
		note_ack(x, s->segment.ack, c->last_ns);
}

/* The segment in s may belong to something. followed: the count of its
 * connection. Returns whether what comes next can belong to an
 * exchange. A function of its own: most segments belong to nothing, and code
 * that they pass on their way has to be fetched.
 */
__noinline int track_segment(struct __sk_buff *skb, struct scratch *s, __u32 *tracked)
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

/* Whether a segment can belong to something. */
static __always_inline bool needs_connection(const struct segment *seg, __u32 tracked)
{
	return tracked || is_syn(seg) || is_fin_or_rst(seg) || !finish_untracked(seg->kind);
}

/* Fills the segment of s, as parse_segment. Out of line: what it needs of the stack
 * is free again for those that are called next.
 */
static __noinline int parse_direct(struct __sk_buff *skb, struct scratch *s, __u32 l2, bool bare)
{
	return parse_segment(skb, &s->segment, l2, ACCESS_DIRECT, bare);
}

static __always_inline bool parse(struct __sk_buff *skb, struct scratch *s, __u32 l2,
				  const enum access access)
{
	return access == ACCESS_DIRECT ? parse_direct(skb, s, l2, false) :
					 parse_segment(skb, &s->segment, l2, access, false);
}

/* What has to be read of a packet at an interface: into s, as little fits on the
 * stack.
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

/* Out of the way of those that only pass. */
static __noinline int slow_path_direct(struct __sk_buff *skb, __u32 l2, enum direction direction)
{
	slow_path(skb, l2, direction, ACCESS_DIRECT);
	return 0;
}

/* The body of every capture program at an interface; l2 is the link-layer
 * header's length.
 */
static __always_inline void capture(struct __sk_buff *skb, __u32 l2, enum direction direction,
				    const enum access access)
{
	struct fast_headers g;

	if (access != ACCESS_DIRECT) {
		slow_path(skb, l2, direction, access);
		return;
	}
	if (parse_fast(skb, l2, &g)) {
		if (!g.chosen)
			return;
		if (!(any_tracked() &&
		      is_tracked(tracked_counter_by_sums(g.addrs, g.ports, skb->ifindex))) &&
		    skip_untracked(skb, &g, access))
			return;
	}
	slow_path_direct(skb, l2, direction);
}

#endif
