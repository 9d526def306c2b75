//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* The capture programs with a sequence number that advances by itself, so that
 * BPF_PROG_TEST_RUN can repeat one packet as if it were a stream; and empty programs
 * for comparison.
 */
#include "../include/kernel.h"

/* Payload length of the repeated packet; 0 also repeats the sequence number. */
const volatile __u32 bench_step;
__u32 bench_sequence;

#define SEQUENCE_NUMBER(tcp) bench_sequence
/* Also acknowledges a response that did not pass: a request ends the one before. */
#define ACKNOWLEDGEMENT(tcp) bench_sequence

#include "../include/track.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("tcx/ingress")
int bench_tcx(struct __sk_buff *skb)
{
	bench_sequence += bench_step;
	capture(skb, ETH_HLEN, DIRECTION_INGRESS, ACCESS_DIRECT);
	return TCX_NEXT_VERDICT;
}

SEC("tcx/ingress")
int empty_tcx(struct __sk_buff *skb)
{
	return TCX_NEXT_VERDICT;
}

SEC("socket")
int bench_sock(struct __sk_buff *skb)
{
	/* a test run passes the packet to a socket filter from its IP header on */
	bench_sequence += bench_step;
	capture(skb, 0, DIRECTION_INGRESS, ACCESS_LOAD);
	return 0;
}

SEC("socket")
int empty_sock(struct __sk_buff *skb)
{
	return 0;
}
