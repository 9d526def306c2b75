/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Which connections have something to follow. Most segments belong to requests
 * that are not sampled, and finding their connection touches more memory than
 * all else that is done with them: a small table says that it is in vain.
 */
#ifndef LAYERTRACE_FOLLOWED_H
#define LAYERTRACE_FOLLOWED_H

#include "exchange.h"

/* Few, to stay in the caches: a miss costs what the table is to save. Not so few
 * that many share a place with one that is followed: each of their segments looks
 * for its connection then.
 */
#define FOLLOWED_BITS 10

#define CACHE_LINE 64

/* Tells keys of sockets from those of interfaces, whose indexes are positive. */
#define SOCKET_POINT 0x80000000

/* How many connections are followed, of all and by a hash of their key. One that
 * the map of connections evicts stays counted: its place is looked up in vain.
 */
struct followed {
	__u32 total;
	__u8 pad[CACHE_LINE - sizeof(__u32)];
	__u32 count[1 << FOLLOWED_BITS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct followed);
} followed_connections SEC(".maps");

/* Whether anything is followed at all: on a node whose mesh samples few requests,
 * mostly nothing is, and this is all that has to be asked.
 */
static __always_inline bool follows_any(void)
{
	const struct followed *f = bpf_map_lookup_elem(&followed_connections, &(__u32){0});

	return f && f->total;
}

/* The counter at a point of the connections with these sums of addresses, in
 * words of 8 bytes, and of ports: the same for both orders of the ends. NULL is
 * only what the verifier cannot exclude.
 */
static __always_inline __u32 *followed_sums(__u64 addrs, __u32 ports, __u32 point)
{
	struct followed *f = bpf_map_lookup_elem(&followed_connections, &(__u32){0});
	__u64 h = (addrs * HASH_FACTOR + ports + ((__u64)point << 32)) * HASH_FACTOR;

	h >>= 64 - FOLLOWED_BITS;
	return f ? &f->count[h & ((1 << FOLLOWED_BITS) - 1)] : NULL;
}

static __always_inline __u32 *followed_count(const struct connection_key *k, __u32 point)
{
	return followed_sums(k->addr_a[0] + k->addr_a[1] + k->addr_b[0] + k->addr_b[1],
			     k->port_a + k->port_b, point);
}

/* The same of a key in the map of connections. */
static __always_inline __u32 *followed_at(const struct connection_key *k)
{
	return followed_count(k, k->ifindex & SOCKET_POINT ? SOCKET_POINT : k->ifindex);
}

static __always_inline bool is_followed(const __u32 *count)
{
	return count && *count;
}

/* Whether what comes next on c can belong to a request that came before. */
static __always_inline bool has_open_end(const struct connection *c)
{
	return c->phase != PHASE_IDLE || c->waiting || c->skip_responses || c->skipping;
}

/* Counts c as followed or not; both ends' packets may do so at once. */
static __always_inline void follow(struct connection *c, __u32 *count, __u32 followed)
{
	struct followed *f = bpf_map_lookup_elem(&followed_connections, &(__u32){0});

	if (__sync_lock_test_and_set(&c->followed, followed) == followed)
		return;
	__sync_fetch_and_add(count, followed ? 1 : -1);
	if (f)
		__sync_fetch_and_add(&f->total, followed ? 1 : -1);
}

#endif
