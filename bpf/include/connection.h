/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* One TCP connection at one capture point. */
#ifndef LAYERTRACE_CONNECTION_H
#define LAYERTRACE_CONNECTION_H

#include "exchange.h"

/* A quarter of the ring, in bytes: the fill at which user space is woken. */
const volatile __u64 ring_wakeup_fill = 1 << 20;

/* Key of a connection at a capture point. End a has the lower port (the lower
 * address when the ports are equal), so both directions find one entry.
 */
struct connection_key {
	__u32 ifindex;
	__u16 port_a;
	__u16 port_b;
	__u64 addr_a[2];
	__u64 addr_b[2];
};

enum phase {
	PHASE_IDLE,	/* no exchange open */
	PHASE_REQUEST,	/* a request, nothing of its final response */
	PHASE_RESPONSE, /* a final response has begun */
	PHASE_HEAD,	/* deep: the request head goes on in a later segment */
};

/* What is known of the byte stream of one direction. */
struct stream {
	__u32 next; /* sequence number expected next */
	__u32 gap_start;
	__u32 gap_end; /* bytes in [gap_start, gap_end) did not pass yet */
	__u16 known;   /* next is valid */
	__u16 fin;
};

struct connection {
	struct exchange_record x;
	/* Number of the exchange << 1 | already emitted. The packet path and the
	 * sweep both claim an exchange by compare-and-swap on it.
	 */
	__u64 claim;
	__u64 last_ns;
	struct stream client;
	struct stream server;
	__u8 client_is_a;
	__u8 phase;
	__u8 pipelined_responses;   /* response starts that belong to earlier requests */
	__u8 in_pipelined_response; /* inside such a response */
	__u8 informational;	    /* the last response start was a 1xx */
	__u8 syn_option_len;	    /* connection ID from the SYN */
	__u8 syn_connection_id[8];
	__u8 awaiting_response; /* a request that is not recorded has no response yet */
	__u8 pad[5];
	__u32 tracked;		     /* counted in tracked_connections */
	struct stream driver_client; /* what the interface's driver has sent */
	struct stream driver_server;
};

/* Few, to stay in the caches: a miss costs what the table is to save. Not so few
 * that many share a place with one that is followed: each of their segments looks
 * for its connection then.
 */
#define TRACKED_BITS 10

#define CACHE_LINE 64

/* Tells keys of sockets from those of interfaces, whose indexes are positive. */
#define SOCKET_POINT 0x80000000

/* How many connections are followed, of all and by a hash of their key. One that
 * the map of connections evicts stays counted: its place is looked up in vain.
 */
struct tracked {
	__u32 total;
	__u8 pad[CACHE_LINE - sizeof(__u32)];
	__u32 count[1 << TRACKED_BITS];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct connection_key);
	__type(value, struct connection);
} connections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tracked);
} tracked_connections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} exchanges SEC(".maps");

/* Whether anything is followed at all: on a node whose mesh samples few requests,
 * mostly nothing is, and this is all that has to be asked.
 */
static __always_inline bool any_tracked(void)
{
	const struct tracked *f = bpf_map_lookup_elem(&tracked_connections, &(__u32){0});

	return f && f->total;
}

/* The counter at a point of the connections with these sums of addresses, in
 * words of 8 bytes, and of ports: the same for both orders of the ends. NULL is
 * only what the verifier cannot exclude.
 */
static __always_inline __u32 *tracked_counter_by_sums(__u64 addrs, __u32 ports, __u32 point)
{
	struct tracked *f = bpf_map_lookup_elem(&tracked_connections, &(__u32){0});
	__u64 h = (addrs * HASH_FACTOR + ports + ((__u64)point << 32)) * HASH_FACTOR;

	h >>= 64 - TRACKED_BITS;
	return f ? &f->count[h & ((1 << TRACKED_BITS) - 1)] : NULL;
}

static __always_inline __u32 *tracked_counter(const struct connection_key *k, __u32 point)
{
	return tracked_counter_by_sums(k->addr_a[0] + k->addr_a[1] + k->addr_b[0] + k->addr_b[1],
				       k->port_a + k->port_b, point);
}

/* The same of a key in the map of connections. */
static __always_inline __u32 *tracked_counter_at(const struct connection_key *k)
{
	return tracked_counter(k, k->ifindex & SOCKET_POINT ? SOCKET_POINT : k->ifindex);
}

static __always_inline bool is_tracked(const __u32 *count)
{
	return count && *count;
}

/* Counts c as followed or not; both ends' packets may do so at once. */
static __always_inline void set_tracked(struct connection *c, __u32 *count, __u32 tracked)
{
	struct tracked *f = bpf_map_lookup_elem(&tracked_connections, &(__u32){0});

	if (__sync_lock_test_and_set(&c->tracked, tracked) == tracked)
		return;
	__sync_fetch_and_add(count, tracked ? 1 : -1);
	if (f)
		__sync_fetch_and_add(&f->total, tracked ? 1 : -1);
}

