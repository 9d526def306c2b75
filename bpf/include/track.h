/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* From a segment to what it does to its connection: the segment cache, the fast path, and
 * the dispatch of segments. The state table is in connection.h.
 */
#ifndef LAYERTRACE_TRACK_H
#define LAYERTRACE_TRACK_H

#include "response.h"

static __always_inline bool is_cached(const struct cached_segment *k, __u64 seq_ack, __u32 id)
{
	return k->seq_ack == seq_ack && k->id == id;
}

/* Seqlock-style publish: an interrupting program never sees a partial entry. */
static __always_inline void cache_segment(struct cached_segment *k, __u64 seq_ack, __u32 id,
					  struct payload_kind b)
{
	*(volatile __u64 *)&k->seq_ack = 0;
	asm volatile("" ::: "memory");
	k->id = id;
	k->kind = b;
	asm volatile("" ::: "memory");
	*(volatile __u64 *)&k->seq_ack = seq_ack;
}

/* Reads the start of an uncached segment, payload_len bytes at off. The context, if
 * found, is in s->walk. An incomplete walk is more than its start and is not cached: if the
 * fast path has just left it, it is taken up.
 */
static __always_inline struct payload_kind read_payload(struct __sk_buff *skb, struct scratch *s,
							__u64 seq_ack, __u32 id, __u32 off,
							__u32 payload_len, const enum access access)
{
	struct payload_kind b = {.outcome = OUTCOME_INCOMPLETE};
	__u32 slot = cache_slot(seq_ack >> 32);
	__u64 head;
	int start;

	if (deep && s->resume && s->resume == seq_ack) {
		b.request_line = s->walk.request_line;
		b.marks = s->walk.marks;
		return b;
	}
	head = load_head(skb, off, payload_len, access);
	b.outcome = NOT_A_REQUEST;
	b.response = is_response(head);
	start = b.response ? START_DATA : start_of(skb, s, off, payload_len, head);
	if (start) {
		__u32 skip = start & START_AFTER_LINE ? 2 : 0;

		b.outcome = walk_head(skb, s, off + skip, payload_len - skip, start, access);
		if (start & START_TOKEN && !has_request_line(&s->walk, b.outcome)) {
			b.outcome = NOT_A_REQUEST;
			s->walk.marks = 0;
		}
		b.request_line = s->walk.request_line;
		b.marks = s->walk.marks;
		if (b.outcome == OUTCOME_INCOMPLETE)
			return b;
		if (b.outcome == OUTCOME_FOUND) {
			s->cached_contexts[slot] = s->walk.found;
			if (s->walk.head_end)
				cache_head(s, seq_ack, id, s->walk.head_end + skip, 0, LINE_START);
			else if (s->walk.unframed)
				cache_head(s, seq_ack, id, 0, s->walk.unframed + skip,
					   s->walk.in_line ? LINE_MIDDLE : LINE_START);
		}
	} else {
		b.marks = unreadable_start(head);
	}
	cache_segment(&s->segment_cache[slot], seq_ack, id, b);
	return b;
}

/* Sets seg->kind, from the cache if possible. The context, if found, is in s->walk. */
static __always_inline void classify_payload(struct __sk_buff *skb, struct segment *seg,
					     struct scratch *s, const enum access access)
{
	__u64 seq_ack = (__u64)seg->seq << 32 | seg->ack;
	__u32 slot = cache_slot(seg->seq);
	struct cached_segment *k = &s->segment_cache[slot];
	__u32 id;

