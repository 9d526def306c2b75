/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* From a packet to the connection that it belongs to: nearly all packets leave before they
 * look one up.
 */
#ifndef LAYERTRACE_ENCRYPTED_H
#define LAYERTRACE_ENCRYPTED_H

#include "follow.h"

/* Ports to follow, of either end, when filter_ports is set. Not at sockets, whose ports
 * differ from those on the wire after a redirection.
 */
const volatile bool filter_ports;
const volatile __u8 ports[PORT_BYTES];

/* Without a tracepoint for writes, write times are unknown. */
const volatile bool have_writes;

/* The benchmark repeats one packet and redefines these to make each run a new segment. */
#ifndef SEQUENCE_NUMBER
#define SEQUENCE_NUMBER(tcp) bpf_ntohl((tcp).seq)
#define SOURCE_PORT(tcp) bpf_ntohs((tcp).src)
#define DESTINATION_PORT(tcp) bpf_ntohs((tcp).dst)
#endif

struct segment {
	struct connection_key ends; /* on the wire; the point is 0 */
	__u16 sport;
	__u16 dport;
	__u32 seq;
	__u32 payload_off;
	__u32 payload_len;
	__u8 flags;
	__u8 direction;
	bool from_a; /* sent by end a of the connection's key */
	__u8 pad;
	__u64 sent; /* when TCP sent it, at its socket; else 0 */
	__u32 ack;
	bool acknowledges; /* data that the socket sent */
};

/* Sorts the ends; on entry addr_a is the source and addr_b the destination. */
static __always_inline void set_ends(struct segment *s)
{
	struct connection_key *k = &s->ends;
	bool src_is_a = s->sport < s->dport;

	if (s->sport == s->dport)
		src_is_a = k->addr_a[0] != k->addr_b[0] ? k->addr_a[0] < k->addr_b[0] :
							  k->addr_a[1] < k->addr_b[1];
	s->from_a = src_is_a;
	k->port_a = src_is_a ? s->sport : s->dport;
	k->port_b = src_is_a ? s->dport : s->sport;
	if (src_is_a)
		return;
	for (int i = 0; i < 2; i++) {
		__u64 src = k->addr_a[i];

		k->addr_a[i] = k->addr_b[i];
		k->addr_b[i] = src;
	}
}

#define IPV6_EXTENSIONS_MAX 6

/* Skips IPv6 extension headers. Returns the offset of TCP, or 0. */
static __always_inline __u32 skip_extensions(struct __sk_buff *skb, __u32 off, __u8 next)
{
	for (int i = 0; i < IPV6_EXTENSIONS_MAX; i++) {
		struct {
			__u8 next;
			__u8 len;
		} ext = {};

		if (next == IPPROTO_TCP)
			return off;
		if (next == 44) { /* fragment header, RFC 8200 section 4.5 */
			count(ENCRYPTED_COUNTER_FRAGMENT);
			return 0;
		}
		if (next != 0 && next != 43 && next != 60 && next != 51)
			return 0;
		if (bpf_skb_load_bytes(skb, off, &ext, sizeof(ext)))
			return 0;
		/* RFC 4302: the authentication header's length is in 4-byte words. */
		off += next == 51 ? (ext.len + 2) * 4 : (ext.len + 1) * 8;
		next = ext.next;
	}
	return next == IPPROTO_TCP ? off : 0;
}

/* Sets what a TCP header at off says. */
static __always_inline void set_tcp(struct segment *s, const struct tcp_header *tcp, __u32 off,
				    __u32 end)
{
	__u32 data_off = off + (tcp->data_offset >> 4) * 4;

	s->sport = SOURCE_PORT(*tcp);
	s->dport = DESTINATION_PORT(*tcp);
	s->payload_off = data_off;
	s->payload_len = end > data_off ? end - data_off : 0;
	s->seq = SEQUENCE_NUMBER(*tcp);
	s->flags = tcp->flags;
	s->ack = bpf_ntohl(tcp->ack);
}

