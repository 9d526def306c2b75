//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* The program of a device with a sequence number that advances by itself, as in
 * bench.bpf.c.
 */
#include "../include/kernel.h"

/* Payload length of the repeated packet. */
const volatile __u32 bench_step;
/* Each segment acknowledges something new, and so begins a message. */
const volatile bool bench_messages;
__u32 bench_sequence;

#define SEQUENCE_NUMBER(tcp) bench_sequence
#define ACKNOWLEDGEMENT(tcp) (bench_messages ? bench_sequence : bpf_ntohl((tcp).ack))

#include "../device.bpf.c"

SEC("tcx/ingress")
int bench_device(struct __sk_buff *skb)
{
	bench_sequence += bench_step;
	capture(skb, ETH_HLEN, DIRECTION_INGRESS, ACCESS_DIRECT);
	return TCX_NEXT_VERDICT;
}

SEC("tcx/ingress")
int empty_device(struct __sk_buff *skb)
{
	return TCX_NEXT_VERDICT;
}