static __always_inline bool is_open(const struct connection *c)
{
	return c->phase == PHASE_REQUEST || c->phase == PHASE_RESPONSE;
}

/* Whether what comes next on c can belong to a request that came before. */
static __always_inline bool expects_more(const struct connection *c)
{
	return c->phase != PHASE_IDLE || c->awaiting_response || c->pipelined_responses ||
	       c->in_pipelined_response;
}

/* Width of that mark in bytes. */
#define WAKEUP_BAND (16 * sizeof(struct exchange_record))

/* Emits the open exchange of c unless somebody else did. seen is c->claim as
 * it was when the caller decided.
 */
static __always_inline void emit(struct connection *c, __u64 seen, __u32 flags)
{
	__u64 wakeup = BPF_RB_NO_WAKEUP, filled;
	struct exchange_record *record;

	if ((seen & 1) || __sync_val_compare_and_swap(&c->claim, seen, seen | 1) != seen)
		return;
	c->x.flags |= flags;
	if (!c->x.response_first)
		c->x.flags |= FLAG_NO_RESPONSE;
	/* User space drains the ring at intervals. It is woken only where a
	 * quarter is full, not above as well: on a busy node a wakeup for each
	 * record costs ten times what the record does.
	 */
	filled = bpf_ringbuf_query(&exchanges, BPF_RB_AVAIL_DATA) - ring_wakeup_fill;
	if (filled < WAKEUP_BAND)
		wakeup = BPF_RB_FORCE_WAKEUP;
	record = bpf_ringbuf_reserve(&exchanges, sizeof(*record), 0);
	if (!record) {
		count(COUNTER_RING_FULL);
		return;
	}
	*record = c->x; /* inline: the helper's string copy is slow to start */
	bpf_ringbuf_submit(record, wakeup);
	count(COUNTER_EMITTED);
}

enum arrival {
	ARRIVAL_IN_ORDER,
	ARRIVAL_AHEAD,	/* bytes before it did not pass yet */
	ARRIVAL_FILLED, /* such bytes, passing now */
	ARRIVAL_AGAIN,	/* a retransmission, perhaps with new bytes at its end */
};

/* a before b, RFC 793 section 3.3 arithmetic. */
static __always_inline bool before(__u32 a, __u32 b)
{
	return (__s32)(a - b) < 0;
}

/* The byte at next is the first that passes. */
static __always_inline void resync_at(struct stream *st, __u32 next)
{
	st->known = 1;
	st->next = next;
	st->gap_start = st->gap_end;
}

/* Takes a segment into account. fresh: how many of its bytes are new here. */
static __always_inline enum arrival arrive(struct stream *st, __u32 seq, __u32 len, __u32 *fresh)
{
	__u32 end = seq + len;

	*fresh = len;
	if (!st->known || seq == st->next) {
		st->known = 1;
		st->next = end;
		return ARRIVAL_IN_ORDER;
	}
	if (before(st->next, seq)) {
		if (st->gap_start == st->gap_end)
			st->gap_start = st->next;
		st->gap_end = seq;
		st->next = end;
		return ARRIVAL_AHEAD;
	}
	if (st->gap_start != st->gap_end && !before(seq, st->gap_start) &&
	    !before(st->gap_end, end)) {
		if (seq == st->gap_start)
			st->gap_start = end;
		else if (end == st->gap_end)
			st->gap_end = seq;
		return ARRIVAL_FILLED;
	}
	*fresh = 0;
	if (before(st->next, end)) {
		*fresh = end - st->next;
		st->next = end;
	}
	return ARRIVAL_AGAIN;
}

/* The next response belongs to a request that was followed by another. */
static __always_inline void expect_pipelined_response(struct connection *c)
{
	if (c->pipelined_responses < 255)
		c->pipelined_responses++;
	count(COUNTER_PIPELINED);
}

/* Ends what is open when another request begins. */
static __always_inline void close_previous(struct connection *c)
{
	if (c->awaiting_response) {
		c->awaiting_response = 0;
		expect_pipelined_response(c);
	}
	if (is_open(c)) {
		__u32 flags = 0;

		if (c->phase == PHASE_REQUEST) {
			flags = FLAG_PIPELINED;
			expect_pipelined_response(c);
		}
		emit(c, c->claim, flags);
	} else if (c->phase == PHASE_HEAD) {
		count(COUNTER_DISCARDED);
	}
	c->phase = PHASE_IDLE;
}

/* The message that leaves through the interface begins at seq. */
static __always_inline void start_egress(struct exchange_record *x, __u32 seq)
{
	x->egress_seq_start = seq;
	x->egress_seq_end = seq;
	x->egress_seq_done = seq;
}

/* The kernel dropped a packet of the connection. */
static __always_inline void note_drop(struct connection *c, __u32 reason)
{
	c->x.drops++;
	c->x.drop_reason = reason;
	count(COUNTER_DROPPED);
}

#endif
