/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A socket as a capture point. Its packets pass the programs of its cgroup, where both
 * the HTTP head and the socket are accessible, regardless of loopback and address
 * translation. Tracepoints report the application's writes and reads; they find the
 * socket's state in its storage.
 */
#ifndef LAYERTRACE_SOCKET_H
#define LAYERTRACE_SOCKET_H

#include "track.h"
#include "waits.h"

#define TARGET_CGROUPS_MAX 16
/* A target cgroup nested deeper than this is not found. */
#define CGROUP_LEVELS_MAX 32

/* IDs of the target cgroups: the inode numbers of their directories. */
struct target_cgroups {
	__u32 len;
	__u64 ids[TARGET_CGROUPS_MAX];
};

const volatile struct target_cgroups target_cgroups;

/* Without a tracepoint for writes, write times are unknown. */
const volatile bool have_write_tp;

#define CGROUP_CACHE_BITS 6

/* Results for cgroups looked up before, one word each: the cgroup, and in the lowest
 * bit whether it is in a target. Every write on the machine asks, so a hit must not
 * call anything.
 */
struct cgroup_cache {
	__u64 of[1 << CGROUP_CACHE_BITS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cgroup_cache);
} cached_cgroups SEC(".maps");

/* A power of two. Of sockets that share a slot, the latest writer is known. */
#define WRITE_SLOTS (1 << 10)

struct sk_write {
	__u32 socket; /* its hash, skc_hash */
	__u32 read;   /* copied_seq at the time of the write */
	__u32 end;    /* sequence number after the written data */
	__u32 pad;
	struct write_times times;
};

struct sk_writes {
	struct sk_write of[WRITE_SLOTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sk_writes);
} latest_writes SEC(".maps");

/* State of a socket in a target cgroup at which an exchange was recorded. */
struct socket_state {
	/* Data that the application had read while tracked; see copied_seq of struct tcp_sock. */
	__u32 read;
	__u32 tracked; /* later segments may belong to an exchange */
	__u64 sent;    /* ns: when it last sent data, 0: never */
	struct receive_queue queue;
	struct socket_facts facts;
	__u8 process_name[PROCESS_NAME_LEN]; /* set with facts.tgid */
	struct connection_key key;	     /* end a is the socket itself */
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct socket_state);
} socket_states SEC(".maps");

static __always_inline bool is_target_cgroup(__u64 id)
{
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < TARGET_CGROUPS_MAX; i++) {
		if (i >= target_cgroups.len)
			return false;
		if (target_cgroups.ids[i] == id)
			return true;
	}
	return false;
}

/* Number of a cgroup in this cache, with a lowest bit of 0: its address relative to the
 * cache. The verifier permits subtracting pointers, but not using one as a number.
 */
static __always_inline __u64 cgroup_number(const struct cgroup *group,
					   const struct cgroup_cache *cache)
{
	__u64 number = (__u64)group;

	asm volatile("%0 -= %1" : "+r"(number) : "r"(cache));
	return number;
}

static __always_inline __u64 *cgroup_slot(struct cgroup_cache *cache, __u64 number)
{
	return &cache->of[number * HASH_FACTOR >> (64 - CGROUP_CACHE_BITS)];
}

/* Whether the cgroup or an ancestor is a target; see cgroup_is_descendant() in
 * include/linux/cgroup.h.
 */
static COLD RARE int walk_up_cgroups(const struct cgroup *group, __u64 number, __u64 *entry)
{
	__u32 level = BPF_CORE_READ(group, level);
	__u64 in_target = 0;

	if (!entry)
		return 0;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < CGROUP_LEVELS_MAX && i <= level; i++) {
		struct cgroup *above = NULL;

		bpf_core_read(&above, sizeof(above), &group->ancestors[i]);
		if (is_target_cgroup(BPF_CORE_READ(above, kn, id))) {
			in_target = 1;
			break;
		}
	}
	*(volatile __u64 *)entry = number | in_target;
	return in_target;
}

