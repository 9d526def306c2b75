/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* One TCP connection at one capture point, from segment to exchange. */
#ifndef LAYERTRACE_CONNECTION_H
#define LAYERTRACE_CONNECTION_H

#include "emit.h"
#include "followed.h"
#include "options.h"
#include "stream.h"
#include "walk.h"

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct connection_key);
	__type(value, struct connection);
} connections SEC(".maps");

static __always_inline bool is_method(__u64 head)
{
	return MATCHES_EXACT(head, 4, 'G', 'E', 'T', ' ', 0, 0, 0, 0) ||
	       MATCHES_EXACT(head, 5, 'P', 'O', 'S', 'T', ' ', 0, 0, 0) ||
	       MATCHES_EXACT(head, 4, 'P', 'U', 'T', ' ', 0, 0, 0, 0) ||
	       MATCHES_EXACT(head, 5, 'H', 'E', 'A', 'D', ' ', 0, 0, 0) ||
	       MATCHES_EXACT(head, 7, 'D', 'E', 'L', 'E', 'T', 'E', ' ', 0) ||
	       MATCHES_EXACT(head, 6, 'P', 'A', 'T', 'C', 'H', ' ', 0, 0) ||
	       MATCHES_EXACT(head, 8, 'O', 'P', 'T', 'I', 'O', 'N', 'S', ' ') ||
	       MATCHES_EXACT(head, 8, 'C', 'O', 'N', 'N', 'E', 'C', 'T', ' ') ||
	       MATCHES_EXACT(head, 6, 'T', 'R', 'A', 'C', 'E', ' ', 0, 0);
}

static __always_inline bool is_response(__u64 head)
{
	return MATCHES_EXACT(head, 7, 'H', 'T', 'T', 'P', '/', '1', '.', 0);
}

/* Status code of "HTTP/1.x NNN", 0 when there is none. */
static __always_inline __u16 read_status(struct __sk_buff *skb, __u32 off)
{
	__u8 text[4];

	if (bpf_skb_load_bytes(skb, off + 8, text, sizeof(text)) || text[0] != ' ')
		return 0;
	for (int i = 1; i < 4; i++)
		if (text[i] < '0' || text[i] > '9')
			return 0;
	return (text[1] - '0') * 100 + (text[2] - '0') * 10 + text[3] - '0';
}

static __always_inline void set_endpoints(struct exchange_record *x, const struct segment *seg)
{
	const struct connection_key *k = &seg->key;

	__builtin_memcpy(x->client_addr, seg->from_a ? k->addr_a : k->addr_b, 16);
	__builtin_memcpy(x->server_addr, seg->from_a ? k->addr_b : k->addr_a, 16);
	x->client_port = seg->from_a ? k->port_a : k->port_b;
	x->server_port = seg->from_a ? k->port_b : k->port_a;
	x->ifindex = k->ifindex;
}

/* The next response belongs to a request that was followed by another. */
static __always_inline void skip_response(struct connection *c)
{
	if (c->skip_responses < 255)
		c->skip_responses++;
	count(COUNTER_PIPELINED);
}

/* Ends what is open when another request begins. */
static __always_inline void close_previous(struct connection *c)
{
	if (c->waiting) {
		c->waiting = 0;
		skip_response(c);
	}
	if (is_open(c)) {
		__u32 flags = 0;

		if (c->phase == PHASE_REQUEST) {
			flags = FLAG_PIPELINED;
			skip_response(c);
		}
		emit(c, c->claim, flags);
	} else if (c->phase == PHASE_SEARCHING) {
		count(COUNTER_DISCARDED);
	}
	c->phase = PHASE_IDLE;
}

/* The message that leaves through the interface begins at seq. */
static __always_inline void set_leaving(struct exchange_record *x, __u32 seq)
{
	x->leaving_start = seq;
	x->leaving_end = seq;
	x->handover_end = seq;
}

