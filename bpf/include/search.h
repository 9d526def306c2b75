/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Deep: a request head that goes on in a later segment. */
#ifndef LAYERTRACE_SEARCH_H
#define LAYERTRACE_SEARCH_H

#include "connection.h"

/* Deep: a walk that waits for the next segment. */
struct search {
	struct walk walk;
	__u8 line[CARRY_MAX + 8];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct connection_key);
	__type(value, struct search);
} searches SEC(".maps");

/* Deep: puts the walk aside until the next segment. */
static __always_inline bool save_search(const struct connection_key *key, struct scratch *s)
{
	struct search *found;

	carry_line(s);
	/* text starts with the carried line; copy as one block */
	found = bpf_map_lookup_elem(&searches, key);
	if (!found) {
		/* any bytes do for a new entry: they are overwritten below */
		if (bpf_map_update_elem(&searches, key, s->text, BPF_ANY)) {
			count(COUNTER_MAP_FULL);
			return false;
		}
		found = bpf_map_lookup_elem(&searches, key);
		if (!found)
			return false;
	}
	found->walk = s->walk;
	__builtin_memcpy(found->line, s->text, sizeof(found->line));
	return true;
}

static __always_inline bool load_search(const struct connection_key *key, struct scratch *s)
{
	struct search *found = bpf_map_lookup_elem(&searches, key);

	if (!found)
		return false;
	s->walk = found->walk;
	__builtin_memcpy(s->text, found->line, sizeof(found->line));
	return true;
}

static __always_inline void forget_search(const struct connection_key *key)
{
	if (deep)
		bpf_map_delete_elem(&searches, key);
}

#endif
