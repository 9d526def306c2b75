//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* The programs for encrypted connections with sequence numbers that advance by themselves,
 * so that BPF_PROG_TEST_RUN can repeat one packet as if it were a stream, or with bench_turns
 * as if both ends sent it in turns; and empty programs for comparison.
 */
#include "../include/kernel.h"

/* Payload length of the repeated packet. */
const volatile __u32 bench_step;
const volatile bool bench_turns;
__u32 bench_runs;
__u32 bench_sequence;

#define FROM_SERVER (bench_turns && bench_runs & 1)
#define SEQUENCE_NUMBER(tcp) bench_sequence
#define SOURCE_PORT(tcp) (FROM_SERVER ? bpf_ntohs((tcp).dst) : bpf_ntohs((tcp).src))
#define DESTINATION_PORT(tcp) (FROM_SERVER ? bpf_ntohs((tcp).src) : bpf_ntohs((tcp).dst))

#include "../include/encrypted.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline void advance(void)
{
	bench_runs++;
	/* With turns, both streams have the same numbers. */
	if (!FROM_SERVER)
		bench_sequence += bench_step;
}

SEC("tcx/ingress")
int bench_tcx(struct __sk_buff *skb)
{
	advance();
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
	advance();
	capture(skb, 0, DIRECTION_INGRESS, ACCESS_LOAD);
	return 0;
}

SEC("socket")
int empty_sock(struct __sk_buff *skb)
{
	return 0;
}