/* Any TCP packet. Returns 1 if it is one. */
static COLD int parse_any(struct __sk_buff *skb, struct segment *s, __u32 l2)
{
	__be16 protocol = skb->protocol;
	struct tcp_header tcp = {};
	__u32 off = l2, end;

	if (protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD)) {
		if (bpf_skb_load_bytes(skb, l2 + 2, &protocol, sizeof(protocol)))
			return 0;
		off += VLAN_HLEN;
	}
	if (protocol == bpf_htons(ETH_P_IP)) {
		struct ipv4_header ip = {};

		if (bpf_skb_load_bytes(skb, off, &ip, sizeof(ip)) || ip.protocol != IPPROTO_TCP)
			return 0;
		if (ip.fragment & bpf_htons(IP_MF_OR_OFFSET)) {
			count(ENCRYPTED_COUNTER_FRAGMENT);
			return 0;
		}
		/* 0: too long for the field (BIG TCP) */
		end = ip.total_len ? off + bpf_ntohs(ip.total_len) : skb->len;
		map_ipv4(s->ends.addr_a, ip.src);
		map_ipv4(s->ends.addr_b, ip.dst);
		off += (ip.version_ihl & 15) * 4;
	} else if (protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6_header ip = {};

		if (bpf_skb_load_bytes(skb, off, &ip, sizeof(ip)))
			return 0;
		/* 0: jumbo payload, RFC 2675 */
		end = ip.payload_len ? off + sizeof(ip) + bpf_ntohs(ip.payload_len) : skb->len;
		__builtin_memcpy(s->ends.addr_a, ip.src, sizeof(ip.src));
		__builtin_memcpy(s->ends.addr_b, ip.dst, sizeof(ip.dst));
		off = skip_extensions(skb, off + sizeof(ip), ip.next_header);
		if (!off)
			return 0;
	} else {
		return 0;
	}
	if (bpf_skb_load_bytes(skb, off, &tcp, sizeof(tcp))) {
		count(ENCRYPTED_COUNTER_TRUNCATED);
		return 0;
	}
	set_tcp(s, &tcp, off, end);
	return 1;
}

enum parsed {
	PARSED_OTHER, /* not TCP */
	PARSED,
	PARSED_UNUSUAL, /* parse_any() knows */
};

/* TCP over IPv4 without options or IPv6 without extension headers, in place. */
static __always_inline enum parsed parse_usual(struct __sk_buff *skb, struct segment *s, __u32 l2)
{
	const void *data = (void *)(long)skb->data + l2, *end = (void *)(long)skb->data_end;
	const struct ipv4_header *ip = data;
	const struct ipv6_header *ip6 = data;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		const struct tcp_header *tcp = (const void *)(ip + 1);

		if ((const void *)(tcp + 1) > end)
			return PARSED_UNUSUAL;
		if (ip->protocol != IPPROTO_TCP)
			return PARSED_OTHER;
		if (ip->version_ihl != 0x45 || ip->fragment & bpf_htons(IP_MF_OR_OFFSET) ||
		    !ip->total_len)
			return PARSED_UNUSUAL;
		map_ipv4(s->ends.addr_a, ip->src);
		map_ipv4(s->ends.addr_b, ip->dst);
		set_tcp(s, tcp, l2 + sizeof(*ip), l2 + bpf_ntohs(ip->total_len));
		return PARSED;
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		const struct tcp_header *tcp = (const void *)(ip6 + 1);

		if ((const void *)(tcp + 1) > end || ip6->next_header != IPPROTO_TCP ||
		    !ip6->payload_len)
			return PARSED_UNUSUAL;
		__builtin_memcpy(s->ends.addr_a, ip6->src, sizeof(ip6->src));
		__builtin_memcpy(s->ends.addr_b, ip6->dst, sizeof(ip6->dst));
		set_tcp(s, tcp, l2 + sizeof(*ip6), l2 + sizeof(*ip6) + bpf_ntohs(ip6->payload_len));
		return PARSED;
	}
	return PARSED_UNUSUAL;
}

