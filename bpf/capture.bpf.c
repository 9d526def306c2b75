//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Capture programs: one body, a thin wrapper per hook, direction and link
 * type. They only read: the verdict is always "next program".
 */
#include "include/segment.h"
#include "include/sweep.h"

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
