/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Reads layertrace's TCP options off a segment. */
#ifndef LAYERTRACE_OPTIONS_H
#define LAYERTRACE_OPTIONS_H

#include "option_layout.h"
#include "packet.h"
#include "scratch.h"

/* The usual options of a data segment: NOP, NOP, timestamps. */
#define TIMESTAMPS_ONLY 0x0101080a
#define TIMESTAMPS_LEN 12

/* Networks whose options are believed. */
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

static __always_inline bool is_trusted(const struct segment *seg)
{
	struct prefix_key key = {.len = 128};

	key.addr[0] = seg->from_a ? seg->key.addr_a[0] : seg->key.addr_b[0];
	key.addr[1] = seg->from_a ? seg->key.addr_a[1] : seg->key.addr_b[1];
	return bpf_map_lookup_elem(&trusted_prefixes, &key) != NULL;
}

/* Walks len bytes of options in s->options; fills connection_id, its length
 * and option_time. Returns 1 when one of ours was there.
 */
__noinline int walk_options(struct scratch *s, __u32 len)
{
	if (!s)
		return 0;
	/* The place is kept in memory: in a register the verifier would follow
	 * each of its possible values, past its limit of a million steps.
	 */
	s->option_pos = 0;
	s->connection_id_len = 0;
	s->option_time = 0;
	for (int n = 0; n < OPTIONS_MAX; n++) {
		__u32 i = *(volatile __u32 *)&s->option_pos;
		__u8 *option = s->options + (i & 63);
		__u8 kind = option[0], size = option[1];

		if (i >= len || kind == OPTION_END)
			break;
		if (kind == OPTION_NOP) {
			s->option_pos = i + 1;
			continue;
		}
		if (size < 2 || i + size > len)
			break;
		if (kind == OPTION_EXP2 && size == sizeof(struct compact_option)) {
			struct compact_option *o = (void *)option;

			if (o->exid == bpf_htons(OPTION_EXID)) {
				__builtin_memcpy(s->connection_id, o->id, sizeof(o->id));
				s->connection_id_len = sizeof(o->id);
				s->option_time = bpf_ntohl(o->time_us);
				break;
			}
		} else if (kind == OPTION_EXP1 && size == sizeof(struct paper_id_option)) {
			struct paper_id_option *o = (void *)option;

			__builtin_memset(s->connection_id, 0, sizeof(s->connection_id));
			__builtin_memcpy(s->connection_id, o->id, sizeof(o->id));
			s->connection_id_len = sizeof(o->id);
		} else if (kind == OPTION_EXP2 && size == sizeof(struct paper_time_option) &&
			   s->connection_id_len) {
			struct paper_time_option *o = (void *)option;

			s->option_time = bpf_be64_to_cpu(o->time_ns);
		}
		s->option_pos = i + size;
	}
	return s->connection_id_len != 0;
}

/* Looks for our option in the segment; false when there is none to believe. */
static __always_inline bool read_options(struct __sk_buff *skb, const struct segment *seg,
					 struct scratch *s)
{
	__u32 len = seg->option_len;

	s->connection_id_len = 0;
	s->option_time = 0;
	if (!len || len > OPTIONS_MAX)
		return false;
	if (len == TIMESTAMPS_LEN) {
		__be32 first;

		if (!load(skb, seg->option_off, &first, sizeof(first), ACCESS_LOAD) ||
		    first == bpf_htonl(TIMESTAMPS_ONLY))
			return false;
	}
	BOUND_LENGTH(len, OPTIONS_MAX_BOUND);
	if (bpf_skb_load_bytes(skb, seg->option_off, s->options, len) || !walk_options(s, len))
		return false;
	if (!is_trusted(seg)) {
		count(COUNTER_OPTION_UNTRUSTED);
		s->connection_id_len = 0;
		s->option_time = 0;
		return false;
	}
	count(COUNTER_OPTION_READ);
	return true;
}

#endif