static __always_inline bool parse(struct __sk_buff *skb, struct segment *s, __u32 l2,
				  const enum access access)
{
	enum parsed parsed = PARSED_UNUSUAL;

	if (access == ACCESS_DIRECT)
		parsed = parse_usual(skb, s, l2);
	return parsed == PARSED || (parsed == PARSED_UNUSUAL && parse_any(skb, s, l2));
}

static __always_inline bool is_more_than_ack(const struct segment *s)
{
	return s->payload_len || s->flags & (TCP_SYN | TCP_FIN | TCP_RST);
}

static __always_inline bool ports_match(const struct segment *s)
{
	return !filter_ports || has_port(ports, s->sport) || has_port(ports, s->dport);
}

/* The first bytes of the payload decide whether a connection is followed. */
static __always_inline __u64 peek(struct __sk_buff *skb, const struct segment *s,
				  const enum access access)
{
	__u32 off = s->payload_off;

	if (access == ACCESS_DIRECT && s->payload_len >= 8) {
		const void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

		if (off <= 256 && data + off + 8 <= end)
			return *(const __u64 *)(data + off);
	}
	return load_head(skb, off, s->payload_len);
}

static COLD struct connection *new_connection(const struct connection_key *key)
{
	struct connection *c;

	if (bpf_map_update_elem(&connections, key, &blank, BPF_NOEXIST)) {
		count(ENCRYPTED_COUNTER_MAP_FULL);
		return NULL;
	}
	__sync_fetch_and_add(followed_at(sum_of(key)), 1);
	c = bpf_map_lookup_elem(&connections, key);
	if (c)
		c->id = __sync_fetch_and_add(&connection_ids, 1);
	return c;
}

static COLD int forget_connection(const struct connection_key *key)
{
	if (!bpf_map_delete_elem(&connections, key))
		__sync_fetch_and_add(followed_at(sum_of(key)), -1);
	return 0;
}

/* Two CPUs may see segments of a connection at the same time, also of one direction. Some
 * microseconds: a segment has up to RECORDS_MAX headers.
 */
#define LOCK_TRIES 128

VERIFIED_ALONE int lock(struct connection *c)
{
	__u32 own = bpf_get_smp_processor_id() + 1;

	if (!c)
		return false;
#pragma clang loop unroll(disable)
	for (int i = 0; i < LOCK_TRIES; i++) {
		__u32 holder = __sync_val_compare_and_swap(&c->lock, 0, own);

		if (!holder)
			return true;
		if (holder == own)
			break; /* this program interrupted it */
	}
	count(ENCRYPTED_COUNTER_CONTENDED);
	return false;
}

static __always_inline void unlock(struct connection *c)
{
	(void)__sync_lock_test_and_set(&c->lock, 0); /* with a barrier, which arm64 needs */
}

static COLD int on_syn(struct connection *c, __u32 seq)
{
	if (c->role & ROLE_OPENED && c->syn == seq)
		return 0; /* a copy */
	start_over(c);
	c->role |= ROLE_OPENED;
	c->syn = seq;
	return 0;
}

/* Ports below are those of servers: Linux and others choose a client's above. */
#define CLIENT_PORT_MIN 32768

/* Whether the sender of a connection's first data seen is the client. Without a handshake its
 * port decides, or that it spoke first.
 */
static __always_inline bool is_from_client(const struct segment *s, bool hello)
{
	bool from_client_port = s->sport >= CLIENT_PORT_MIN;

	return hello || from_client_port == (s->dport >= CLIENT_PORT_MIN) || from_client_port;
}

