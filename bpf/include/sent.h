/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* From the kernel's own packet to its TCP segment, for tracepoints. Only what
 * is usual behind the stack: IPv4, and IPv6 without extension headers.
 */
#ifndef LAYERTRACE_SENT_H
#define LAYERTRACE_SENT_H

#include "connection.h"
#include "kernel_types.h"

/* The network namespace in which the interfaces are watched: their indexes are
 * unique in it only.
 */
const volatile __u32 watched_netns;

/* The watched interfaces, one bit for each number below WATCHED_BITS, as nearly
 * all are: without a call, which every packet of the machine would make.
 */
#define WATCHED_BITS (1 << 16)

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WATCHED_BITS / 64);
	__type(key, __u32);
	__type(value, __u64);
} watched_interfaces SEC(".maps");

/* The ones with higher numbers. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u8);
} watched_high SEC(".maps");

static __always_inline bool is_watched(const struct net_device *dev)
{
	__u32 ifindex = dev->ifindex, word = ifindex / 64;
	__u64 *bits;

	if (dev->nd_net.net->ns.inum != watched_netns)
		return false;
	if (ifindex >= WATCHED_BITS)
		return bpf_map_lookup_elem(&watched_high, &ifindex);
	bits = bpf_map_lookup_elem(&watched_interfaces, &word);
	return bits && (*bits >> (ifindex % 64) & 1);
}

static __always_inline bool read_tcp(const struct sk_buff *skb, __u32 off, __u32 ip_len,
				     struct segment *seg)
{
	struct tcp_header tcp;
	__u32 header;

	if (bpf_probe_read_kernel(&tcp, sizeof(tcp), skb->head + off))
		return false;
	header = (tcp.data_offset >> 4) * 4;
	if (ip_len <= header)
		return false;
	seg->payload_len = ip_len - header;
	seg->seq = bpf_ntohl(tcp.seq);
	set_ends(seg, bpf_ntohs(tcp.src), bpf_ntohs(tcp.dst));
	return true;
}

/* Fills key, from_a, seq and payload_len of a TCP segment with payload. */
static __always_inline bool read_sent(const struct sk_buff *skb, __u32 ifindex, struct segment *seg)
{
	__u32 off = skb->network_header;

	seg->key.ifindex = ifindex;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct ipv4_header ip;
		__u32 len, header;

		if (bpf_probe_read_kernel(&ip, sizeof(ip), skb->head + off) ||
		    ip.protocol != IPPROTO_TCP || ip.fragment & bpf_htons(IP_MF_OR_OFFSET))
			return false;
		header = (ip.version_ihl & 15) * 4;
		len = ip.total_len ? bpf_ntohs(ip.total_len) : skb->len;
		map_ipv4(seg->key.addr_a, ip.src);
		map_ipv4(seg->key.addr_b, ip.dst);
		return len > header && read_tcp(skb, off + header, len - header, seg);
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6_header ip;
		__u32 len;

		if (bpf_probe_read_kernel(&ip, sizeof(ip), skb->head + off) ||
		    ip.next_header != IPPROTO_TCP)
			return false;
		len = ip.payload_len ? bpf_ntohs(ip.payload_len) : skb->len;
		__builtin_memcpy(seg->key.addr_a, ip.src, sizeof(ip.src));
		__builtin_memcpy(seg->key.addr_b, ip.dst, sizeof(ip.dst));
		return read_tcp(skb, off + sizeof(ip), len, seg);
	}
	return false;
}

/* The exchange that the segment can belong to, if one is open or the end of its
 * head is searched for.
 */
static __always_inline struct connection *exchange_of(const struct segment *seg)
{
	__u32 *followed = followed_count(&seg->key, seg->key.ifindex);
	struct connection *c;

	if (!is_followed(followed))
		return NULL;
	c = bpf_map_lookup_elem(&connections, &seg->key);
	if (!c || (is_open(c) ? c->claim & 1 : c->phase != PHASE_SEARCHING))
		return NULL;
	return c;
}

#endif
