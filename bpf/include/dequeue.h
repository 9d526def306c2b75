/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Packets that the queue of a watched interface hands to its driver, one by one: for the
 * programs at qdisc_dequeue, which define on_dequeue().
 */
#ifndef LAYERTRACE_DEQUEUE_H
#define LAYERTRACE_DEQUEUE_H

#include "ip.h"

static __always_inline void on_dequeue(const struct sk_buff *skb, __u32 ifindex, bool bypass);

/* Network namespace of the watched interfaces, whose indexes are unique only there. */
const volatile __u32 watched_netns;

/* Watched interfaces: one bit for each index below WATCHED_BITS, as nearly all are.
 * Checked without a call, since every packet of the machine gets here.
 */
#define WATCHED_BITS (1 << 16)

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WATCHED_BITS / 64);
	__type(key, __u32);
	__type(value, __u64);
} watched_interfaces SEC(".maps");

/* Those with higher indexes. */
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

/* Maximum number of packets dequeued at once, limited by a driver's byte limit. The
 * times of any more are unknown, which the agent counts.
 */
#define DEQUEUE_MAX 128

static COLD int dequeue_batch(const struct sk_buff *skb, const __u64 *skb_arg, __u32 ifindex,
			      bool bypass)
{
	__u64 first;

	/* There may be no packet. Verifiers before 6.13 assume a valid pointer argument and
	 * optimize a check of it away.
	 */
	if (bpf_probe_read_kernel(&first, sizeof(first), skb_arg) || !first)
		return 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < DEQUEUE_MAX; i++) {
		if (!skb)
			break;
		on_dequeue(skb, ifindex, bypass);
		skb = skb->next;
	}
	return 0;
}

/* include/net/sch_generic.h */
#define TCQ_F_CAN_BYPASS 4

/* Body of a program at qdisc_dequeue, whose fourth argument is at skb_arg. */
static __always_inline int dequeue_batch_from(const struct Qdisc *queue,
					      const struct netdev_queue *to,
					      const struct sk_buff *skb, const __u64 *skb_arg)
{
	const struct net_device *dev = to->dev;

	if (!dev || !is_watched(dev))
		return 0;
	return dequeue_batch(skb, skb_arg, dev->ifindex, queue->flags & TCQ_F_CAN_BYPASS);
}

/* A TCP segment with payload in a queue, or about to be dropped. */
struct dequeued {
	__u32 seq;
	__u32 payload_len;
	__u16 sport;
	__u16 dport;
};

static __always_inline bool read_dequeued_tcp(const struct sk_buff *skb, __u32 off, __u32 ip_len,
					      struct dequeued *d)
{
	struct tcp_header tcp;
	__u32 header;

	if (bpf_probe_read_kernel(&tcp, sizeof(tcp), skb->head + off))
		return false;
	header = (tcp.data_offset >> 4) * 4;
	if (ip_len <= header)
		return false;
	d->payload_len = ip_len - header;
	d->seq = bpf_ntohl(tcp.seq);
	d->sport = bpf_ntohs(tcp.src);
	d->dport = bpf_ntohs(tcp.dst);
	return true;
}

/* Fills src, dst and d from a TCP packet with payload: IPv4, or IPv6 without extension
 * headers.
 */
static __always_inline bool read_dequeued(const struct sk_buff *skb, __u64 *src, __u64 *dst,
					  struct dequeued *d)
{
	__u32 off = skb->network_header;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct ipv4_header ip;
		__u32 len, header;

		if (bpf_probe_read_kernel(&ip, sizeof(ip), skb->head + off) ||
		    ip.protocol != IPPROTO_TCP || ip.fragment & bpf_htons(IP_MF_OR_OFFSET))
			return false;
		header = (ip.version_ihl & 15) * 4;
		len = ip.total_len ? bpf_ntohs(ip.total_len) : skb->len;
		map_ipv4(src, ip.src);
		map_ipv4(dst, ip.dst);
		return len > header && read_dequeued_tcp(skb, off + header, len - header, d);
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6_header ip;
		__u32 len;

		if (bpf_probe_read_kernel(&ip, sizeof(ip), skb->head + off) ||
		    ip.next_header != IPPROTO_TCP)
			return false;
		len = ip.payload_len ? bpf_ntohs(ip.payload_len) : skb->len;
		__builtin_memcpy(src, ip.src, sizeof(ip.src));
		__builtin_memcpy(dst, ip.dst, sizeof(ip.dst));
		return read_dequeued_tcp(skb, off + sizeof(ip), len, d);
	}
	return false;
}

#endif