static __always_inline bool sk_in_target_cgroup(const struct sock *sk)
{
	struct cgroup_cache *cache = bpf_map_lookup_elem(&cached_cgroups, &(__u32){0});
	const struct cgroup *group = sk->sk_cgrp_data.cgroup;
	__u64 number, *slot, entry;

	if (!cache)
		return false;
	number = cgroup_number(group, cache);
	slot = cgroup_slot(cache, number);
	entry = *(volatile __u64 *)slot;
	return (entry & ~1ULL) == number ? entry & 1 : walk_up_cgroups(group, number, slot);
}

/* A cgroup is created: an entry for an earlier one at the same address is stale. */
static __always_inline void forget_cgroup(const struct cgroup *group)
{
	struct cgroup_cache *cache = bpf_map_lookup_elem(&cached_cgroups, &(__u32){0});

	if (cache)
		*(volatile __u64 *)cgroup_slot(cache, cgroup_number(group, cache)) = 0;
}

/* Whether a write of len bytes is sent at once: it fits one segment, the peer has room
 * for it, and all earlier data is acknowledged, so neither the congestion window nor
 * Nagle's algorithm nor queued segments delay it. True for nearly all requests, which
 * saves reading the clock.
 */
static __always_inline bool sends_at_once(const struct tcp_sock *tp, __u64 len)
{
	return tp->write_seq == tp->snd_una && len <= tp->mss_cache && len <= tp->snd_wnd;
}

static __always_inline __u32 socket_hash(const struct tcp_sock *tp)
{
	return ((const struct sock *)tp)->__sk_common.skc_hash;
}

/* Never NULL; the check satisfies the verifier. */
static __always_inline struct sk_write *write_slot(const struct tcp_sock *tp)
{
	struct sk_writes *w = bpf_map_lookup_elem(&latest_writes, &(__u32){0});

	return w ? &w->of[socket_hash(tp) & (WRITE_SLOTS - 1)] : NULL;
}

/* Whether the entry is of this socket, with nothing read since. */
static __always_inline bool is_same_run(const struct sk_write *w, const struct tcp_sock *tp)
{
	return w->socket == socket_hash(tp) && w->read == tp->copied_seq;
}

/* Records a write of len bytes that has to wait. A read since the previous write means
 * that another message begins. At this time it is unknown whether a request to be
 * recorded begins, so this covers all sockets in target cgroups, in one small table:
 * socket storage is rarely in a cache.
 */
static __always_inline void note_write(const struct tcp_sock *tp, __u64 len, __u64 now)
{
	struct sk_write *w = write_slot(tp);

	if (!w)
		return;
	if (!is_same_run(w, tp)) {
		w->socket = socket_hash(tp);
		w->read = tp->copied_seq;
		w->times.first = now;
	}
	w->end = tp->write_seq + len;
	w->times.last = now;
}

/* Sets the write times of the data that the socket sends now, up to sequence number
 * end. Data after the last recorded write was sent at once.
 */
static __always_inline void find_write_times(const struct tcp_sock *tp, __u32 end,
					     struct write_times *to)
{
	const struct sk_write *w = write_slot(tp);

	if (!w || !have_write_tp)
		to->first = to->last = 0;
	else if (is_same_run(w, tp) && (__s32)(w->end - end) >= 0)
		*to = w->times;
	else
		to->first = to->last = tp->tcp_clock_cache;
}

#define AF_INET 2
#define AF_INET6 10
#define TCP_LISTEN 10

/* Reads a 32-bit field of a socket. The verifier allows only loads at constant offsets,
 * but the compiler likes to compute an address shared by two loads.
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

static __always_inline void set_socket_key(struct connection_key *key, const struct bpf_sock *sk)
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

/* Counter of tracked connections by the socket's own ends: those in an outgoing packet
 * may be translated.
 */
static __always_inline __u32 *tracked_counter_of_sk(const struct bpf_sock *sk)
{
	__u64 addrs;

	if (sk->family == AF_INET) {
		addrs = mapped_ipv4(SOCK_FIELD(sk, src_ip4)) + mapped_ipv4(SOCK_FIELD(sk, dst_ip4));
	} else {
		addrs = SOCK_FIELDS(sk, src_ip6[0], src_ip6[1]) +
			SOCK_FIELDS(sk, src_ip6[2], src_ip6[3]) +
			SOCK_FIELDS(sk, dst_ip6[0], dst_ip6[1]) +
			SOCK_FIELDS(sk, dst_ip6[2], dst_ip6[3]);
	}
	return tracked_counter_by_sums(addrs, SOCK_FIELD(sk, src_port) + bpf_ntohs(sk->dst_port),
				       SOCKET_POINT);
}