/* The first data of a connection that is followed from here on. */
static COLD int begin(struct connection *c, const struct segment *s, __u32 hello)
{
	bool from_client = is_from_client(s, hello);

	c->role |= ROLE_CLIENT_KNOWN;
	c->role &= ~ROLE_CLIENT_IS_A;
	if (s->from_a == from_client)
		c->role |= ROLE_CLIENT_IS_A;
	c->direction =
		from_client ? s->direction : DIRECTION_INGRESS + DIRECTION_EGRESS - s->direction;
	if (hello) {
		c->role |= ROLE_HELLO;
		c->turn.flags |= TURN_HANDSHAKE;
	} else {
		c->role |= ROLE_FINISHED;
		c->turn.flags |= TURN_MIDDLE;
		count(ENCRYPTED_COUNTER_FROM_MIDDLE);
	}
	count(ENCRYPTED_COUNTER_FOLLOWED);
	return 0;
}

static __always_inline bool client_is_a(const struct connection *c)
{
	return c->role & ROLE_CLIENT_IS_A;
}

/* Whether a sequence number is far from what its sender has sent. */
static __always_inline bool is_far(const struct stream *st, __u32 seq)
{
	return st->state != STREAM_UNSEEN &&
	       seq - st->next + CONNECTION_DISTANCE > 2 * CONNECTION_DISTANCE;
}

/* Whether a segment is of another connection with the same ends, whose SYN was not seen. */
static __always_inline bool is_of_another(struct __sk_buff *skb, struct connection *c,
					  const struct segment *s)
{
	if (is_far(stream_of(c, s->from_a == client_is_a(c)), s->seq))
		return true;
	return c->ended && is_client_hello(load_head(skb, s->payload_off, s->payload_len)) &&
	       before(stream_of(c, s->from_a == client_is_a(c))->next, s->seq);
}

/* FIN or RST. */
static COLD int on_end(struct connection *c, struct stream *st, __u32 flags)
{
	if (c->ended)
		return 0;
	if (flags & TCP_RST) {
		c->turn.flags |= TURN_RESET;
	} else {
		c->turn.flags |= TURN_CLOSED;
		st->fin = 1;
		if (!c->client.fin || !c->server.fin)
			return 0;
	}
	finish_turn(c);
	c->ended = c->now;
	return 0;
}

static __always_inline bool covers(const struct write *w, __u32 seq)
{
	return w->time && !before(seq, w->seq) && before(seq, w->end);
}

/* The socket sends bytes of a message up to end. Those of no known write were sent at once. */
static __always_inline void note_written(struct connection *c, const struct stream *st, __u32 end,
					 __u64 sent)
{
	struct far *far = &c->sent;
	struct write unsent = c->unsent, latest = c->latest;

	if (far->turn != c->turn.number + 1) {
		far->turn = c->turn.number + 1;
		far->first = covers(&unsent, st->start) ? unsent.time :
			     covers(&latest, st->start) ? latest.time :
							  sent;
		far->last = far->first;
	}
	if (latest.time && before(latest.seq, end) && before(st->start, latest.end))
		sent = latest.time;
	if (sent > far->last)
		far->last = sent;
	far->next = end;
}

/* Bytes pass an interface again that had dropped a packet of the message. The driver gets them
 * only now, unless the qdisc reports that it releases them later.
 */
static COLD int note_resent(struct connection *c, const struct segment *s)
{
	const struct stream *st = stream_of(c, c->from_client);
	const struct turn_message *m = message_of(c, c->from_client);
	__u32 end = s->seq + s->payload_len;
	struct far *far = &c->sent;

	if (!m->first || !before(st->start, end))
		return 0;
	if (far->turn != c->turn.number + 1) { /* what passed before bypassed the qdisc */
		far->turn = c->turn.number + 1;
		far->first = m->first;
		far->next = end;
	}
	if (!before(st->start, s->seq))
		far->first = c->now;
	far->last = c->now;
	if (before(far->next, end))
		far->next = end;
	far->bypass = 1;
	return 0;
}

/* The peer's TCP has all bytes before ack: also the end of the message that the socket sent? */
static __always_inline void note_acknowledged(struct connection *c, __u32 ack, __u64 now)
{
	const struct stream *st = stream_of(c, client_is_a(c));
	struct far *far = &c->acknowledged;
	__u32 end = st->message_end;

	if (!message_of(c, client_is_a(c))->first || before(ack, end) ||
	    (far->turn == c->turn.number + 1 && far->next == end))
		return;
	far->turn = c->turn.number + 1;
	far->next = end;
	far->last = now;
}

