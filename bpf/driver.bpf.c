//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* After TC egress at the watched interfaces: qdisc dequeue and drops. Without a
 * qdisc, or when an empty one is bypassed, the driver gets the packet at once and no
 * program runs.
 *
 * Entry point     functions
 * qdisc_dequeue   dequeue_batch -> on_dequeue: parse_skb, open_exchange_of,
 *                   note_far_side
 * packet_drop     on_drop: parse_skb, open_exchange_of, note_drop
 */
#include "include/dequeue.h"
#include "include/packet.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

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

/* Fills key, from_a, seq and payload_len from a TCP packet with payload: IPv4, or IPv6
 * without extension headers.
 */
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

/* The exchange that the segment may belong to: an open one, or one whose head is
 * incomplete.
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

/* A watched interface's qdisc releases a packet. bypass: packets bypass this qdisc
 * while it is empty.
 */
static __always_inline void on_dequeue(const struct sk_buff *skb, __u32 ifindex, bool bypass)
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
	/* A response may start before the end of its request. */
	if (from_client ? x->direction != DIRECTION_EGRESS : c->phase != PHASE_RESPONSE)
		return;
	/* A later request, or bytes after the end of the response. */
	if (from_client ? pending(c) && !before(seg.seq, x->egress_seq_end) :
			  is_whole(&c->response, &c->server) && !before(seg.seq, c->response.at))
		return;
	/* A retransmission may overtake the original in another class of the qdisc. */
	if (arrive(from_client ? &c->driver_client : &c->driver_server, seg.seq, seg.payload_len,
		   &fresh) == ARRIVAL_AGAIN &&
	    !fresh)
		return;
	x->qdisc_bypass = bypass;
	note_far_side(x, from_client, seg.seq, seg.seq + seg.payload_len, bpf_ktime_get_ns());
}

/* dequeue_skb, net/sched/sch_generic.c: root qdiscs of interfaces, not nested ones. */
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
static COLD int on_drop(const struct sk_buff *skb, __u32 ifindex, __u32 reason)
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

/* net/core/skbuff.c. skb->dev is the interface that the packet arrived by or is about
 * to leave by.
 */
SEC("tp_btf/kfree_skb")
int BPF_PROG(packet_drop, const struct sk_buff *skb, void *location, unsigned int reason)
{
	const struct net_device *dev;

	if (!is_drop_reason(reason) || !any_tracked())
		return 0;
	dev = skb->dev;
	return dev && is_watched(dev) ? on_drop(skb, dev->ifindex, reason) : 0;
}