/* State of a socket at which an exchange is recorded for the first time; NULL if it is
 * not a TCP connection.
 */
static COLD RARE struct socket_state *new_socket_state(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct socket_state *st;
	struct tcp_sock *tp;

	if (!sk)
		return NULL;
	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->protocol != IPPROTO_TCP || sk->state == TCP_LISTEN)
		return NULL;
	st = bpf_sk_storage_get(&socket_states, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	tp = bpf_skc_to_tcp_sock(sk);
	if (!st || !tp) {
		count(COUNTER_SOCKET_FULL);
		return NULL;
	}
	st->facts.cookie = bpf_get_socket_cookie(skb);
	st->facts.uid = bpf_get_socket_uid(skb);
	st->facts.netns = ((struct sock *)tp)->__sk_common.skc_net.net->ns.inum;
	st->facts.cgroup = ((struct sock *)tp)->sk_cgrp_data.cgroup->kn->id;
	st->key.ifindex = SOCKET_POINT | (__u32)st->facts.cookie;
	set_socket_key(&st->key, sk);
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

/* The open exchange of the socket, or NULL. */
static __always_inline struct connection *open_exchange_at(const struct socket_state *st)
{
	struct connection *c = bpf_map_lookup_elem(&connections, &st->key);

	return c && is_open(c) && !(c->claim & 1) ? c : NULL;
}

/* TCP sends after it had to wait. */
static COLD RARE int on_late_segment(const struct socket_state *st, const struct tcp_sock *tp)
{
	struct connection *c = open_exchange_at(st);

	if (c)
		note_hold(&c->x.waits, &c->waits_since, st->sent, tp, bpf_ktime_get_ns());
	return 0;
}

/* Whether the socket receives a message of which a part has arrived. */
static __always_inline bool receives(const struct connection *c)
{
	return c->phase == (c->client_is_a ? PHASE_RESPONSE : PHASE_REQUEST);
}

/* The queue blocked the peer for so long before a segment arrived, in ns. */
static COLD RARE int on_blocked(const struct socket_state *st, __u64 blocked)
{
	struct connection *c = open_exchange_at(st);

	if (c && receives(c))
		c->x.waits.unread += blocked;
	return 0;
}

static __always_inline void note_segment(struct socket_state *st, const struct tcp_sock *tp,
					 const struct segment *seg)
{
	__u64 blocked = note_arrival(&st->queue, tp, seg->seq, seg->seq + seg->payload_len,
				     bpf_ktime_get_ns());

	if (blocked)
		on_blocked(st, blocked);
}

/* Notes who waits for whom at a socket, before TCP processes a segment with data. */
static __always_inline void note_waits(struct socket_state *st, const struct tcp_sock *tp,
				       const struct segment *seg, bool egress)
{
	if (!seg->payload_len)
		return;
	if (!egress) {
		note_segment(st, tp, seg);
		return;
	}
	if (is_late(tp, st->sent))
		on_late_segment(st, tp);
	st->sent = tp->tcp_clock_cache;
}

/* Whether the socket drops an arriving segment by its number (RFC 9293, section 3.10.7.4),
 * which it does after the programs have run; or has its data already, when nothing is open.
 * Segments that wait in the socket's backlog are not in rcv_nxt so far.
 */
static __always_inline bool is_dropped(const struct segment *seg, const struct socket_state *st,
				       const struct tcp_sock *tp)
{
	const struct connection *c;

	if (seg->flags & TCP_SYN) /* the socket has no numbers of the other side so far */
		return false;
	if (before(tp->rcv_wup + tp->rcv_wnd + WINDOW_LIMIT, seg->seq)) {
		count_rare(COUNTER_IMPLAUSIBLE);
		return true;
	}
	if (!seg->payload_len || before(tp->rcv_nxt, seg->seq + seg->payload_len))
		return false;
	c = bpf_map_lookup_elem(&connections, &st->key);
	return !c || !c->tracked;
}

/* What the socket shows before TCP processes the segment in s. Returns whether it counts. */
static COLD int read_socket(struct scratch *s, struct socket_state *st, const struct tcp_sock *tp)
{
	const struct segment *seg = &s->segment;
	bool egress = seg->direction == DIRECTION_EGRESS;

	if (egress)
		find_write_times(tp, seg->seq + seg->payload_len, &s->write_times);
	else if (is_dropped(seg, st, tp))
		return false;
	if (st->tracked)
		note_waits(st, tp, seg, egress);
	return true;
}

/* The segment in s may change the socket's connection. */
static __always_inline void track_at_socket(struct __sk_buff *skb, struct scratch *s)
{
	struct segment *seg = &s->segment;
	struct socket_state *st = socket_state_of(skb);
	struct bpf_sock *sk = skb->sk;
	struct tcp_sock *tp;
	__u32 *tracked;

	if (!st || !sk)
		return;
	seg->key = st->key;
	seg->from_a = seg->direction == DIRECTION_EGRESS;
	s->socket = st->facts;
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp && !read_socket(s, st, tp))
		return;
	tracked = tracked_counter(&st->key, SOCKET_POINT);
	if (!tracked)
		return;
	/* Earlier data has been read: requests and responses take turns. Also after the sweep
	 * has untracked the connection.
	 */
	if (!st->tracked || !is_tracked(tracked))
		st->read = seg->from_a ? seg->ack : seg->seq;
	st->tracked = track_segment(skb, s, tracked);
}