/* The driver gets bytes of x that it did not have. Kernels may leave programs
 * out: a time is that of the first byte only where that byte was seen.
 */
static __always_inline void note_handover(struct exchange_record *x, const struct segment *seg,
					  bool from_client, __u64 now)
{
	__u64 *first = from_client ? &x->handover_request_first : &x->handover_response_first;
	__u64 *last = from_client ? &x->handover_request_last : &x->handover_response_last;
	__u32 end = seg->seq + seg->payload_len;

	if (!before(x->leaving_start, seg->seq) && before(x->leaving_start, end))
		*first = now;
	if (before(x->handover_end, end))
		x->handover_end = end;
	*last = now;
}

/* A copy is sent again of bytes that passed the capture before. Where a packet of
 * the message was dropped behind it, the driver gets them now, unless the queue
 * says later that they waited there.
 */
static __always_inline void note_copy(struct connection *c, const struct segment *seg,
				      bool from_client, __u64 now)
{
	struct exchange_record *x = &c->x;

	if (!x->leaving_dropped || from_client != (x->direction == DIRECTION_EGRESS))
		return;
	x->queue_bypassed = 1;
	note_handover(x, seg, from_client, now);
}

/* A new exchange in c, whose times and sizes are still those of its first
 * segment.
 */
static __always_inline void open_exchange(struct connection *c, const struct segment *seg,
					  __u64 now)
{
	struct exchange_record *x = &c->x;

	__builtin_memset(x, 0, sizeof(*x));
	set_endpoints(x, seg);
	x->request_first = now;
	set_leaving(x, seg->seq);
	c->last_ns = now; /* before the claim, which the sweep reads first */
	x->direction = seg->direction;
	if (c->skip_responses)
		x->flags |= FLAG_PIPELINED;
	c->client_is_a = seg->from_a;
	c->interim = 0;
	c->skipping = 0;
}

/* The kernel dropped a packet of the connection. */
static __always_inline void note_drop(struct connection *c, __u32 reason)
{
	c->x.drops++;
	c->x.drop_reason = reason;
	count(COUNTER_DROPPED);
}

static __always_inline void set_connection_id(struct connection *c, const struct scratch *s)
{
	struct exchange_record *x = &c->x;

	if (s->connection_id_len) {
		__builtin_memcpy(x->connection_id, s->connection_id, sizeof(x->connection_id));
		x->connection_id_len = s->connection_id_len;
		x->option_time = s->option_time;
	} else if (c->syn_option_len) {
		__builtin_memcpy(x->connection_id, c->syn_connection_id, sizeof(x->connection_id));
		x->connection_id_len = c->syn_option_len;
		x->flags |= FLAG_OPTION_LOST;
	}
}

_Static_assert(COUNTER_HEAD_UNPARSABLE - COUNTER_CONTEXT_FOUND ==
		       OUTCOME_UNPARSABLE - OUTCOME_FOUND,
	       "each outcome has its counter, in the same order");

static __always_inline void count_outcome(int outcome, bool malformed)
{
	count(COUNTER_CONTEXT_FOUND + outcome - OUTCOME_FOUND);
	if (malformed)
		count(COUNTER_CONTEXT_MALFORMED);
}

/* The context in s->walk belongs to the exchange in c from now on. */
static __always_inline void adopt_context(struct connection *c, const struct walk *w)
{
	struct exchange_record *x = &c->x;

	__builtin_memcpy(x->trace_id, w->found.trace_id, sizeof(x->trace_id));
	__builtin_memcpy(x->span_id, w->found.span_id, sizeof(x->span_id));
	x->format = w->found.format;
	x->sampling = w->found.sampling;
	x->header_offset = w->found.offset;
	if (w->malformed)
		x->flags |= FLAG_MALFORMED;
	c->phase = PHASE_REQUEST;
	c->claim = (c->claim | 1) + 1;
	count(COUNTER_STARTED);
}

#endif
