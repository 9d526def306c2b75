/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The headers of IP and TCP on the wire. */
#ifndef LAYERTRACE_IP_H
#define LAYERTRACE_IP_H

#include "kernel.h"

#define IPPROTO_TCP 6
#define IP_MF_OR_OFFSET 0x3fff
#define IP_OFFSET 0x1fff

struct ipv4_header {
	__u8 version_ihl;
	__u8 tos;
	__be16 total_len;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__be32 src;
	__be32 dst;
};

struct ipv6_header {
	__be32 version_class_flow;
	__be16 payload_len;
	__u8 next_header;
	__u8 hop_limit;
	__u64 src[2];
	__u64 dst[2];
};

struct tcp_header {
	__be16 src;
	__be16 dst;
	__be32 seq;
	__be32 ack;
	__u8 data_offset;
	__u8 flags;
	__be16 window;
	__be16 checksum;
	__be16 urgent;
};

/* IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2): the second half, then both. */
static __always_inline __u64 mapped_ipv4(__be32 addr)
{
	return (__u64)addr << 32 | bpf_htonl(0xffff);
}

static __always_inline void map_ipv4(__u64 *to, __be32 addr)
{
	to[0] = 0;
	to[1] = mapped_ipv4(addr);
}

#endif
