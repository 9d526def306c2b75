/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* One TCP connection at one capture point.
 *
 * State of a connection
 * ---------------------
 * phase                  the exchange that is being recorded
 *   IDLE                 none
 *   HEAD                 deep only: its head continues in a later segment
 *   REQUEST              context found, no final response yet
 *   RESPONSE             its final response has begun
 * claim                  number of the exchange << 1 | emitted. Packet programs and
 *                        sweep run concurrently: emit() sets the lowest bit by
 *                        compare-and-swap, so one of them emits. A new connection
 *                        has 1: nothing to emit.
 * awaiting_response      1: a request that is not recorded (unsampled, no context)
 *                        has no response yet
 * pipelined_responses    responses still to come for requests before the latest one
 * in_pipelined_response  1: the bytes passing now belong to one of those
 * tracked                1: counted in tracked_connections, i.e. later segments must
 *                        look up the connection. Always equals expects_more(),
 *                        except that the sweep clears it on emitted, idle ones
 * client, server         sequence numbers at the capture point
 * driver_client, _server sequence numbers handed to the driver, at an interface
 * client_is_a            the side that sent the latest request
 * response_framing,      how the response ends, its length if that is known, and the
 * _total, chunks         progress in a chunked body
 * complete               1: the response has ended. guessed: so it seems, after chunks
 *                        were lost
 *
 * Events (functions in track.h; sweep in capture.bpf.c)
 * -----------------------------------------------------
 * request head       close_previous(): awaiting_response -> pipelined_responses + 1;
 * (begin_request)    REQUEST -> emit with FLAG_PIPELINED, pipelined_responses + 1;
 *                    RESPONSE -> emit (FLAG_PIPELINED, FLAG_INCOMPLETE if its
 *                    framing says that more was to come); then IDLE. In the body of a
 *                    request of known length it begins nothing. Depending on the head:
 *                    sampled context -> REQUEST and the next claim;
 *                    incomplete (deep) -> HEAD; anything else -> awaiting_response
 * more client data   HEAD: continue_head(): as for a request head; a gap ends the
 * (on_client_data)   search. REQUEST: added to the request. RESPONSE: in order it is
 *                    added to the request, else ignored. Emitted: COUNTER_LATE
 * response head      HEAD: the search ends first, as above.
 * (begin_response)   To a request that did not pass here (answers_request): REQUEST ->
 *                    emit with FLAG_PACKETS_MISSING, IDLE.
 *                    1xx (not 101): FLAG_INTERIM, nothing else.
 *                    pipelined_responses > 0: that - 1, in_pipelined_response = 1.
 *                    Else both waiting flags = 0, REQUEST -> RESPONSE, and
 *                    frame_response() reads where it ends
 * more server data   ignored while in_pipelined_response or pipelined_responses;
 * (on_server_data)   IDLE: awaiting_response = 0. RESPONSE: added to the response up
 *                    to its end; follow_response() sets complete. Emitted:
 *                    COUNTER_LATE
 * SYN (on_syn)       a copy of the connection's own: nothing. Else an open exchange is
 *                    emitted, the connection deleted; a new one is stored only to keep
 *                    the SYN's TCP option
 * FIN                the second one: emit if open, untrack, delete. The first one
 * (on_fin_or_rst)    changes no state: segments sent earlier may still follow
 * RST                emit if open (FLAG_RESET unless complete), untrack, delete.
 *                    FIN and RST: FLAG_INCOMPLETE if more of the response was to come
 * sweep              idle for response_idle, complete and read by the client: emit. For
 *                    unframed_idle, if the end cannot be known: emit with
 *                    FLAG_END_GUESSED. For request_idle: emit with FLAG_IDLE. Open for
 *                    report_after: a copy with FLAG_STILL_OPEN, once. Above the budget
 *                    of open exchanges: the idlest are emitted with FLAG_EVICTED, and
 *                    deleted. Emitted, and idle for FORGET_AFTER times response_idle:
 *                    untrack, delete
 * full table         a request that would be stored is not recorded: COUNTER_MAP_FULL
 */
#ifndef LAYERTRACE_CONNECTION_H
#define LAYERTRACE_CONNECTION_H

#include "exchange.h"

/* Ring fill in bytes at which user space is woken: a quarter of its size. */
const volatile __u64 ring_wakeup_fill = 1 << 20;

