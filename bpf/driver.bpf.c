//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* What becomes of a packet behind the capture at an interface: its queue lets it
 * go to the driver, or the kernel drops it. Where there is no queue, or an empty
 * one that is passed by, the driver has it at once, and no program runs.
 */
#include "include/http_head.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

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

static __always_inline bool parse_tcp(const struct sk_buff *skb, __u32 off, __u32 ip_len,
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
static __always_inline bool parse_skb(const struct sk_buff *skb, __u32 ifindex, struct segment *seg)
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
		return len > header && parse_tcp(skb, off + header, len - header, seg);
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
		return parse_tcp(skb, off + sizeof(ip), len, seg);
	}
	return false;
}

/* The exchange that the segment can belong to, if one is open or the end of its
 * head is searched for.
 */
static __always_inline struct connection *open_exchange_of(const struct segment *seg)
{
	__u32 *tracked = tracked_counter(&seg->key, seg->key.ifindex);
	struct connection *c;

	if (!is_tracked(tracked))
		return NULL;
	c = bpf_map_lookup_elem(&connections, &seg->key);
	if (!c || (is_open(c) ? c->claim & 1 : c->phase != PHASE_HEAD))
		return NULL;
	return c;
}

/* The queue of a watched interface lets a packet go. bypassed: it is passed by
 * while it is empty.
 */
static __always_inline void let_go(const struct sk_buff *skb, __u32 ifindex, bool bypassed)
{
	struct segment seg = {};
	struct exchange_record *x;
	struct connection *c;
	bool from_client;
	__u32 fresh;

	if (!parse_skb(skb, ifindex, &seg))
		return;
	c = open_exchange_of(&seg);
	if (!c)
		return;
	x = &c->x;
	from_client = seg.from_a == c->client_is_a;
	/* An answer can come before the end of its request. */
	if (from_client ? x->direction != DIRECTION_EGRESS : c->phase != PHASE_RESPONSE)
		return;
	/* A copy that is sent again may come before what it is a copy of, by
	 * another class of the queue.
	 */
	if (arrive(from_client ? &c->driver_client : &c->driver_server, seg.seq, seg.payload_len,
		   &fresh) == ARRIVAL_AGAIN &&
	    !fresh)
		return;
	x->qdisc_bypass = bypassed;
	note_far_side(x, &seg, from_client, bpf_ktime_get_ns());
}

/* Packets that a queue lets go at once, at most: as many as fit a driver's limit
 * in bytes. Of more, the times are not known, which the agent counts.
 */
#define PACKETS_AT_ONCE 128

/* Out of line: most runs need no stack. */
static __noinline int dequeue_batch(const struct sk_buff *skb, const __u64 *argument, __u32 ifindex,
				    bool bypassed)
{
	__u64 first;

	/* There may be no packet. Verifiers before 6.13 do not know that of an
	 * argument, and leave a check of the pointer itself out.
	 */
	if (bpf_probe_read_kernel(&first, sizeof(first), argument) || !first)
		return 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < PACKETS_AT_ONCE; i++) {
		if (!skb)
			break;
		let_go(skb, ifindex, bypassed);
		skb = skb->next;
	}
	return 0;
}

/* include/net/sch_generic.h */
#define TCQ_F_CAN_BYPASS 4

/* dequeue_skb, net/sched/sch_generic.c: for the queues that interfaces have, not
 * for those that are nested in them.
 */
SEC("tp_btf/qdisc_dequeue")
int BPF_PROG(qdisc_dequeue, const struct Qdisc *queue, const struct netdev_queue *to, int packets,
	     const struct sk_buff *skb)
{
	const struct net_device *dev;

	if (!any_tracked())
		return 0;
	dev = to->dev;
	if (!dev || !is_watched(dev))
		return 0;
	return dequeue_batch(skb, &ctx[3], dev->ifindex, queue->flags & TCQ_F_CAN_BYPASS);
}

/* The kernel drops a packet at a watched interface. */
static __noinline int drop(const struct sk_buff *skb, __u32 ifindex, __u32 reason)
{
	struct segment seg = {};
	struct connection *c;

	if (!parse_skb(skb, ifindex, &seg))
		return 0;
	c = open_exchange_of(&seg);
	if (!c)
		return 0;
	note_drop(c, reason);
	if ((seg.from_a == c->client_is_a) == (c->x.direction == DIRECTION_EGRESS))
		c->x.egress_dropped = 1;
	return 0;
}

/* net/core/skbuff.c. A packet belongs to the interface that it came in by or is
 * about to leave by.
 */
SEC("tp_btf/kfree_skb")
int BPF_PROG(packet_drop, const struct sk_buff *skb, void *location, unsigned int reason)
{
	const struct net_device *dev;

	if (!is_drop_reason(reason) || !any_tracked())
		return 0;
	dev = skb->dev;
	return dev && is_watched(dev) ? drop(skb, dev->ifindex, reason) : 0;
}