/* An acknowledgement without data arrives from the peer, or leaves. */
static COLD int on_bare_ack(struct __sk_buff *skb, __u32 ack, bool egress)
{
	struct bpf_sock *sk = skb->sk;
	struct socket_state *st;
	struct connection *c;
	struct tcp_sock *tp;
	__u64 now;

	if (!sk)
		return 0;
	st = bpf_sk_storage_get(&socket_states, sk, NULL, 0);
	tp = bpf_skc_to_tcp_sock(sk);
	if (!st || !tp || !st->tracked || (egress && !st->queue.full_since))
		return 0;
	now = bpf_ktime_get_ns();
	if (egress) {
		note_unblocked(&st->queue, tp, false, now);
		return 0;
	}
	c = open_exchange_at(st);
	if (c) {
		note_hold(&c->x.waits, &c->waits_since, st->sent, tp, now);
		note_ack(&c->x, ack, now);
	}
	return 0;
}

static __always_inline void handle_at_socket(struct __sk_buff *skb, struct scratch *s,
					     __u32 *tracked)
{
	struct segment *seg = &s->segment;

	if (!is_more_than_ack(seg)) {
		if (is_tracked(tracked))
			on_bare_ack(skb, seg->ack, seg->direction == DIRECTION_EGRESS);
		return;
	}
	classify_payload(skb, seg, s, ACCESS_LOAD);
	limit_at_socket(&seg->kind);
	if (needs_connection(seg, tracked))
		track_at_socket(skb, s);
}

/* Only arriving packets have an ingress interface. */
static __always_inline enum direction direction_at_socket(const struct __sk_buff *skb)
{
	return skb->ingress_ifindex ? DIRECTION_INGRESS : DIRECTION_EGRESS;
}

static COLD int socket_slow_path(struct __sk_buff *skb)
{
	enum direction direction = direction_at_socket(skb);
	struct bpf_sock *sk = skb->sk;
	struct scratch *s;
	__u32 *tracked;

	if (!sk)
		return 0;
	tracked = tracked_counter_of_sk(sk);
	s = claim_scratch();
	if (!s)
		return 0;
	s->segment.direction = direction;
	if (tracked && parse_direct(skb, s, 0, direction == DIRECTION_INGRESS))
		handle_at_socket(skb, s, tracked);
	release_scratch(s);
	return 0;
}

/* Body of the capture program at sockets. It ignores ports, which differ from those on
 * the wire after a redirection, and avoids the socket's state: looking it up costs more
 * than everything else.
 */
static __always_inline void capture_at_socket(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct fast_headers g;

	if (!sk)
		return;
	if (!(any_tracked() && is_tracked(tracked_counter_of_sk(sk))) && parse_fast(skb, 0, &g) &&
	    skip_untracked(skb, &g, ACCESS_LOAD))
		return;
	socket_slow_path(skb);
}

#endif