/* Key of a connection at a capture point. End a has the lower port (with equal ports
 * the lower address), so that both directions share one entry; at a socket end a is
 * the socket itself.
 */
struct connection_key {
	__u32 ifindex;
	__u16 port_a;
	__u16 port_b;
	__u64 addr_a[2];
	__u64 addr_b[2];
};

enum phase {
	PHASE_IDLE,	/* no exchange open */
	PHASE_REQUEST,	/* a request without a final response */
	PHASE_RESPONSE, /* the final response has begun */
	PHASE_HEAD,	/* deep: the request head continues in a later segment */
};

/* Progress of the byte stream in one direction. */
struct stream {
	__u32 next; /* next sequence number expected */
	__u32 gap_start;
	__u32 gap_end; /* bytes in [gap_start, gap_end) are missing so far */
	__u16 valid;   /* next is set */
	__u16 fin;
};

/* How the end of a message is known: RFC 9112, section 6. */
enum framing_kind {
	FRAMING_UNKNOWN, /* by the end of the connection, or not at all */
	FRAMING_LENGTH,
	FRAMING_CHUNKED,
};

struct framing {
	__u64 length; /* of the body */
	__u32 head_len;
	__u8 kind;
	__u8 contradicts; /* its headers */
	__u8 pad[2];
};

enum chunk_state {
	CHUNK_SIZE_LINE,
	CHUNK_EXTENSION, /* the rest of a size line */
	CHUNK_DATA,
	CHUNK_TRAILER,
	CHUNK_TRAILER_LINE,
	CHUNK_END,  /* the body is complete */
	CHUNK_LOST, /* bytes were missing, or there were too many chunks */
};

/* Progress in a chunked body. */
struct chunks {
	__u64 left; /* of the chunk and its CRLF */
	__u32 state;
	__u32 pad;
};

/* Requests whose response has no body (RFC 9112, section 6.3). */
enum bodiless {
	BODILESS_NONE,
	BODILESS_HEAD,
	BODILESS_CONNECT, /* if the status is 2xx */
};

struct connection {
	struct exchange_record x;
	/* exchange number << 1 | emitted */
	__u64 claim;
	__u64 last_ns;
	struct stream client;
	struct stream server;
	__u8 client_is_a;
	__u8 phase;
	__u8 pipelined_responses; /* for requests before the latest one */
	__u8 in_pipelined_response;
	__u8 awaiting_response; /* to a request that is not recorded */
	__u8 syn_option_len;	/* length of the connection ID in the SYN's option */
	__u8 syn_connection_id[8];
	__u8 pad[6];
	__u32 tracked;		     /* counted in tracked_connections */
	struct stream driver_client; /* bytes handed to the interface's driver */
	struct stream driver_server;
	__u64 request_total;  /* length in bytes by its framing, 0 if unknown */
	__u64 response_total; /* the same */
	struct chunks chunks; /* of the response */
	__u32 client_start;   /* sequence number of the first byte that the client sent */
	__u32 response_start;
	__u8 response_framing; /* enum framing_kind */
	__u8 complete;	       /* the response has ended by its framing */
	__u8 guessed;	       /* so it seems, after chunks were lost */
	__u8 bodiless;	       /* enum bodiless */
	__u8 reports;	       /* sent while it was open */
	__u8 pad2[3];
	/* Socket: since when data waits to be sent, as far as known: the latest
	 * acknowledgement, or the first write after it. 0: none waited then.
	 */
	__u64 waits_since;
	__u32 request_end; /* sequence number after the request, if request_total is known */
	__u32 pad3;
};

/* Small enough to stay in L1: a miss costs what the table saves. Large enough to keep
 * collisions rare: each segment of a connection that shares a slot with a tracked one
 * takes the slow path.
 */
#define TRACKED_BITS 10

#define CACHE_LINE 64

/* Distinguishes the keys of sockets from those of interfaces, whose indexes are
 * positive.
 */
#define SOCKET_POINT 0x80000000

/* Counts tracked connections: all of them, and by a hash of the key. Most segments
 * belong to requests that are not sampled; this table avoids looking up their
 * connection, which touches more memory than all other processing.
 */
