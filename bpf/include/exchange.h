/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The record of one exchange and the state of one connection. */
#ifndef LAYERTRACE_EXCHANGE_H
#define LAYERTRACE_EXCHANGE_H

#include "kernel.h"

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
	__u64 handover_request_first;
	__u64 handover_request_last;
	__u64 handover_response_first;
	__u64 handover_response_last;
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
	__u32 leaving_start;
	__u32 leaving_end;
	__u32 handover_end;
	__u8 queue_bypassed;  /* the queue that let it go is passed by while it is empty */
	__u8 leaving_dropped; /* a packet of it was dropped at the interface */
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

/* Key of a connection at a capture point. End a has the lower port (the lower
 * address when the ports are equal), so both directions find one entry.
 */
struct connection_key {
	__u32 ifindex;
	__u16 port_a;
	__u16 port_b;
	__u64 addr_a[2];
	__u64 addr_b[2];
};

enum phase {
	PHASE_IDLE,	 /* no exchange open */
	PHASE_REQUEST,	 /* a request, nothing of its final response */
	PHASE_RESPONSE,	 /* a final response has begun */
	PHASE_SEARCHING, /* deep: the request head goes on in a later segment */
};

/* What is known of the byte stream of one direction. */
struct stream {
	__u32 next; /* sequence number expected next */
	__u32 gap_start;
	__u32 gap_end; /* bytes in [gap_start, gap_end) did not pass yet */
	__u16 known;   /* next is valid */
	__u16 fin;
};

struct connection {
	struct exchange_record x;
	/* Number of the exchange << 1 | already emitted. The packet path and the
	 * sweep both claim an exchange by compare-and-swap on it.
	 */
	__u64 claim;
	__u64 last_ns;
	struct stream client;
	struct stream server;
	__u8 client_is_a;
	__u8 phase;
	__u8 skip_responses; /* response starts that belong to earlier requests */
	__u8 skipping;	     /* inside such a response */
	__u8 interim;	     /* the last response start was a 1xx */
	__u8 syn_option_len; /* connection ID from the SYN */
	__u8 syn_connection_id[8];
	__u8 waiting; /* a request that is not recorded has no response yet */
	__u8 pad[5];
	__u32 followed;		     /* counted in followed_connections */
	struct stream driver_client; /* what the interface's driver has sent */
	struct stream driver_server;
};

#endif
