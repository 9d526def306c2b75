/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The kernel as the programs see it: UAPI and CO-RE types, constants that older headers
 * lack, and helpers for the compiler and the verifier.
 */
#ifndef LAYERTRACE_KERNEL_H
#define LAYERTRACE_KERNEL_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD
#define ETH_P_8021Q 0x8100
#define ETH_P_8021AD 0x88A8
#define ETH_HLEN 14
#define VLAN_HLEN 4
#define PACKET_OTHERHOST 3
#define PACKET_OUTGOING 4

/* include/uapi/linux/bpf.h since 6.6: let the next program decide. */
#define TCX_NEXT_VERDICT (-1)

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* Kept out of line. Nearly every packet and write takes the short path past these
 * functions: inlined, their instructions would be fetched along with those that run,
 * and their variables would use up the 512 bytes of stack that all callers share.
 */
#define COLD __noinline

/* A global function, which the verifier checks once, on its own and with unknown
 * arguments, instead of again on each path that leads to it. Without this the loops
 * over a request head exceed the limit of a million instructions. To the verifier every
 * pointer argument may be NULL, hence the check at the start of each.
 */
#define VERIFIED_ALONE __noinline

/* For functions that are rarely called. The compiler moves their calls away from the code of
 * every request, which then takes fewer lines of the cache. The section is that of all functions,
 * because the loader looks for them there.
 */
#define RARE __attribute__((cold, section(".text")))

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Multiplicative hashing: Knuth, The Art of Computer Programming, section 6.4. */
#define HASH_FACTOR 0x9e3779b97f4a7c15ULL

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

struct task_struct {
	struct task_struct *group_leader;
	char comm[16];
};

typedef struct {
	int counter;
} atomic_t;

struct socket {
	unsigned long flags;
};

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
	struct sock_cgroup_data sk_cgrp_data;
	struct bpf_local_storage *sk_bpf_storage;
	struct socket *sk_socket;
	int sk_rcvbuf; /* bytes of memory that received packets may take */
	struct {
		atomic_t rmem_alloc; /* bytes that they take */
	} sk_backlog;
};

struct tcp_sock {
	__u32 copied_seq;
	__u32 rcv_nxt;
	__u32 rcv_wup;	 /* rcv_nxt at the last window announcement */
	__u32 rcv_wnd;	 /* the window announced then */
	__u32 srtt_us;	 /* smoothed round-trip time << 3 in us */
	__u32 write_seq; /* end of the data written */
	__u32 snd_una;	 /* first byte not acknowledged */
	__u32 snd_nxt;	 /* first byte not sent */
	__u32 snd_wnd;	 /* receive window of the peer, from snd_una on */
	__u32 mss_cache;
	__u16 advmss;	       /* longest segment that the peer may send */
	__u32 packets_out;     /* sent and not acknowledged */
	__u64 tcp_clock_cache; /* last time that TCP read the clock, ns of CLOCK_MONOTONIC */
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

/* False for the first value, which stands for packets freed without a drop reason. */
static __always_inline bool is_drop_reason(__u32 reason)
{
	return reason >= bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_NOT_SPECIFIED);
}

/* Compares with a reason by name, which the running kernel may lack. */
#define IS_REASON(reason, name)                                                      \
	(bpf_core_enum_value_exists(enum skb_drop_reason, SKB_DROP_REASON_##name) && \
	 (reason) == bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_##name))

/* The receiver has the data already: no loss. */
static __always_inline bool is_duplicate_data(__u32 reason)
{
	return IS_REASON(reason, TCP_OLD_DATA) || IS_REASON(reason, TCP_OLD_SEQUENCE);
}

/* Shows the verifier that a length is from 1 to max, a power of two, as helpers
 * require: the one in 6.1 learns nothing from a comparison with 0.
 */
#define BOUND_LENGTH(len, max) \
	asm volatile("%0 += -1\n%0 &= %1\n%0 += 1" : "+r"(len) : "i"((max)-1))

/* Makes the verifier forget the value, by way of one unknown to it. Otherwise it
 * explores every possible length of a line separately.
 */
#define FORGET(value, unknown) \
	asm volatile("%0 ^= %1\n%0 ^= %1" : "+r"(value) : "r"((typeof(value))(unknown)))

/* Adds one to a counter in a per-CPU array. */
static __always_inline void increment(void *map, __u32 key)
{
	__u64 *value = bpf_map_lookup_elem(map, &key);

	if (value)
		(*value)++;
}

/* Modular comparison, RFC 9293 section 3.4. */
static __always_inline bool before(__u32 a, __u32 b)
{
	return (__s32)(a - b) < 0;
}

/* One bit per port. */
#define PORT_BYTES (65536 / 8)

static __always_inline bool has_port(const volatile __u8 *bits, __u32 port)
{
	/* The verifier of Linux 6.1 learns no range from a byte swap, but the compiler does. */
	asm volatile("%0 &= %1" : "+r"(port) : "i"(0xffff));
	return bits[port >> 3] & (1 << (port & 7));
}

/* Whether a sweep may fill the ring further: it can emit far more than the ring holds before
 * user space reads one. The last quarter is for what programs emit meanwhile.
 */
static __always_inline bool ring_has_room(void *ring)
{
	return bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) <=
	       bpf_ringbuf_query(ring, BPF_RB_RING_SIZE) / 4 * 3;
}

#endif
