//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Capture at interfaces: one body and a thin wrapper per hook, direction and link
 * type. The programs only read; their verdict is always "next program". The sweep
 * emits exchanges that no further packet ends.
 *
 * Entry point               functions
 * capture_in, capture_out   capture: parse_fast -> skip_untracked (nearly all packets)
 *   (_l3: no Ethernet)        or slow_path_direct -> slow_path
 * capture_sock (_l3)        slow_path
 * slow_path                 parse -> classify_payload -> track_segment
 * classify_payload          segment cache, else read_payload -> walk_head
 * walk_head                 fast_walk_packet, then parse_lines -> parse_line,
 *                             deep: parse_chunks
 * track_segment             on_syn | on_payload, then on_fin_or_rst, set_tracked
 * on_payload                begin_request | on_client_data | on_server_data
 * on_client_data            continue_head (deep) | begin_request, add_request_bytes
 * begin_request             close_previous -> emit; open_exchange, adopt_context,
 *                             read_options
 * on_server_data            begin_response, response times and sizes
 * sweep                     sweep_connection -> emit, untrack
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

/* A packet socket sees both directions. It receives a copy of length 0. */
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

/* Idle times in ns after which an exchange is emitted. Results: open, exchanges left
 * open; tracked, connections with emitted exchanges that are still tracked.
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

/* Idle times after which a connection with an emitted exchange is untracked; until then
 * late segments are counted. A connection kept open but unused must not stay tracked:
 * it would send other connections in the same slot down the slow path.
 */
#define UNTRACK_AFTER 2

/* Undone if another request has begun meanwhile. */
static __always_inline void untrack(struct connection *c, const struct connection_key *key,
				    __u64 claim)
{
	__u32 *counter = tracked_counter_at(key);

	if (!counter)
		return;
	set_tracked(c, counter, 0);
	if (*(volatile __u64 *)&c->claim != claim || *(volatile __u8 *)&c->phase != PHASE_RESPONSE)
		set_tracked(c, counter, 1);
}

static long sweep_connection(void *map, const struct connection_key *key, struct connection *c,
			     struct sweep_context *ctx)
{
	/* Read the claim before what it guards: a request that begins in between changes it,
	 * and emit() does nothing.
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
			untrack(c, key, claim);
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
