//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* What becomes of a packet behind the capture at an interface: its queue has
 * let it go and the driver takes it, or the kernel drops it.
 */
#include "include/sent.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The driver takes bytes of x that it did not have. Kernels may leave programs
 * out: a time is that of the first byte only where that byte was seen.
 */
static __always_inline void note_handover(struct exchange_record *x, const struct segment *seg,
					  __u64 *first, __u64 *last)
{
	__u32 end = seg->seq + seg->payload_len;
	__u64 now = bpf_ktime_get_ns();

	if (!before(x->leaving_start, seg->seq) && before(x->leaving_start, end))
		*first = now;
	if (before(x->handover_end, end))
		x->handover_end = end;
	*last = now;
}

/* The driver of a watched interface begins to send a packet. Out of line: every
 * packet of the machine runs the program, and most need no stack.
 */
static __noinline int begin_sending(const struct sk_buff *skb, __u32 ifindex)
{
	struct segment seg = {};
	struct exchange_record *x;
	struct connection *c;
	bool from_client;
	__u32 fresh;

	if (!read_sent(skb, ifindex, &seg))
		return 0;
	c = exchange_of(&seg);
	if (!c)
		return 0;
	x = &c->x;
	from_client = seg.from_a == c->client_is_a;
	/* An answer can come before the end of its request. */
	if (from_client ? x->direction != DIRECTION_EGRESS : c->phase != PHASE_RESPONSE)
		return 0;
	/* A copy that is sent again may come before what it is a copy of, by
	 * another class of the queue.
	 */
	if (arrive(from_client ? &c->driver_client : &c->driver_server, seg.seq, seg.payload_len,
		   &fresh) == ARRIVAL_AGAIN &&
	    !fresh)
		return 0;
	if (from_client)
		note_handover(x, &seg, &x->handover_request_first, &x->handover_request_last);
	else
		note_handover(x, &seg, &x->handover_response_first, &x->handover_response_last);
	return 0;
}

/* net/core/dev.c: right before the driver's ndo_start_xmit. */
SEC("tp_btf/net_dev_start_xmit")
int BPF_PROG(driver_start, const struct sk_buff *skb, const struct net_device *dev)
{
	return follows_any() && is_watched(dev) ? begin_sending(skb, dev->ifindex) : 0;
}

/* The kernel drops a packet at a watched interface. */
static __noinline int drop(const struct sk_buff *skb, __u32 ifindex, __u32 reason)
{
	struct segment seg = {};
	struct connection *c;

	if (!read_sent(skb, ifindex, &seg))
		return 0;
	c = exchange_of(&seg);
	if (!c)
		return 0;
	note_drop(c, reason);
	return 0;
}

/* net/core/skbuff.c. A packet belongs to the interface that it came in by or is
 * about to leave by.
 */
SEC("tp_btf/kfree_skb")
int BPF_PROG(packet_drop, const struct sk_buff *skb, void *location, unsigned int reason)
{
	const struct net_device *dev;

	if (reason < DROP_REASON_FIRST || !follows_any())
		return 0;
	dev = skb->dev;
	return dev && is_watched(dev) ? drop(skb, dev->ifindex, reason) : 0;
}