	seg->kind = (struct payload_kind){.outcome = NOT_A_REQUEST};
	if (!seg->payload_len)
		return;
	id = segment_id(seg->sender, seg->payload_len);
	if (unlikely(!is_cached(k, seq_ack, id))) {
		seg->kind = read_payload(skb, s, seq_ack, id, seg->payload_off, seg->payload_len,
					 access);
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
	__u64 sender; /* see struct segment */
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
		h->sender = sender_ipv4(ip->src, tcp->src);
		h->addrs = mapped_ipv4(ip->src) + mapped_ipv4(ip->dst);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		off = l2 + sizeof(*ip6);
		tcp = (const void *)(ip6 + 1);
		if ((const void *)(tcp + 1) > end || ip6->next_header != IPPROTO_TCP)
			return false;
		len = bpf_ntohs(ip6->payload_len);
		h->sender = sender_ipv6(ip6->src, tcp->src);
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

static __always_inline bool is_bare_ack(const struct fast_headers *h)
{
	return !h->payload_len && !(h->flags & (TCP_SYN | TCP_FIN | TCP_RST));
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
	__u32 id;

	if (h->flags & (TCP_SYN | TCP_FIN | TCP_RST) || !s)
		return false;
	if (!h->payload_len)
		return true;
	k = &s->segment_cache[cache_slot(h->seq_ack >> 32)];
	id = segment_id(h->sender, h->payload_len);
	if (is_cached(k, h->seq_ack, id)) {
		b = k->kind;
		asm volatile("" ::: "memory");
		if (k->seq_ack != h->seq_ack)
			return false;
	} else {
		if (__sync_lock_test_and_set(&s->claimed, 1))
			return false;
		s->resume = 0;
		b = read_payload(skb, s, h->seq_ack, id, h->payload_off, h->payload_len, access);
		s->unfinished = b.outcome == OUTCOME_INCOMPLETE ? h->seq_ack : 0;
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
		drop_queue(c, &seg->key, reset | (c->unsure ? FLAG_END_GUESSED : 0));
	if (c->phase == PHASE_HEAD)
		count_rare(COUNTER_DISCARDED);
	forget_partial_head(&seg->key);
	set_proof(c, PROOF_NONE);
	tracked = tracked_counter_at(&seg->key);
	if (tracked)
		set_tracked(c, tracked, 0);
	return bpf_map_delete_elem(&connections, &seg->key);
}

/* Keeps the numbers that the first segments of a connection have, from a SYN-ACK. */
static COLD RARE int note_handshake(const struct segment *seg)
{
	struct handshakes *h = bpf_map_lookup_elem(&latest_handshakes, &(__u32){0});
	__u32 slot = hash_of_key(&seg->key, seg->key.ifindex) >> (64 - HANDSHAKE_BITS);

	slot &= (1 << HANDSHAKE_BITS) - 1;
	if (h)
		h->of[slot] = (__u64)seg->ack << 32 | (seg->seq + 1);
	return 0;
}

/* How far beyond the bytes seen an acknowledgement may be: some may not have passed here. */
#define UNSEEN_LIMIT (1U << 20)

/* The receiver takes a RST only with the number that it expects next (RFC 5961, section
 * 3.2): of the first byte that has not passed here, or that it has not acknowledged.
 */
static __always_inline bool is_exact(const struct stream *st, __u32 seq)
{
	return seq == st->next || seq == st->acked || (st->fin && seq == st->fin_seq + 1) ||
	       (st->missing && seq == st->gap_start);
}

/* Whether the client has bytes of the server that did not pass here. A FIN takes one number.
 * Only from a pod of the node: what the server sends to it may pass elsewhere. A pod could
 * forge the server's segments there too; who sends to an interface of the node could not.
 */
static __always_inline bool has_unseen_bytes(const struct segment *seg, const struct connection *c)
{
	return seg->direction == DIRECTION_INGRESS && c->server.valid &&
	       before(c->server.next + 1, seg->ack) && !is_own_only(seg->key.ifindex);
}

/* The server acknowledges the request, or the client its response: it is no forgery. A RST
 * for a segment of no connection acknowledges nothing, if that segment does: RFC 9293,
 * section 3.10.7.1.
 */
static __always_inline void note_proof(const struct segment *seg, struct connection *c)
{
	if (c->proof != PROOF_AWAITED || !(seg->flags & TCP_ACK))
		return;
	if (seg->from_a == c->client_is_a) {
		if (has_unseen_bytes(seg, c))
			set_proof(c, PROOF_SEEN);
		return;
	}
	if (seg->flags & TCP_RST && !is_exact(&c->server, seg->seq))
		return;
	if (before(c->request_start, seg->ack) && !before(c->client.next + UNSEEN_LIMIT, seg->ack))
		set_proof(c, PROOF_SEEN);
}

/* An exchange of a connection that exists goes on. */
static __always_inline bool is_live(const struct connection *c)
{
	return is_proven(c) && c->tracked && !(c->recorded && c->claim & 1 && !pending(c)) &&
	       !is_complete(c);
}

/* Whether the segment begins another connection than c. A handshake has passed whose
 * numbers are not those of c; or c has no proof.
 */
static __always_inline bool is_of_another(const struct segment *seg, const struct connection *c)
{
	if (seg->kind.outcome == NOT_A_REQUEST)
		return false;
	if (seg->seq != c->client.next && c->client_start - seg->seq >= WINDOW_LIMIT &&
	    follows_handshake(seg))
		return true;
	return c->proof == PROOF_AWAITED && is_recorded(seg->kind) &&
	       (seg->from_a != c->client_is_a || !is_near(&c->client, seg->seq));
}

/* A new connection: keep its option, drop an older connection with the same key. */
static COLD RARE struct connection *on_syn(struct __sk_buff *skb, const struct segment *seg,
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
	c->syn_option_len = s->options.id_len;
	__builtin_memcpy(c->syn_connection_id, s->options.id, sizeof(c->syn_connection_id));
	await_proof(s, c, false);
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

static __always_inline bool is_reset(const struct segment *seg, const struct connection *c)
{
	const struct stream *st = seg->from_a == c->client_is_a ? &c->client : &c->server;

	if (!(seg->flags & TCP_RST))
		return false;
	if (!c->tracked || !st->valid || is_exact(st, seg->seq))
		return true;
	count_rare(COUNTER_IMPLAUSIBLE);
	return false;
}

/* Deep: a segment while the search for the context goes on. */
VERIFIED_ALONE RARE int search_on(struct __sk_buff *skb, struct scratch *s, struct connection *c)
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
		if (likely(!part || seg->payload_off >= end))
			return;
		seg->payload_len = end - seg->payload_off;
		classify_rest(skb, seg, s);
	}
	/* What follows belongs to requests that are not seen. */
	count_rare(COUNTER_QUEUE_FULL);
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

/* Only a SYN has no acknowledgement; TCP drops others without. */
static __always_inline bool lacks_ack(const struct segment *seg)
{
	return !(seg->flags & (TCP_ACK | TCP_SYN | TCP_RST));
}

/* What a segment is to the connection that the table has for it. */
enum admission {
	ADMIT,
	ADMIT_NOT,     /* the ends of the connection ignore it */
	ADMIT_ANOTHER, /* it begins another connection */
};

/* With a SYN the ends do not end what goes on: RFC 5961, section 4.2. If a new connection
 * follows, its handshake shows that.
 */
static COLD int admit(const struct segment *seg, struct connection *c)
{
	bool admitted;

	note_proof(seg, c);
	if (is_of_another(seg, c))
		return ADMIT_ANOTHER;
	if (is_syn(seg))
		admitted = !is_live(c) || seg->seq + 1 == c->client_start;
	else
		admitted = !lacks_ack(seg) &&
			   (!c->tracked || seg->flags & TCP_RST ||
			    is_near(seg->from_a == c->client_is_a ? &c->client : &c->server,
				    seg->seq));
	if (admitted)
		return ADMIT;
	count_rare(COUNTER_IMPLAUSIBLE);
	return ADMIT_NOT;
}

static __always_inline void note_acked(const struct segment *seg, struct connection *c)
{
	struct stream *peers = seg->from_a == c->client_is_a ? &c->server : &c->client;

	if (seg->flags & TCP_ACK)
		peers->acked = seg->ack;
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
	if (c) {
		int admitted = admit(seg, c);

		if (admitted == ADMIT_NOT)
			return c->tracked;
		if (admitted == ADMIT_ANOTHER) {
			end_connection(seg, c, 0);
			c = NULL;
		}
	}
	if (is_syn(seg))
		c = on_syn(skb, seg, s, c);
	end = seg->seq + is_syn(seg) + seg->payload_len;
	if (seg->payload_len) {
		seg->seq += is_syn(seg);
		if (!c) {
			if (finish_untracked(seg->kind) || lacks_ack(seg))
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
	if (seg->payload_len || seg->flags & TCP_FIN)
		note_acked(seg, c);
	if (seg->flags & TCP_FIN)
		on_fin(seg, c, end);
	if (is_reset(seg, c) || has_ended(c)) {
		end_connection(seg, c, seg->flags & TCP_RST ? FLAG_RESET : 0);
		return 0;
	}
	set_tracked(c, tracked, expects_more(c));
	if (s->socket.cookie && c->phase != PHASE_IDLE)
		describe_socket(c, s);
	return c->tracked;
}

/* Whether a segment may change a connection. */
static __always_inline bool needs_connection(const struct segment *seg, const __u32 *tracked)
{
	return is_tracked(tracked) || is_syn(seg) || is_fin_or_rst(seg) ||
	       !finish_untracked(seg->kind);
}

/* parse_segment() out of line, which also frees its stack for later calls. */
static COLD int parse_direct(struct __sk_buff *skb, struct scratch *s, __u32 l2, bool keep_acks)
{
	return parse_segment(skb, &s->segment, l2, ACCESS_DIRECT, keep_acks);
}

static __always_inline bool parse(struct __sk_buff *skb, struct scratch *s, __u32 l2,
				  const enum access access, bool keep_acks)
{
	return access == ACCESS_DIRECT ? parse_direct(skb, s, l2, keep_acks) :
					 parse_segment(skb, &s->segment, l2, access, keep_acks);
}

/* A bare acknowledgement at an interface. */
static COLD int prove_by_ack(const struct segment *seg)
{
	struct connection *c = bpf_map_lookup_elem(&connections, &seg->key);

	if (c)
		note_proof(seg, c);
	return 0;
}

/* Applies the segment in s, at an interface. */
static __always_inline void handle(struct __sk_buff *skb, struct scratch *s,
				   const enum access access)
{
	struct segment *seg = &s->segment;
	__u32 *tracked = tracked_counter(&seg->key, seg->key.ifindex);

	if (!is_more_than_ack(seg)) {
		if (is_tracked(tracked))
			prove_by_ack(seg);
		return;
	}
	if ((seg->flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK))
		note_handshake(seg);
	classify_payload(skb, seg, s, access);
	if (tracked && needs_connection(seg, tracked)) {
		s->socket.cookie = 0;
		track_segment(skb, s, tracked);
	}
}

/* Captures at an interface whatever the fast path does not handle. The segment is in
 * scratch memory for lack of stack.
 */
static __always_inline void slow_path(struct __sk_buff *skb, __u32 l2, enum direction direction,
				      const enum access access)
{
	struct scratch *s = claim_scratch();

	if (!s)
		return;
	s->segment.direction = direction;
	if (parse(skb, s, l2, access, any_unproven()) && ports_match(&s->segment))
		handle(skb, s, access);
	release_scratch(s);
}

static COLD RARE int count_other_host(void)
{
	count(COUNTER_OTHER_HOST);
	return 0;
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

	if (direction == DIRECTION_INGRESS && is_for_others(skb)) {
		count_other_host();
		return;
	}
	if (access != ACCESS_DIRECT) {
		slow_path(skb, l2, direction, access);
		return;
	}
	if (parse_fast(skb, l2, &h)) {
		if (!h.ports_match)
			return;
		if (any_tracked() &&
		    is_tracked(tracked_counter_by_sums(h.addrs, h.ports, skb->ifindex))) {
			if (is_bare_ack(&h) && !any_unproven())
				return;
		} else if (skip_untracked(skb, &h, access)) {
			return;
		}
	}
	slow_path_direct(skb, l2, direction);
}

#endif
