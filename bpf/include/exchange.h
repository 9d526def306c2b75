/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What user space gets: counters, and one record per exchange and capture point. Go
 * bindings are generated from the types in this file.
 */
#ifndef LAYERTRACE_EXCHANGE_H
#define LAYERTRACE_EXCHANGE_H

#include "hooks.h"
#include "waits.h"

/* Metric names and help texts: agent/internal/probe/counters.go. */
enum counter {
	COUNTER_REQUESTS,
	COUNTER_CONTEXT_FOUND,
	COUNTER_CONTEXT_UNSAMPLED,
	COUNTER_CONTEXT_NONE,
	COUNTER_HEAD_TRUNCATED,
	COUNTER_HEAD_UNPARSABLE,
	COUNTER_NOT_CAPTURED,
	COUNTER_CONTEXT_MALFORMED,
	COUNTER_CONTEXT_SEVERAL,
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
	COUNTER_EVICTED,
	COUNTER_INCOMPLETE,
	COUNTER_OPEN_REPORT,
	COUNTER_QUEUE_FULL,
	COUNTER_FRAMING_LOST,
	COUNTER_SEARCH,
	COUNTER_SEARCH_BYTES,
	COUNTER_SEARCH_BUDGET,
	COUNTER_CONTEXT_BEHIND,
	COUNTER_UNPROVEN,
	COUNTER_IMPLAUSIBLE,
	COUNTER_OTHER_HOST,
	COUNTERS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, enum counter);
	__type(value, __u64);
} counters SEC(".maps");

/* What user space has turned off for now, to stay within its share of the CPUs. What is being
 * recorded goes on.
 */
enum limit {
	LIMIT_SOCKETS = 1 << 0, /* no new requests are recorded at sockets */
	LIMIT_DEEP = 1 << 1,	/* nothing is searched beyond the prefix window */
	LIMIT_NEW = 1 << 2,	/* no new requests are recorded, nor are their heads read */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, enum limit);
} limits SEC(".maps");

static __always_inline bool is_limited(enum limit which)
{
	const enum limit *set = bpf_map_lookup_elem(&limits, &(__u32){0});

	return set && *set & which;
}

static __always_inline void count(enum counter which)
{
	increment(&counters, which);
}

/* The same out of line, for what is rare: the programs of a packet socket have to fit into
 * its option memory (131072 bytes).
 */
VERIFIED_ALONE RARE int count_rare(__u32 which)
{
	increment(&counters, which);
	return 0;
}

static __always_inline void count_more(enum counter which, __u64 n)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &(__u32){which});

	if (value)
		*value += n;
}

/* A test compares these with the flags of the Go package observe. */
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
	FLAG_INCOMPLETE = 1 << 10,
	FLAG_EVICTED = 1 << 11,
	FLAG_STILL_OPEN = 1 << 12,
	FLAG_END_GUESSED = 1 << 13,
	FLAG_PACKETS_MISSING = 1 << 14,
	FLAG_SEVERAL_CONTEXTS = 1 << 15,
	FLAG_OUTSIDE_WINDOW = 1 << 16,
};

/* TASK_COMM_LEN of include/linux/sched.h. */
#define PROCESS_NAME_LEN 16

/* Bytes of a request's first line that a record keeps: method and target. */
#define REQUEST_LINE_MAX 96
#define REQUEST_LINE_MAX_BOUND 128 /* next power of two */

/* An exchange as user space reads it from the ring buffer. Times are in ns of
 * CLOCK_MONOTONIC, addresses IPv6 or IPv4-mapped, ports in host order.
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
	__u8 is_socket;	   /* the point is a socket; the socket fields below are set */
	__u8 is_client;	   /* the socket sent the request */
	__u32 request_seq; /* sequence number of the first byte */
	/* The same times on the far side of the point: the application's writes and reads at a
	 * socket; at an interface, when the qdisc gave it to the driver. 0: unknown.
	 */
	__u64 far_request_first;
	__u64 far_request_last;
	__u64 far_response_first;
	__u64 far_response_last;
	__u32 drops;
	__u32 drop_reason;
	/* Sequence numbers of the message that leaves through the point: its first byte, its
	 * end, and how far the far side has it: dequeued for the driver at an interface,
	 * acknowledged by the peer at a socket.
	 */
	__u32 egress_seq_start;
	__u32 egress_seq_end;
	__u32 egress_seq_done;
	__u8 qdisc_bypass;   /* the qdisc lets packets bypass it while it is empty */
	__u8 egress_dropped; /* one of its packets was dropped at the interface */
	__u8 pad[2];
	__u32 response_seq; /* sequence number of its first byte, if response_first is set */
	/* Socket: the process that reads and writes at it, as far as one was seen; 0: unknown.
	 * Here, where it fills a gap.
	 */
	__u32 tgid;
	__u8 request_line[REQUEST_LINE_MAX]; /* its first bytes, padded with zeros */
	/* The record of an interface ends here. */
	__u64 cookie;
	__u32 netns;
	__u32 uid;
	__u32 srtt_us;
	__u32 zero_windows;
	__u64 acknowledged; /* time at which the peer had acknowledged all that left */
	struct waits waits;
	__u64 cgroup; /* ID of the process's cgroup, else of the one that made the socket */
	__u8 process_name[PROCESS_NAME_LEN];
};

/* Bytes of the record of an interface, and what that of a socket has in addition. */
#define INTERFACE_RECORD_SIZE __builtin_offsetof(struct exchange_record, cookie)
#define SOCKET_RECORD_REST (sizeof(struct exchange_record) - INTERFACE_RECORD_SIZE)

/* Extends a pair of times to now. */
static __always_inline void extend_times(__u64 *first, __u64 *last, __u64 now)
{
	if (!*first)
		*first = now;
	*last = now;
}

#endif
