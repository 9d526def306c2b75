//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Capture programs: one body, a thin wrapper per hook, direction and link
 * type. They only read: the verdict is always "next program".
 */
#include "include/track.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("tcx/ingress")
int capture_in(struct __sk_buff *skb)
{
	capture(skb, ETH_HLEN, DIRECTION_INGRESS, ACCESS_DIRECT);
	return TCX_NEXT_VERDICT;
}

SEC("tcx/egress")
int capture_out(struct __sk_buff *skb)
{
	capture(skb, ETH_HLEN, DIRECTION_EGRESS, ACCESS_DIRECT);
	return TCX_NEXT_VERDICT;
}

/* Devices without a link-layer header: tun, ipip, wireguard, ... */
SEC("tcx/ingress")
int capture_in_l3(struct __sk_buff *skb)
{
	capture(skb, 0, DIRECTION_INGRESS, ACCESS_DIRECT);
	return TCX_NEXT_VERDICT;
}

SEC("tcx/egress")
int capture_out_l3(struct __sk_buff *skb)
{
	capture(skb, 0, DIRECTION_EGRESS, ACCESS_DIRECT);
	return TCX_NEXT_VERDICT;
}

/* A packet socket sees both directions, and gets a copy of length 0. */
static __always_inline int capture_socket(struct __sk_buff *skb, __u32 l2)
{
	enum direction direction =
		skb->pkt_type == PACKET_OUTGOING ? DIRECTION_EGRESS : DIRECTION_INGRESS;

	capture(skb, l2, direction, ACCESS_LOAD);
	return 0;
}

SEC("socket")
int capture_sock(struct __sk_buff *skb)
{
	return capture_socket(skb, ETH_HLEN);
}

SEC("socket")
int capture_sock_l3(struct __sk_buff *skb)
{
	return capture_socket(skb, 0);
}

/* Idle times in ns after which an exchange is emitted. open: how many are left
 * open afterwards; followed: on how many connections without one what comes late
 * was looked for.
 */
struct sweep_args {
	__u64 response_idle;
	__u64 request_idle;
	__u64 open;
	__u64 tracked;
};

struct sweep_context {
	__u64 now;
	struct sweep_args args;
};

/* After how many idle times a connection is followed no longer whose exchange was
 * emitted after one: what comes late is counted until then. One that is kept open
 * unused must not be followed for ever: its place among the counters has others'
 * segments looked at closely.
 */
#define UNTRACK_AFTER 2

/* Unless another request has begun on it meanwhile. */
static __always_inline void let_go(struct connection *c, const struct connection_key *key,
				   __u64 claim)
{
	__u32 *count = tracked_counter_at(key);

	if (!count)
		return;
	set_tracked(c, count, 0);
	if (*(volatile __u64 *)&c->claim != claim || *(volatile __u8 *)&c->phase != PHASE_RESPONSE)
		set_tracked(c, count, 1);
}

static long sweep_connection(void *map, const struct connection_key *key, struct connection *c,
			     struct sweep_context *ctx)
{
	/* The claim is read before what it guards: a request that begins in
	 * between changes it, and the emission fails.
	 */
	__u64 claim = *(volatile __u64 *)&c->claim;
	__u64 last = *(volatile __u64 *)&c->last_ns;
	__u64 idle = ctx->now > last ? ctx->now - last : 0;

	if (!is_open(c))
		return 0;
	if (claim & 1) {
		if (!c->tracked)
			return 0;
		if (c->phase == PHASE_RESPONSE && idle >= UNTRACK_AFTER * ctx->args.response_idle)
			let_go(c, key, claim);
		else
			ctx->args.tracked++;
		return 0;
	}
	if (c->phase == PHASE_RESPONSE && idle >= ctx->args.response_idle) {
		emit(c, claim, 0);
		ctx->args.tracked++;
	} else if (c->phase == PHASE_REQUEST && idle >= ctx->args.request_idle) {
		emit(c, claim, FLAG_IDLE);
		ctx->args.tracked++;
	} else {
		ctx->args.open++;
	}
	return 0;
}

SEC("syscall")
int sweep(struct sweep_args *args)
{
	struct sweep_context ctx = {.now = bpf_ktime_get_ns()};

	ctx.args.response_idle = args->response_idle;
	ctx.args.request_idle = args->request_idle;
	bpf_for_each_map_elem(&connections, sweep_connection, &ctx, 0);
	args->open = ctx.args.open;
	args->tracked = ctx.args.tracked;
	return 0;
}