/* Whether the socket receives a message of which a part has arrived, and has not answered. */
static __always_inline bool receives(const struct connection *c)
{
	return client_is_a(c) ? c->turn.response.first :
				c->turn.request.first && !c->turn.response.first;
}

/* Notes who waits for whom at a socket, before TCP processes a segment with data. */
static __always_inline void note_waits(struct connection *c, const struct segment *s,
				       const struct tcp_sock *tp)
{
	__u64 blocked;

	if (s->from_a) {
		if (is_late(tp, c->sent_last))
			note_hold(&c->waits, &c->waits_since, c->sent_last, tp, c->now);
		c->sent_last = tp->tcp_clock_cache;
		return;
	}
	blocked = note_arrival(&c->queue, tp, s->seq, s->seq + s->payload_len, c->now);
	if (blocked && receives(c))
		c->waits.unread += blocked;
}

/* A segment of a connection that is locked; tp is NULL at an interface. Returns whether to go
 * on following it.
 */
static __always_inline bool on_locked(struct __sk_buff *skb, struct connection *c,
				      const struct segment *s, const struct tcp_sock *tp)
{
	struct stream *st;
	bool from_client;

	c->now = bpf_ktime_get_ns();
	c->touched = c->now;
	if (s->flags & TCP_SYN) {
		if (!(s->flags & TCP_ACK))
			on_syn(c, s->seq);
		return true;
	}
	if (c->role & ROLE_CLIENT_KNOWN && s->payload_len && is_of_another(skb, c, s))
		start_over(c);
	if (!(c->role & ROLE_CLIENT_KNOWN)) {
		__u64 head = load_head(skb, s->payload_off, s->payload_len);

		if (!s->payload_len || !begins_tls(head))
			return true;
		begin(c, s, is_client_hello(head));
	}
	from_client = s->from_a == client_is_a(c);
	st = stream_of(c, from_client);
	c->from_client = from_client;
	if (s->acknowledges)
		note_acknowledged(c, s->ack, c->now);
	if (tp && s->payload_len)
		note_waits(c, s, tp);
	if (s->payload_len && !tp && s->direction == DIRECTION_EGRESS &&
	    c->sent.dropped == c->turn.number + 1 && before(s->seq, st->next))
		note_resent(c, s);
	if (s->payload_len)
		follow(skb, c, s->seq, s->payload_off, s->payload_len);
	if (s->sent && c->has_data)
		note_written(c, st, s->seq + s->payload_len, s->sent);
	if (s->flags & (TCP_FIN | TCP_RST) && !is_far(st, s->seq))
		on_end(c, st, s->flags);
	if (is_confirmed(c))
		return c->lost < LOST_MAX;
	return !c->lost && c->client.state != STREAM_LOST && c->server.state != STREAM_LOST;
}

/* A segment that may be of a connection that is followed, or begin one. Returns whether it
 * did.
 */
static __always_inline int on_segment_at(struct __sk_buff *skb, const struct segment *s,
					 const struct connection_key *key,
					 const struct tcp_sock *tp)
{
	struct connection *c = bpf_map_lookup_elem(&connections, key);
	bool goes_on;
	int is_new = 0;

	if (!c) {
		if (!s->payload_len || !begins_tls(load_head(skb, s->payload_off, s->payload_len)))
			return 0;
		c = new_connection(key);
		if (!c)
			return 0;
		add_point(&s->ends, point_of(key));
		is_new = 1;
	} else if (is_socket(key) && s->payload_len && (!c->client.state || !c->server.state)) {
		/* Its ends may differ from those in the other direction. */
		add_point(&s->ends, point_of(key));
	}
	if (!lock(c))
		return 0;
	goes_on = on_locked(skb, c, s, tp);
	unlock(c);
	if (!goes_on) {
		count(ENCRYPTED_COUNTER_ABANDONED);
		forget_connection(key);
	}
	return is_new;
}

