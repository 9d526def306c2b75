/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What is counted and given out: the counters and the record of an exchange. */
#ifndef LAYERTRACE_EXCHANGE_H
#define LAYERTRACE_EXCHANGE_H

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

/* Order and values as in internal/exchange/flags.go. */
enum exchange_flag {
	FLAG_NO_RESPONSE = 1 << 0,
	FLAG_PIPELINED = 1 << 1,
	FLAG_OUT_OF_ORDER = 1 << 2,
	FLAG_INTERIM = 1 << 3,
	FLAG_RESET = 1 << 4,
	FLAG_IDLE = 1 << 5,
	FLAG_MALFORMED = 1 << 6,
	FLAG_MULTI_SEGMENT = 1 << 7,
	FLAG_OPTION_LOST = 1 << 8,
	FLAG_UPGRADED = 1 << 9,
};

enum direction {
	DIRECTION_INGRESS = 1,
	DIRECTION_EGRESS = 2,
};

/* What user space reads from the ring buffer. Times in ns of
 * CLOCK_MONOTONIC; addresses IPv6 or IPv4-mapped, ports in host order.
 */
struct exchange_record {
	__u64 request_first;
	__u64 request_last;
	__u64 response_first;
	__u64 response_last;
	__u64 request_bytes;
	__u64 response_bytes;
	__u32 request_packets;
	__u32 response_packets;
	__u8 trace_id[16];
	__u8 span_id[8];
	__u8 connection_id[8];
	__u64 option_time;
	__u8 client_addr[16];
	__u8 server_addr[16];
	__u16 client_port;
	__u16 server_port;
	__u32 ifindex;
	__u32 header_offset;
	enum exchange_flag flags;
	__u32 retransmits;
	__u16 status;
	__u8 format;
	__u8 sampling;
	__u8 direction;
	__u8 connection_id_len;
	__u8 is_socket; /* the point is a socket, and what follows is set */
	__u8 is_client; /* it sent the request */
	__u8 pad[4];
	/* Times on the other side of the point: the application's at a socket,
	 * the queue's letting go at an interface. 0: not known.
	 */
	__u64 far_request_first;
	__u64 far_request_last;
	__u64 far_response_first;
	__u64 far_response_last;
	__u32 drops;
	__u32 drop_reason;
	__u64 cookie;
	__u32 netns;
	__u32 uid;
	__u32 srtt_us;
	__u32 zero_windows;
	/* Sequence numbers of the message that leaves through the point: its
	 * first byte, behind its last, and behind the last of it that the
	 * interface's queue was seen to let go or, at a socket, the peer to
	 * acknowledge.
	 */
	__u32 egress_seq_start;
	__u32 egress_seq_end;
	__u32 egress_seq_done;
	__u8 qdisc_bypass;   /* the queue that let it go is passed by while it is empty */
	__u8 egress_dropped; /* a packet of it was dropped at the interface */
	__u8 pad2[2];
	__u64 acknowledged; /* when the peer's TCP had it up to handover_end; at a socket */
};

/* Takes a time of a handover into account. */
static __always_inline void add_times(__u64 *first, __u64 *last, __u64 now)
{
	if (!*first)
		*first = now;
	*last = now;
}

#endif
