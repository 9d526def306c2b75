/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* From the options of a TCP header to ours, for the programs of nodes and of devices. */
#ifndef LAYERTRACE_WALK_OPTIONS_H
#define LAYERTRACE_WALK_OPTIONS_H

#include "tcp_option.h"

/* Networks whose TCP options are trusted. */
struct prefix_key {
	__u32 len;
	__u64 addr[2];
} __attribute__((packed));

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 256);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix_key);
	__type(value, __u8);
} trusted_prefixes SEC(".maps");

/* Longest options of a TCP header (RFC 9293, section 3.1), and the next power of two. */
#define OPTIONS_MAX 40
#define OPTIONS_BOUND 64

/* The options of a segment as the header has them, and what was found in them. */
struct options {
	__u64 time;
	__u8 id[8];
	__u32 id_len; /* 0: none of them is ours */
	__u32 position;
	__u8 bytes[OPTIONS_BOUND + OPTIONS_SIZE];
};

/* Parses len bytes of o->bytes into id and time. Returns 1 if one of our options was found. */
VERIFIED_ALONE int walk_options(struct options *o, __u32 len)
{
	if (!o)
		return 0;
	/* Keep the position in memory: for a register the verifier explores every value and
	 * exceeds its limit of a million instructions.
	 */
	o->position = 0;
	o->id_len = 0;
	o->time = 0;
	for (int n = 0; n < OPTIONS_MAX; n++) {
		__u32 i = *(volatile __u32 *)&o->position;
		__u8 *option = o->bytes + (i & (OPTIONS_BOUND - 1));
		__u8 kind = option[0], size = option[1];

		if (i >= len || kind == OPTION_END)
			break;
		if (kind == OPTION_NOP) {
			o->position = i + 1;
			continue;
		}
		if (size < 2 || i + size > len)
			break;
		if (kind == OPTION_EXP2 && size == sizeof(struct compact_option)) {
			struct compact_option *compact = (void *)option;

			if (compact->exid == bpf_htons(OPTION_EXID)) {
				__builtin_memcpy(o->id, compact->id, sizeof(compact->id));
				o->id_len = sizeof(compact->id);
				o->time = bpf_ntohl(compact->time_us);
				break;
			}
		} else if (kind == OPTION_EXP1 && size == sizeof(struct paper_id_option)) {
			struct paper_id_option *paper = (void *)option;

			__builtin_memset(o->id, 0, sizeof(o->id));
			__builtin_memcpy(o->id, paper->id, sizeof(paper->id));
			o->id_len = sizeof(paper->id);
		} else if (kind == OPTION_EXP2 && size == sizeof(struct paper_time_option) &&
			   o->id_len) {
			struct paper_time_option *paper = (void *)option;

			o->time = bpf_be64_to_cpu(paper->time_ns);
		}
		o->position = i + size;
	}
	return o->id_len != 0;
}

#endif