static __noinline int on_segment(struct __sk_buff *skb, const struct segment *s,
				 const struct connection_key *key)
{
	return on_segment_at(skb, s, key, NULL);
}

static __noinline int on_segment_of_socket(struct __sk_buff *skb, const struct segment *s,
					   const struct connection_key *key)
{
	return on_segment_at(skb, s, key, skb->sk ? bpf_skc_to_tcp_sock(skb->sk) : NULL);
}

/* Body of the programs at interfaces; l2 is the length of the link-layer header. */
static __always_inline void capture(struct __sk_buff *skb, __u32 l2, enum direction direction,
				    const enum access access)
{
	struct connection_key key;
	struct segment s = {};

	if (!parse(skb, &s, l2, access) || !is_more_than_ack(&s) || !ports_match(&s))
		return;
	set_ends(&s);
	key = s.ends;
	key.point = skb->ifindex;
	if (!*followed_at(sum_of(&key)) && !(s.payload_len && begins_tls(peek(skb, &s, access))))
		return;
	s.direction = direction;
	on_segment(skb, &s, &key);
}

static COLD int describe_socket(struct __sk_buff *skb, const struct connection_key *key)
{
	struct connection *c = bpf_map_lookup_elem(&connections, key);
	struct bpf_sock *sk = skb->sk;
	const struct sock *full;

	if (!c || !sk)
		return 0;
	c->socket.uid = bpf_get_socket_uid(skb);
	full = (const struct sock *)bpf_skc_to_tcp_sock(sk);
	if (!full)
		return 0;
	c->socket.netns = full->__sk_common.skc_net.net->ns.inum;
	c->socket.cgroup = full->sk_cgrp_data.cgroup->kn->id;
	return 0;
}

/* A bare acknowledgement arrives at a socket, or leaves it. */
static COLD int on_bare_ack(struct __sk_buff *skb, const struct connection_key *key, __u32 ack,
			    bool egress)
{
	struct connection *c = bpf_map_lookup_elem(&connections, key);
	struct bpf_sock *sk = skb->sk;
	struct tcp_sock *tp;
	__u64 now;

	if (!c || !sk || !(c->role & ROLE_CLIENT_KNOWN) || (egress && !c->queue.full_since))
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 0;
	now = bpf_ktime_get_ns();
	if (egress) {
		note_unblocked(&c->queue, tp, false, now);
		return 0;
	}
	note_hold(&c->waits, &c->waits_since, c->sent_last, tp, now);
	note_acknowledged(c, ack, now);
	return 0;
}

/* The same at a socket. */
static __always_inline void capture_at_socket(struct __sk_buff *skb)
{
	struct connection_key key = {.point = SOCKET_POINT};
	struct bpf_sock *sk = skb->sk;
	const struct tcp_sock *tp;
	struct segment s = {};

	if (!sk || !parse(skb, &s, 0, ACCESS_DIRECT))
		return;
	/* Only arriving packets have an ingress interface. */
	s.direction = skb->ingress_ifindex ? DIRECTION_INGRESS : DIRECTION_EGRESS;
	s.acknowledges = s.direction == DIRECTION_INGRESS;
	key.addr_a[0] = bpf_get_socket_cookie(skb);
	if (!*followed_at(sum_of(&key)) &&
	    !(s.payload_len && begins_tls(peek(skb, &s, ACCESS_DIRECT))))
		return;
	if (!is_more_than_ack(&s)) {
		on_bare_ack(skb, &key, s.ack, !s.acknowledges);
		return;
	}
	set_ends(&s);
	s.from_a = s.direction == DIRECTION_EGRESS;
	if (have_writes && s.from_a && s.payload_len) {
		tp = bpf_skc_to_tcp_sock(sk);
		if (tp)
			s.sent = tp->tcp_clock_cache;
	}
	if (on_segment_of_socket(skb, &s, &key))
		describe_socket(skb, &key);
}

#endif
