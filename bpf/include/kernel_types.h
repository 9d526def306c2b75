/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The fields of kernel structures that tracepoint programs read. Their places
 * are those of the running kernel (CO-RE).
 */
#ifndef LAYERTRACE_KERNEL_TYPES_H
#define LAYERTRACE_KERNEL_TYPES_H

#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct in6_addr {
	union {
		__be32 u6_addr32[4];
	} in6_u;
};

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	unsigned int skc_hash;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct bpf_local_storage;

struct kernfs_node {
	__u64 id;
};

struct cgroup {
	int level;
	struct kernfs_node *kn;
	struct cgroup *ancestors[]; /* from the root to itself */
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
	struct sock_cgroup_data sk_cgrp_data;
	struct bpf_local_storage *sk_bpf_storage;
};

struct tcp_sock {
	__u32 copied_seq;
	__u32 rcv_nxt;
	__u32 rcv_wup;	 /* rcv_nxt when the window was last announced */
	__u32 rcv_wnd;	 /* that window */
	__u32 srtt_us;	 /* smoothed round-trip time << 3 in us */
	__u32 write_seq; /* behind the last byte written */
	__u32 snd_una;	 /* the first byte that is not acknowledged */
	__u32 snd_nxt;	 /* the first byte that was not sent */
	__u32 snd_wnd;	 /* what the peer takes behind it */
	__u32 mss_cache;
	__u64 tcp_clock_cache; /* when TCP looked last, ns of CLOCK_MONOTONIC */
};

struct iov_iter {
	unsigned long count; /* bytes left */
};

struct msghdr {
	struct iov_iter msg_iter;
};

struct net_device {
	int ifindex;
	possible_net_t nd_net;
};

struct netdev_queue {
	struct net_device *dev;
};

struct Qdisc {
	unsigned int flags;
};

struct sk_buff {
	struct sk_buff *next;
	struct sock *sk;
	struct net_device *dev;
	unsigned int len;
	__be16 protocol;
	__u16 network_header;
	unsigned char *head;
};

#pragma clang attribute pop

/* include/net/dropreason-core.h. The numbers differ between kernels. */
enum skb_drop_reason {
	SKB_DROP_REASON_NOT_SPECIFIED,
	SKB_DROP_REASON_TCP_OLD_DATA,
	SKB_DROP_REASON_TCP_OLD_SEQUENCE,
};

/* Whether anything was dropped: the first reason is that none was given. */
static __always_inline bool is_drop(__u32 reason)
{
	return reason >= bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_NOT_SPECIFIED);
}

#endif
