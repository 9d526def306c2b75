/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Sequence numbers of one direction: what is new, late, or seen before. */
#ifndef LAYERTRACE_STREAM_H
#define LAYERTRACE_STREAM_H

#include "exchange.h"

enum arrival {
	ARRIVAL_IN_ORDER,
	ARRIVAL_AHEAD,	/* bytes before it did not pass yet */
	ARRIVAL_FILLED, /* such bytes, passing now */
	ARRIVAL_AGAIN,	/* a retransmission, perhaps with new bytes at its end */
};

/* a before b, RFC 793 section 3.3 arithmetic. */
static __always_inline bool before(__u32 a, __u32 b)
{
	return (__s32)(a - b) < 0;
}

/* The byte at next is the first that passes. */
static __always_inline void begin_at(struct stream *st, __u32 next)
{
	st->known = 1;
	st->next = next;
	st->gap_start = st->gap_end;
}

/* Takes a segment into account. fresh: how many of its bytes are new here. */
static __always_inline enum arrival arrive(struct stream *st, __u32 seq, __u32 len, __u32 *fresh)
{
	__u32 end = seq + len;

	*fresh = len;
	if (!st->known || seq == st->next) {
		st->known = 1;
		st->next = end;
		return ARRIVAL_IN_ORDER;
	}
	if (before(st->next, seq)) {
		if (st->gap_start == st->gap_end)
			st->gap_start = st->next;
		st->gap_end = seq;
		st->next = end;
		return ARRIVAL_AHEAD;
	}
	if (st->gap_start != st->gap_end && !before(seq, st->gap_start) &&
	    !before(st->gap_end, end)) {
		if (seq == st->gap_start)
			st->gap_start = end;
		else if (end == st->gap_end)
			st->gap_end = seq;
		return ARRIVAL_FILLED;
	}
	*fresh = 0;
	if (before(st->next, end)) {
		*fresh = end - st->next;
		st->next = end;
	}
	return ARRIVAL_AGAIN;
}

#endif
