/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The one way out: a finished exchange to the ring buffer, exactly once. */
#ifndef LAYERTRACE_EMIT_H
#define LAYERTRACE_EMIT_H

#include "counters.h"
#include "exchange.h"

/* A quarter of the ring, in bytes: the fill at which user space is woken. */
const volatile __u64 ring_mark = 1 << 20;
/* Width of that mark in bytes. */
#define WAKEUP_BAND (16 * sizeof(struct exchange_record))

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} exchanges SEC(".maps");

/* Emits the open exchange of c unless somebody else did. seen is c->claim as
 * it was when the caller decided.
 */
static __always_inline void emit(struct connection *c, __u64 seen, __u32 flags)
{
	__u64 wakeup = BPF_RB_NO_WAKEUP, filled;
	struct exchange_record *record;

	if ((seen & 1) || __sync_val_compare_and_swap(&c->claim, seen, seen | 1) != seen)
		return;
	c->x.flags |= flags;
	if (!c->x.response_first)
		c->x.flags |= FLAG_NO_RESPONSE;
	/* User space drains the ring at intervals. It is woken only where a
	 * quarter is full, not above as well: on a busy node a wakeup for each
	 * record costs ten times what the record does.
	 */
	filled = bpf_ringbuf_query(&exchanges, BPF_RB_AVAIL_DATA) - ring_mark;
	if (filled < WAKEUP_BAND)
		wakeup = BPF_RB_FORCE_WAKEUP;
	record = bpf_ringbuf_reserve(&exchanges, sizeof(*record), 0);
	if (!record) {
		count(COUNTER_RING_FULL);
		return;
	}
	*record = c->x; /* inline: the helper's string copy is slow to start */
	bpf_ringbuf_submit(record, wakeup);
	count(COUNTER_EMITTED);
}

static __always_inline bool is_open(const struct connection *c)
{
	return c->phase == PHASE_REQUEST || c->phase == PHASE_RESPONSE;
}

#endif
