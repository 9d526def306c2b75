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

/* Fills key, from_a, seq and payload_len. */
static __always_inline bool parse_skb(const struct sk_buff *skb, __u32 ifindex, struct segment *seg)
{
	struct dequeued d = {};

	if (!read_dequeued(skb, seg->key.addr_a, seg->key.addr_b, &d))
		return false;
	seg->key.ifindex = ifindex;
	seg->seq = d.seq;
	seg->payload_len = d.payload_len;
	set_ends(seg, d.sport, d.dport);
	return true;
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
	return any_tracked() ? dequeue_batch_from(queue, to, skb, &ctx[3]) : 0;
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
