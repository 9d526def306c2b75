/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* One per-CPU counter for everything that is counted or given up. */
#ifndef LAYERTRACE_COUNTERS_H
#define LAYERTRACE_COUNTERS_H

#include "kernel.h"

/* Names and explanations: agent/internal/probe/counters.go. */
enum counter {
	COUNTER_REQUESTS,
	COUNTER_CONTEXT_FOUND,
	COUNTER_CONTEXT_UNSAMPLED,
	COUNTER_CONTEXT_NONE,
	COUNTER_HEAD_TRUNCATED,
	COUNTER_HEAD_UNPARSABLE,
	COUNTER_CONTEXT_MALFORMED,
	COUNTER_RESPONSE_UNTRACKED,
	COUNTER_REQUEST_IN_RESPONSE,
	COUNTER_PIPELINED,
	COUNTER_RETRANSMITTED,
	COUNTER_OUT_OF_ORDER,
	COUNTER_LATE,
	COUNTER_FRAGMENT,
	COUNTER_PACKET_TRUNCATED,
	COUNTER_OPTION_READ,
	COUNTER_OPTION_UNTRUSTED,
	COUNTER_STARTED,
	COUNTER_EMITTED,
	COUNTER_RING_FULL,
	COUNTER_MAP_FULL,
	COUNTER_DISCARDED,
	COUNTER_SOCKET_FULL,
	COUNTER_DROPPED,
	COUNTER_SCRATCH_BUSY,
	COUNTERS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, enum counter);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(enum counter which)
{
	__u32 key = which;
	__u64 *value = bpf_map_lookup_elem(&counters, &key);

	if (value)
		(*value)++;
}

#endif
