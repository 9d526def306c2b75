/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Layertrace's TCP options on the wire, 16 bytes in both layouts:
 *
 * compact: 254, 16, ExID (2 bytes, RFC 6994), connection ID (8), time (4, µs)
 * paper:   253, 6, connection ID (4), then 254, 10, time (8, ns)
 *
 * Numbers are in network order, times are the sender's CLOCK_MONOTONIC.
 */
#ifndef LAYERTRACE_TCP_OPTION_H
#define LAYERTRACE_TCP_OPTION_H

#include "kernel.h"

#define OPTION_END 0
#define OPTION_NOP 1
/* RFC 4727: option kinds for experiments. */
#define OPTION_EXP1 253
#define OPTION_EXP2 254
#define OPTION_EXID 0x4c54 /* "LT" */
#define OPTIONS_SIZE 16

struct compact_option {
	__u8 kind;
	__u8 len;
	__be16 exid;
	__u8 id[8];
	__be32 time_us;
} __attribute__((packed));

struct paper_id_option {
	__u8 kind;
	__u8 len;
	__u8 id[4];
} __attribute__((packed));

struct paper_time_option {
	__u8 kind;
	__u8 len;
	__be64 time_ns;
} __attribute__((packed));

enum option_layout {
	OPTION_OFF,
	OPTION_COMPACT,
	OPTION_PAPER,
};

#endif