struct tracked {
	__u32 total;
	__u8 pad[CACHE_LINE - sizeof(__u32)];
	__u32 count[1 << TRACKED_BITS];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct connection_key);
	__type(value, struct connection);
} connections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tracked);
} tracked_connections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} exchanges SEC(".maps");

/* The common case: where few requests are sampled, nothing is tracked most of the time
 * and this check is the only one.
 */
static __always_inline bool any_tracked(void)
{
	const struct tracked *f = bpf_map_lookup_elem(&tracked_connections, &(__u32){0});

	return f && f->total;
}

/* Counter for a point and the sums of both addresses (in 8-byte words) and both ports,
 * which are the same in both directions. Never NULL; the check satisfies the verifier.
 */
static __always_inline __u32 *tracked_counter_by_sums(__u64 addrs, __u32 ports, __u32 point)
{
	struct tracked *f = bpf_map_lookup_elem(&tracked_connections, &(__u32){0});
	__u64 h = (addrs * HASH_FACTOR + ports + ((__u64)point << 32)) * HASH_FACTOR;

	h >>= 64 - TRACKED_BITS;
	return f ? &f->count[h & ((1 << TRACKED_BITS) - 1)] : NULL;
}

static __always_inline __u32 *tracked_counter(const struct connection_key *k, __u32 point)
{
	return tracked_counter_by_sums(k->addr_a[0] + k->addr_a[1] + k->addr_b[0] + k->addr_b[1],
				       k->port_a + k->port_b, point);
}

/* Same for a key of the connections map. */
static __always_inline __u32 *tracked_counter_at(const struct connection_key *k)
{
	return tracked_counter(k, k->ifindex & SOCKET_POINT ? SOCKET_POINT : k->ifindex);
}

static __always_inline bool is_tracked(const __u32 *counter)
{
	return counter && *counter;
}

/* Packets of both directions may call this at the same time. */
static __always_inline void set_tracked(struct connection *c, __u32 *counter, __u32 tracked)
{
	struct tracked *f = bpf_map_lookup_elem(&tracked_connections, &(__u32){0});

	if (__sync_lock_test_and_set(&c->tracked, tracked) == tracked)
		return;
	__sync_fetch_and_add(counter, tracked ? 1 : -1);
	if (f)
		__sync_fetch_and_add(&f->total, tracked ? 1 : -1);
}

static __always_inline bool is_open(const struct connection *c)
{
	return c->phase == PHASE_REQUEST || c->phase == PHASE_RESPONSE;
}

/* Whether later segments may belong to a request seen before. */
static __always_inline bool expects_more(const struct connection *c)
{
	return c->phase != PHASE_IDLE || c->awaiting_response || c->pipelined_responses ||
	       c->in_pipelined_response;
}

/* Width of the band above ring_wakeup_fill, in bytes. */
#define WAKEUP_BAND (16 * sizeof(struct exchange_record))

/* Writes a record into the ring. */
static __always_inline bool submit(const struct exchange_record *x, __u32 flags)
{
	__u64 wakeup = BPF_RB_NO_WAKEUP, filled;
	struct exchange_record *record;

	/* User space drains the ring at intervals. Wake it only as the fill passes a quarter,
	 * not for every record above: on a busy node a wakeup per record costs ten times as
	 * much as the record.
	 */
	filled = bpf_ringbuf_query(&exchanges, BPF_RB_AVAIL_DATA) - ring_wakeup_fill;
	if (filled < WAKEUP_BAND)
		wakeup = BPF_RB_FORCE_WAKEUP;
	record = bpf_ringbuf_reserve(&exchanges, sizeof(*record), 0);
	if (!record) {
		count(COUNTER_RING_FULL);
		return false;
	}
	*record = *x; /* inline: starting the helper's string copy is slow */
	record->flags |= flags;
	bpf_ringbuf_submit(record, wakeup);
	return true;
}

/* Emits the open exchange of c unless that was done already. seen is c->claim at the
 * time of the caller's decision.
 */
static __always_inline void emit(struct connection *c, __u64 seen, __u32 flags)
{
	if ((seen & 1) || __sync_val_compare_and_swap(&c->claim, seen, seen | 1) != seen)
		return;
	c->x.flags |= flags;
	if (!c->x.response_first)
		c->x.flags |= FLAG_NO_RESPONSE;
	if (submit(&c->x, 0))
		count(COUNTER_EMITTED);
	if (flags & FLAG_EVICTED)
		count(COUNTER_EVICTED);
	if (c->x.flags & FLAG_INCOMPLETE)
		count(COUNTER_INCOMPLETE);
}

