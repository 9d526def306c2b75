/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Working memory of one packet: too large for the BPF stack (512 bytes). */
#ifndef LAYERTRACE_SCRATCH_H
#define LAYERTRACE_SCRATCH_H

#include "packet.h"

/* Largest window of a first segment, and mask that keeps an offset inside. */
#define WINDOW_MAX 4096
#define TEXT_SIZE 8192
#define TEXT_MASK (TEXT_SIZE - 1)
/* Reads of up to TEXT_PADDING bytes at any masked offset stay inside. */
#define TEXT_PADDING 128
/* Deep search: bytes of an unfinished line kept for the next chunk, and the
 * size of a chunk. Lines longer than CARRY_MAX are skipped.
 */
#define CARRY_MAX 512
#define CHUNK_SIZE 1024
#define OPTIONS_MAX 40
#define OPTIONS_MAX_BOUND 64 /* the next power of 2 */

enum outcome {
	OUTCOME_OPEN, /* the walk can go on when more bytes come */
	OUTCOME_FOUND,
	OUTCOME_UNSAMPLED,
	OUTCOME_NONE,
	OUTCOME_TRUNCATED,
	OUTCOME_UNPARSABLE,
};

enum sampling {
	SAMPLING_DEFERRED,
	SAMPLING_DENIED,
	SAMPLING_ACCEPTED,
};

/* A trace context. Offset: of its first line, from the start of the request. */
struct context {
	__u8 trace_id[16] __attribute__((aligned(8)));
	__u8 span_id[8];
	__u32 offset;
	__u8 format;
	__u8 sampling;
	__u8 have; /* enum part */
	__u8 pad;
};

enum part {
	PART_TRACE_ID = 1,
	PART_SPAN_ID = 2,
	PART_IDS = 3,
	PART_SAMPLING = 4,
};

/* State of the walk over a request head, kept between segments when deep. */
struct walk {
	__u32 pos;  /* start of the current line in text */
	__u32 end;  /* bytes in text */
	__u32 base; /* offset of text[0] from the start of the request */
	__u8 request_line;
	__u8 malformed;
	__u8 skip_line; /* the current line was too long to keep */
	__u8 denied;	/* a sampling line said no, and no context followed yet */
	struct context found;
	struct context b3;
	struct context datadog;
};

/* How a segment begins, as another point of this node read it; see known.h. */
struct known_segment {
	__u64 numbers; /* sequence number << 32 | acknowledged */
	__u32 payload_len;
	struct beginning beginning;
};

/* Few, to stay in the caches; the points of a node are passed within microseconds. */
#define KNOWN_BITS 3

/* What is known of a socket when a segment passes it. */
struct socket_facts {
	__u64 cookie; /* 0: the point is an interface */
	__u32 netns;
	__u32 uid;
};

/* The latest run of writes to a socket without a read in between, in ns of
 * CLOCK_MONOTONIC; 0: not known.
 */
struct writing {
	__u64 first;
	__u64 last;
};

struct scratch {
	__u32 claimed;
	__u32 slot; /* its key */
	struct known_segment known[1 << KNOWN_BITS];
	struct walk walk;
	struct segment segment; /* that is followed */
	struct socket_facts socket;
	struct writing writing;
	struct context contexts[1 << KNOWN_BITS]; /* of known segments */
	__u8 text[TEXT_SIZE + TEXT_PADDING];
	__u8 options[OPTIONS_MAX_BOUND + 16];
	struct context id; /* of a line that may count */
	struct connection fresh;
	__u8 connection_id[8];
	__u64 option_time;
	__u64 high; /* numbers in the making */
	__u64 low;
	__u32 option_pos;
	__u8 connection_id_len;
	__u8 pad[3];
};

/* Runs that are under way on one CPU at a time: a program of a socket runs for a
 * process that sends, where a packet that arrives interrupts it and another
 * process may take its place.
 */
#define SCRATCHES 4

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCHES);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

/* Working memory that nobody else uses until release_scratch; NULL when all of
 * this CPU's is in use.
 */
static __always_inline struct scratch *claim_scratch(void)
{
#pragma unroll
	for (__u32 i = 0; i < SCRATCHES; i++) {
		__u32 key = i;
		struct scratch *s = bpf_map_lookup_elem(&scratches, &key);

		if (s && !__sync_lock_test_and_set(&s->claimed, 1)) {
			s->slot = i;
			return s;
		}
	}
	count(COUNTER_SCRATCH_BUSY);
	return NULL;
}

/* The same as a map's value: in a function of its own it is plain memory for the
 * verifier, in which that of 6.1 wants no map's key and no value.
 */
static __always_inline struct scratch *same_scratch(const struct scratch *s)
{
	__u32 slot = s->slot;

	return bpf_map_lookup_elem(&scratches, &slot);
}

static __always_inline void release_scratch(struct scratch *s)
{
	asm volatile("" ::: "memory");
	*(volatile __u32 *)&s->claimed = 0;
}

static __always_inline __u64 text64(const struct scratch *s, __u32 off)
{
	return *(const __u64 *)(s->text + (off & TEXT_MASK));
}

/* TEXT_PADDING bytes from off on, of which one bounds check is enough. */
static __always_inline const __u8 *text_at(const struct scratch *s, __u32 off)
{
	return s->text + (off & TEXT_MASK);
}

static __always_inline __u8 text8(const struct scratch *s, __u32 off)
{
	return s->text[off & TEXT_MASK];
}

#endif
