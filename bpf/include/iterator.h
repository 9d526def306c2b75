/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Walks over tables in slices: the kernel's iterator runs a program for each element, as user
 * space reads from it (agent/internal/probe/sweep.go).
 */
#ifndef LAYERTRACE_ITERATOR_H
#define LAYERTRACE_ITERATOR_H

#include "kernel.h"

/* kernel/bpf/map_iter.c */
struct bpf_iter_meta {
	struct seq_file *seq;
} __attribute__((preserve_access_index));

struct bpf_iter__bpf_map_elem {
	struct bpf_iter_meta *meta;
	void *key; /* NULL at the end */
	void *value;
} __attribute__((preserve_access_index));

/* Defines a program that calls visit for an element of a table. Each takes a byte of the buffer
 * into which user space reads, whose size is that of a slice. If visit returns false, the read
 * ends, and the next one goes on with the same element. After a slice that ends within a
 * bucket of the table, the next one skips an element for each that was deleted since the walk
 * came to the bucket, and visits one again for each that was inserted.
 */
#define WALK_PROGRAM(name, table, visit)                       \
	SEC("iter/bpf_map_elem")                               \
	int name(struct bpf_iter__bpf_map_elem *ctx)           \
	{                                                      \
		const typeof(*(table).key) *found = ctx->key;  \
		typeof((table).value) value = ctx->value;      \
		struct seq_file *seq = ctx->meta->seq;         \
		const __u8 visited = 0;                        \
		typeof(*(table).key) key;                      \
                                                               \
		if (!found || !value)                          \
			return 0;                              \
		key = *found;                                  \
		if (!visit(&key, value))                       \
			return 1;                              \
		bpf_seq_write(seq, &visited, sizeof(visited)); \
		return 0;                                      \
	}

#endif