/* Reports an exchange that goes on: a copy of what is known. */
static __always_inline void report_open(struct connection *c)
{
	__u32 flags = FLAG_STILL_OPEN;

	if (!c->x.response_first)
		flags |= FLAG_NO_RESPONSE;
	if (submit(&c->x, flags))
		count(COUNTER_OPEN_REPORT);
}

/* Whether the framing says that more of the response was to come. */
static __always_inline bool is_unfinished(const struct connection *c)
{
	return c->phase == PHASE_RESPONSE && !c->complete &&
	       (c->response_framing == FRAMING_LENGTH ||
		(c->response_framing == FRAMING_CHUNKED && c->chunks.state != CHUNK_LOST));
}

/* The connection ends with an open exchange. */
static __always_inline void emit_ended(struct connection *c, __u32 reset)
{
	__u32 flags = 0;

	if (c->phase == PHASE_REQUEST || !c->complete)
		flags = reset;
	if (is_unfinished(c))
		flags |= FLAG_INCOMPLETE;
	emit(c, c->claim, flags);
}

enum arrival {
	ARRIVAL_IN_ORDER,
	ARRIVAL_AHEAD,	/* bytes before it are missing so far */
	ARRIVAL_FILLED, /* those bytes */
	ARRIVAL_AGAIN,	/* a retransmission, possibly with new bytes at its end */
};

/* Modular comparison, RFC 9293 section 3.4. */
static __always_inline bool before(__u32 a, __u32 b)
{
	return (__s32)(a - b) < 0;
}

/* Restarts at next: earlier bytes are not missing. */
static __always_inline void resync_at(struct stream *st, __u32 next)
{
	st->valid = 1;
	st->next = next;
	st->gap_start = st->gap_end;
}

/* Accounts for a segment; fresh is the number of bytes not seen before. */
static __always_inline enum arrival arrive(struct stream *st, __u32 seq, __u32 len, __u32 *fresh)
{
	__u32 end = seq + len;

	*fresh = len;
	if (!st->valid || seq == st->next) {
		st->valid = 1;
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

/* The response to a request that another request has followed comes first. */
static __always_inline void expect_pipelined_response(struct connection *c)
{
	if (c->pipelined_responses < 255)
		c->pipelined_responses++;
	count(COUNTER_PIPELINED);
}

/* The client begins another request. */
static __always_inline void close_previous(struct connection *c)
{
	if (c->awaiting_response) {
		c->awaiting_response = 0;
		expect_pipelined_response(c);
	}
	if (is_open(c)) {
		__u32 flags = 0;

		if (c->phase == PHASE_REQUEST) {
			flags = FLAG_PIPELINED;
			expect_pipelined_response(c);
		} else if (is_unfinished(c)) {
			flags = FLAG_PIPELINED | FLAG_INCOMPLETE;
		}
		emit(c, c->claim, flags);
	} else if (c->phase == PHASE_HEAD) {
		count(COUNTER_DISCARDED);
	}
	c->phase = PHASE_IDLE;
}

/* The message that leaves through the point begins at seq. */
static __always_inline void start_egress(struct exchange_record *x, __u32 seq)
{
	x->egress_seq_start = seq;
	x->egress_seq_end = seq;
	x->egress_seq_done = seq;
}

/* The driver received the bytes from seq to end. Tracepoints may miss packets, so the
 * time of the first byte counts only if that byte was seen.
 */
static __always_inline void note_far_side(struct exchange_record *x, bool from_client, __u32 seq,
					  __u32 end, __u64 now)
{
	__u64 *first = from_client ? &x->far_request_first : &x->far_response_first;
	__u64 *last = from_client ? &x->far_request_last : &x->far_response_last;

	if (!before(x->egress_seq_start, seq) && before(x->egress_seq_start, end))
		*first = now;
	if (before(x->egress_seq_done, end))
		x->egress_seq_done = end;
	*last = now;
}

/* The kernel dropped a packet of the connection. */
static __always_inline void note_drop(struct connection *c, __u32 reason)
{
	c->x.drops++;
	c->x.drop_reason = reason;
	count(COUNTER_DROPPED);
}

#endif
