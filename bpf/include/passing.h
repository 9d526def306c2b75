/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The short way out, which nearly all segments take: what is usual about their
 * headers, nothing followed on their connection, and no recorded request begun.
 * It is to be little code: headers are read where they lie, and all that is not
 * usual is left to segment.h.
 */
#ifndef LAYERTRACE_PASSING_H
#define LAYERTRACE_PASSING_H

#include "followed.h"
#include "known.h"

/* What a segment's headers say. */
struct glance {
	__u64 numbers; /* as of a known segment */
	__u64 addrs;   /* sums, as followed_sums takes them */
	__u32 ports;
	__u32 payload_off;
	__u32 payload_len;
	__u8 flags;
	bool chosen; /* one of its ports is, or none has to be */
};

/* Fills g for TCP behind IPv4 without options or IPv6 without extension headers,
 * in packet memory from l2 on; false for all else.
 */
static __always_inline bool glance_at(struct __sk_buff *skb, __u32 l2, struct glance *g)
{
	const void *data = (void *)(long)skb->data + l2, *end = (void *)(long)skb->data_end;
	const struct ipv4_header *ip = data;
	const struct ipv6_header *ip6 = data;
	const struct tcp_header *tcp;
	__u32 sport, dport, off, head, len;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		off = l2 + sizeof(*ip);
		tcp = (const void *)(ip + 1);
		if ((const void *)(tcp + 1) > end || ip->version_ihl != 0x45 ||
		    ip->protocol != IPPROTO_TCP || ip->fragment & bpf_htons(IP_MF_OR_OFFSET))
			return false;
		len = bpf_ntohs(ip->total_len) - sizeof(*ip);
		g->addrs = mapped_ipv4(ip->src) + mapped_ipv4(ip->dst);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		off = l2 + sizeof(*ip6);
		tcp = (const void *)(ip6 + 1);
		if ((const void *)(tcp + 1) > end || ip6->next_header != IPPROTO_TCP)
			return false;
		len = bpf_ntohs(ip6->payload_len);
		g->addrs = ip6->src[0] + ip6->src[1] + ip6->dst[0] + ip6->dst[1];
	} else {
		return false;
	}
	head = (tcp->data_offset >> 4) * 4;
	/* A length of 0 (BIG TCP) as well. */
	if (len > 0xffff || len < head)
		return false;
	sport = bpf_ntohs(tcp->src);
	dport = bpf_ntohs(tcp->dst);
	g->chosen = !ports_chosen || port_is_chosen(sport) || port_is_chosen(dport);
	g->ports = sport + dport;
	g->payload_off = off + head;
	g->payload_len = len - head;
	g->flags = tcp->flags;
	g->numbers = (__u64)SEQUENCE_NUMBER(*tcp) << 32 | bpf_ntohl(tcp->ack);
	return true;
}

/* Whether a segment of a connection on which nothing is followed is done with.
 * What an earlier point noted is read without a claim: whoever interrupts may
 * note another segment there meanwhile, which the numbers tell.
 */
static __always_inline bool passes_by(struct __sk_buff *skb, const struct glance *g,
				      const enum access access)
{
	struct scratch *s = bpf_map_lookup_elem(&scratches, &(__u32){0});
	struct known_segment *k;
	struct beginning b;

	if (g->flags & (TCP_SYN | TCP_FIN | TCP_RST) || !s)
		return false;
	if (!g->payload_len)
		return true;
	k = &s->known[known_place(g->numbers >> 32)];
	if (is_known(k, g->numbers, g->payload_len)) {
		b = k->beginning;
		asm volatile("" ::: "memory");
		if (k->numbers != g->numbers)
			return false;
	} else {
		if (__sync_lock_test_and_set(&s->claimed, 1))
			return false;
		b = read_anew(skb, s, g->numbers, g->payload_off, g->payload_len, access);
		release_scratch(s);
	}
	return is_in_passing(b);
}

#endif
