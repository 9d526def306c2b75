/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The programs at the hooks of an interface: thin wrappers, one for each hook, direction and
 * kind of link, around capture(), which the including file has. They only read, and their
 * verdict is always "next program".
 */
#ifndef LAYERTRACE_HOOKS_H
#define LAYERTRACE_HOOKS_H

#include "kernel.h"

enum direction {
	DIRECTION_INGRESS = 1,
	DIRECTION_EGRESS = 2,
};

enum access {
	ACCESS_DIRECT, /* packet pointers, for TCX, clsact and cgroups */
	ACCESS_LOAD,   /* bpf_skb_load_bytes only, for socket filters */
};

#define TCX_PROGRAM(name, hook, l2, direction)              \
	SEC(hook)                                           \
	int name(struct __sk_buff *skb)                     \
	{                                                   \
		capture(skb, l2, direction, ACCESS_DIRECT); \
		return TCX_NEXT_VERDICT;                    \
	}

/* A packet socket sees both directions. It receives a copy of length 0. */
#define PACKET_SOCKET_PROGRAM(name, l2)                                         \
	SEC("socket")                                                           \
	int name(struct __sk_buff *skb)                                         \
	{                                                                       \
		capture(skb, l2, direction_at_packet_socket(skb), ACCESS_LOAD); \
		return 0;                                                       \
	}

static __always_inline enum direction direction_at_packet_socket(const struct __sk_buff *skb)
{
	return skb->pkt_type == PACKET_OUTGOING ? DIRECTION_EGRESS : DIRECTION_INGRESS;
}

/* The programs prefix_in, prefix_out and prefix_sock, and the same with _l3 for devices
 * without a link-layer header: tun, ipip, wireguard, ...
 */
#define CAPTURE_PROGRAMS(prefix)                                             \
	TCX_PROGRAM(prefix##_in, "tcx/ingress", ETH_HLEN, DIRECTION_INGRESS) \
	TCX_PROGRAM(prefix##_out, "tcx/egress", ETH_HLEN, DIRECTION_EGRESS)  \
	TCX_PROGRAM(prefix##_in_l3, "tcx/ingress", 0, DIRECTION_INGRESS)     \
	TCX_PROGRAM(prefix##_out_l3, "tcx/egress", 0, DIRECTION_EGRESS)      \
	PACKET_SOCKET_PROGRAM(prefix##_sock, ETH_HLEN)                       \
	PACKET_SOCKET_PROGRAM(prefix##_sock_l3, 0)

#endif
