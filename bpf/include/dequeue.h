/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Packets that a queue of an interface hands to its driver, one by one: for the programs at
 * qdisc_dequeue of nodes and of devices, which define on_dequeue().
 */
#ifndef LAYERTRACE_DEQUEUE_H
#define LAYERTRACE_DEQUEUE_H

#include "kernel.h"

static __always_inline void on_dequeue(const struct sk_buff *skb, __u32 ifindex, bool bypass);

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

#endif
