/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A socket as a capture point. Its packets pass the programs of its cgroup,
 * where the HTTP head can be read and the socket is known; so neither loopback
 * nor address translation is in the way. What the application does is told by
 * tracepoints, which find the socket by its storage.
 */
#ifndef LAYERTRACE_SOCKET_H
#define LAYERTRACE_SOCKET_H

#include "segment.h"

/* Tells keys of sockets from those of interfaces, whose indexes are positive. */
#define SOCKET_POINT 0x80000000

#define AF_INET 2
#define AF_INET6 10
#define TCP_LISTEN 10

/* Only sockets of the chosen cgroups have one. What most packets, writes and
 * reads look at comes first: all of it lies in one line of the cache.
 */
struct socket_state {
	/* What the application had read when it wrote, and when it read last while
	 * something was followed; see copied_seq of struct tcp_sock.
	 */
	__u32 read_before;
	__u32 read;
	__u32 followed; /* what comes next can belong to an exchange */
	__u32 pad;
	struct socket_facts facts;
	struct connection_key key; /* end a is the socket's own */
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct socket_state);
} socket_states SEC(".maps");

/* A 32-bit field of a socket. The verifier allows only loads at constant
 * offsets, but the compiler likes to compute an address that two loads share.
 */
#define SOCK_FIELD(sk, field)                                                   \
	({                                                                      \
		__u32 value;                                                    \
		asm volatile("%0 = *(u32 *)(%1 + %2)"                           \
			     : "=r"(value)                                      \
			     : "r"(sk), "i"(offsetof(struct bpf_sock, field))); \
		value;                                                          \
	})
#define SOCK_FIELDS(sk, first, second) (SOCK_FIELD(sk, first) | (__u64)SOCK_FIELD(sk, second) << 32)

static __always_inline void set_socket_ends(struct connection_key *key, const struct bpf_sock *sk)
{
	if (sk->family == AF_INET) {
		map_ipv4(key->addr_a, SOCK_FIELD(sk, src_ip4));
		map_ipv4(key->addr_b, SOCK_FIELD(sk, dst_ip4));
	} else {
		key->addr_a[0] = SOCK_FIELDS(sk, src_ip6[0], src_ip6[1]);
		key->addr_a[1] = SOCK_FIELDS(sk, src_ip6[2], src_ip6[3]);
		key->addr_b[0] = SOCK_FIELDS(sk, dst_ip6[0], dst_ip6[1]);
		key->addr_b[1] = SOCK_FIELDS(sk, dst_ip6[2], dst_ip6[3]);
	}
	key->port_a = SOCK_FIELD(sk, src_port);
	key->port_b = bpf_ntohs(sk->dst_port);
}

/* The state of a socket whose first packet this is; NULL when it is none to look
 * at. Out of line, as a socket needs it once.
 */
static __noinline struct socket_state *new_socket_state(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct socket_state *st;

	if (!sk)
		return NULL;
	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->protocol != IPPROTO_TCP || sk->state == TCP_LISTEN)
		return NULL;
	st = bpf_sk_storage_get(&socket_states, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!st) {
		count(COUNTER_SOCKET_FULL);
		return NULL;
	}
	st->facts.cookie = bpf_get_socket_cookie(skb);
	st->facts.uid = bpf_get_socket_uid(skb);
	st->key.ifindex = SOCKET_POINT | (__u32)st->facts.cookie;
	set_socket_ends(&st->key, sk);
	return st;
}

static __always_inline struct socket_state *socket_state_of(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct socket_state *st;

	if (!sk)
		return NULL;
	st = bpf_sk_storage_get(&socket_states, sk, NULL, 0);
	return st ? st : new_socket_state(skb);
}

/* The segment in s may belong to something at this socket. */
static __always_inline void take_at_socket(struct __sk_buff *skb, struct scratch *s,
					   struct socket_state *st, bool egress)
{
	struct segment *seg = &s->segment;

	seg->key = st->key;
	seg->from_a = egress;
	s->socket = st->facts;
	/* What came before was read: requests and responses take turns. */
	if (!st->followed)
		st->read = egress ? seg->ack : seg->seq;
	st->followed = take_followed(skb, s, followed_count(&st->key, SOCKET_POINT));
}

/* Ports are not looked at: behind a redirection they are others than on the wire.
 *
 * What leaves: the socket was just written to, so its state is at hand.
 */
static __always_inline void capture_out_of_socket(struct __sk_buff *skb)
{
	struct socket_state *st;
	struct segment seg;
	struct scratch *s;

	if (!parse_segment(skb, &seg, 0, ACCESS_DIRECT))
		return;
	st = socket_state_of(skb);
	if (!st)
		return;
	s = claim_scratch();
	if (!s)
		return;
	seg.direction = DIRECTION_EGRESS;
	read_beginning(skb, &seg, s, ACCESS_LOAD);
	if (concerns(&seg, s, st->followed)) {
		s->segment = seg;
		take_at_socket(skb, s, st, true);
	}
	release_scratch(s);
}

/* What arrives: nobody has looked at the socket for long, and finding its state
 * takes more time than all else. The packet has the addresses that the socket
 * was found by, and so says whether it is followed.
 */
static __always_inline void capture_into_socket(struct __sk_buff *skb)
{
	struct socket_state *st;
	struct segment seg;
	struct scratch *s;
	__u32 *followed;

	if (!parse_segment(skb, &seg, 0, ACCESS_DIRECT))
		return;
	followed = followed_count(&seg.key, SOCKET_POINT);
	s = claim_scratch();
	if (!s)
		return;
	seg.direction = DIRECTION_INGRESS;
	read_beginning(skb, &seg, s, ACCESS_LOAD);
	if (followed && concerns(&seg, s, *followed)) {
		s->segment = seg;
		st = socket_state_of(skb);
		if (st)
			take_at_socket(skb, s, st, false);
	}
	release_scratch(s);
}

#endif
