/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* One TCP connection at one capture point.
 *
 * State of a connection
 * ---------------------
 * phase                  the current request: the oldest one whose response has not ended
 *   IDLE                 none
 *   HEAD                 deep only: its head continues in a later segment
 *   REQUEST              no final response yet
 *   RESPONSE             its final response has begun
 * recorded               1: it is sampled (or all_requests is set), and its exchange is in x
 * claim                  number of the exchange << 1 | emitted. Packet programs and
 *                        sweep run concurrently: emit() sets the lowest bit by
 *                        compare-and-swap, so one of them emits. A new connection
 *                        has 1: nothing to emit.
 * request                framing of the latest request, which is the current one if none
 *                        waits
 * response               framing of the response to the current request
 * queued - answered      requests that wait for the response to an earlier one: in the map
 *                        queued_requests, by their number
 * overflow               requests after those, for which the queue had no room; 255: not
 *                        known how many
 * unsure                 1: requests or responses may have passed unseen; exchanges get
 *                        FLAG_END_GUESSED until a request finds nothing open
 * strange                1: the server has sent bytes that are no response to the current
 *                        request
 * tracked                1: counted in tracked_connections, i.e. later segments must
 *                        look up the connection. Always equals expects_more(),
 *                        except that the sweep clears it on idle ones with an emitted exchange
 * client, server         sequence numbers at the capture point
 * driver_client, _server sequence numbers handed to the driver, at an interface
 * client_is_a            the side that sends the requests
 * proof                  whether the connection is known to exist. Without, nothing is emitted:
 *                    what would be is counted
 *
 * Events (functions in request.h, response.h and track.h; sweep in capture.bpf.c)
 * -----------------------------------------------------
 * A segment is taken apart where a message ends in it, and where it is partly a
 * retransmission; each part is an event of its own.
 *
 * request head       make_way(): the current response has ended, or is of unknown length:
 * (begin_request)    emit, IDLE. The client acknowledges bytes that did not pass here: emit
 *                    with FLAG_PACKETS_MISSING, empty the queue, IDLE. Else the new request
 *                    is put into the queue, and both get FLAG_PIPELINED. Otherwise it
 *                    becomes current: REQUEST, with a sampled context the next claim;
 *                    incomplete (deep): HEAD
 * more client data   HEAD: continue_head(), a gap ends the search. Inside the latest
 * (on_client_data)   request by its framing, or of unknown framing: added to it. After its
 *                    end: of no request. Emitted: COUNTER_LATE
 * response head      HEAD: the search ends first, as above. After the end of the current
 * (find_response,    response: dequeue() emits it and makes the next request current.
 *  begin_response)   Does not acknowledge the first byte of the current request: of no
 *                    request. Acknowledges bytes after it that did not pass here: emit with
 *                    FLAG_PACKETS_MISSING, IDLE. 1xx (not 101): FLAG_INTERIM, nothing else.
 *                    101, 2xx to CONNECT: FLAG_UPGRADED, what follows is of no request.
 *                    Else RESPONSE; a request that is not recorded: IDLE, if none waits
 * more server data   RESPONSE: added to the response, up to its end by its framing; the
 * (on_server_data)   exchange is complete, but not emitted yet: transmit times, reads and
 *                    acknowledgements follow. Emitted: COUNTER_LATE
 * SYN (on_syn)       a copy of the connection's own: nothing. While an exchange goes on:
 *                    ignored, and the first request after the handshake ends it (admit()).
 *                    Else the connection is deleted; a new one is stored to keep the SYN's
 *                    TCP option, or for a request on the SYN
 * FIN (has_ended)    both have passed, and all bytes before them or a complete exchange:
 *                    emit what is open (unfinished: FLAG_INCOMPLETE), delete
 * RST                the same, with FLAG_RESET if the exchange is not complete. Not with a
 *                    number other than the one that its receiver expects
 * far-off number     ignored
 * sweep              complete and idle for response_idle: emit. End not known, for
 *                    unframed_idle: emit with FLAG_END_GUESSED. Else idle for request_idle:
 *                    emit with FLAG_IDLE. Above the budget: the idlest with FLAG_EVICTED.
 *                    The phase stays; after UNTRACK_AFTER times response_idle the
 *                    connection is no longer tracked, after forget_idle deleted. Open for long: a
 * copy with FLAG_STILL_OPEN
 */
#ifndef LAYERTRACE_CONNECTION_H
#define LAYERTRACE_CONNECTION_H

#include "exchange.h"

/* Ring fill in bytes at which user space is woken. */
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
	__u32 gap_end; /* of the bytes in [gap_start, gap_end) some are missing so far */
	__u32 missing; /* that many */
	__u32 fin_seq; /* of the FIN */
	__u32 acked;   /* the peer's latest acknowledgement that came with data */
	__u16 valid;   /* next is set */
	__u16 fin;
};

/* How far a message is read, and so how its end is known: RFC 9112, section 6. */
enum message_kind {
	MESSAGE_NONE,	 /* no message has begun */
	MESSAGE_STATUS,	 /* the status line continues in the next segment */
	MESSAGE_INTERIM, /* in the head of an interim response */
	MESSAGE_HEAD,	 /* in the head */
	MESSAGE_CHUNKS,	 /* in a chunked body */
	MESSAGE_TAIL,	 /* the same, but chunks were lost: the end is guessed */
	MESSAGE_ENDS,	 /* the end is known */
	MESSAGE_CLOSE,	 /* ends with the connection */
	MESSAGE_UNKNOWN, /* its head could not be read */
	MESSAGE_TUNNEL,	 /* no message: the connection has become a tunnel */
};

/* Whether a message without framing headers has a body. */
enum body {
	BODY_TO_CLOSE, /* up to the end of the connection: a response */
	BODY_FRAMED,   /* none: a request */
	BODY_NONE,     /* none, whatever the headers say */
};

/* Where a scan is in a line of a head. */
enum line {
	LINE_START,
	LINE_CR, /* after CR at the start */
	LINE_MIDDLE,
};

/* Framing headers found in a head. */
enum framing_header {
	FRAMING_LENGTH = 1,
	FRAMING_CHUNKED = 2,
	FRAMING_UNCLEAR = 4, /* malformed, contradicting, or too long where it is cut */
};

enum chunk_state {
	CHUNK_START, /* of a size line, before its first digit */
	CHUNK_DIGITS,
	CHUNK_EXTENSION, /* the rest of a size line */
	CHUNK_DATA,
	CHUNK_TRAILER, /* at the start of a line */
	CHUNK_TRAILER_LINE,
	CHUNK_END, /* the body is complete */
	CHUNK_LOST,
};

/* Of a framing header that is cut by segments, so many bytes are kept. */
#define CUT_LINE_MAX 40

/* The message that passes in one direction. */
struct message {
	__u64 length; /* Content-Length; of a chunk; with MESSAGE_ENDS what is left after at */
	__u32 start;  /* sequence number of its first byte */
	__u32 at;     /* of the next byte to read; with MESSAGE_ENDS, of its end */
	__u8 kind;    /* enum message_kind */
	__u8 body;
	__u8 line;
	__u8 headers; /* set of enum framing_header */
	__u8 chunk;   /* enum chunk_state */
	__u8 tail;    /* with MESSAGE_TAIL: the last chunk seems to end at at */
	__u8 cut_len;
	__u8 pad;
	__u8 cut_line[CUT_LINE_MAX]; /* start of the current line, from an earlier segment */
};

/* Requests whose response has no body (RFC 9112, section 6.3). */
enum bodiless {
	BODILESS_NONE,
	BODILESS_HEAD,
	BODILESS_CONNECT, /* if the status is 2xx */
};

/* Whether a connection is known to exist. Anyone who reaches an interface can send a
 * segment that looks like a request.
 */
enum proof {
	PROOF_NONE,    /* no request has begun */
	PROOF_AWAITED, /* the server has not acknowledged the request so far */
	PROOF_SEEN,    /* it has, or its handshake passed, or this is one of its sockets */
};

#define STATUS_LINE 12 /* "HTTP/1.1 200" */

/* What each segment needs comes first, beside the key in the table; then what a record has; what
 * few need last. A segment touches fewer cache lines so.
 */
struct connection {
	/* exchange number << 1 | emitted */
	__u64 claim;
	__u64 last_ns;
	struct stream client;
	struct stream server;
	__u8 client_is_a;
	__u8 phase;
	__u8 recorded;	     /* 0: the current request is not recorded */
	__u8 bodiless;	     /* enum bodiless */
	__u8 queued;	     /* requests put into the queue; modulo 256, like answered */
	__u8 answered;	     /* requests taken from it */
	__u8 overflow;	     /* requests after those, not in the queue: it is full */
	__u8 strange;	     /* the server sent bytes that belong to no request */
	__u8 reports;	     /* set of enum report, sent while it was open */
	__u8 syn_option_len; /* length of the connection ID in the SYN's option */
	__u8 unsure;	     /* requests may have passed unseen since the last turn */
	__u8 status_len;
	__u32 tracked;	     /* counted in tracked_connections */
	__u32 client_start;  /* sequence number of the first byte that the client sent */
	__u32 request_start; /* of the first byte of the request in x */
	__u32 proof;	     /* enum proof */
	__u8 left_unread;    /* socket of the client: its latest read left data of the response */
	__u8 pad[3];
	/* Socket: since when data waits to be sent, as far as known: the latest
	 * acknowledgement, or the first write after it. 0: none waited then.
	 */
	__u64 waits_since;
	struct message request;	 /* the latest one */
	struct message response; /* to the request in x */
	struct exchange_record x;
	struct stream driver_client; /* bytes handed to the interface's driver */
	struct stream driver_server;
	__u64 status_ns;	       /* time of the first byte in status_line */
	__u8 status_line[STATUS_LINE]; /* while it is cut by segments */
	__u8 syn_connection_id[8];
	__u32 pad2;
};

enum report {
	REPORT_HELD = 1, /* user space keeps the trace */
	REPORT_OPEN = 2, /* and shows the exchange */
};

/* Requests sent before the response to the one before, at most so many for each
 * connection.
 */
#define QUEUE_MAX 16

struct queue_key {
	struct connection_key connection;
	__u32 number;
	__u32 pad;
};

struct queued_request {
	struct exchange_record x;
	__u32 start; /* sequence number of its first byte */
	__u8 recorded;
	__u8 bodiless;
	__u8 reports;
	__u8 proven; /* its connection was, when the request came */
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
	__u32 unproven; /* connections with PROOF_AWAITED; as count */
	__u32 next;	/* how many have had a place in unproven_connections */
	__u8 pad[CACHE_LINE - 3 * sizeof(__u32)];
	__u32 count[1 << TRACKED_BITS];
};

/* Low bits of a count. The bits above count its changes, so that the sweep, which counts
 * again, knows of changes meanwhile.
 */
#define COUNT_BITS 20
#define COUNT_MASK ((1U << COUNT_BITS) - 1)

static __always_inline void change_count(__u32 *count, int by)
{
	__sync_fetch_and_add(count, (1U << COUNT_BITS) + by);
}

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct connection_key);
	__type(value, struct connection);
} connections SEC(".maps");

/* Number of places in unproven_connections. */
const volatile __u32 unproven_max = 16384;

/* Connections without proof, at most a share of the table: each takes the place of the
 * oldest one, which is forgotten if it has no proof yet.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct connection_key);
} unproven_connections SEC(".maps");

#define HANDSHAKE_BITS 11

/* The latest handshakes by a hash of the key: the numbers of the client's first byte (high
 * half) and of the server's, from a SYN-ACK. Who did not receive that does not know both.
 */
struct handshakes {
	__u64 of[1 << HANDSHAKE_BITS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct handshakes);
} latest_handshakes SEC(".maps");

/* Memory is allocated only for requests that wait: few clients pipeline. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct queue_key);
	__type(value, struct queued_request);
} queued_requests SEC(".maps");

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

/* Hash of a point and the sums of both addresses (in 8-byte words) and both ports, which
 * are the same in both directions.
 */
static __always_inline __u64 hash_of_sums(__u64 addrs, __u32 ports, __u32 point)
{
	return (addrs * HASH_FACTOR + ports + ((__u64)point << 32)) * HASH_FACTOR;
}

static __always_inline __u64 hash_of_key(const struct connection_key *k, __u32 point)
{
	return hash_of_sums(k->addr_a[0] + k->addr_a[1] + k->addr_b[0] + k->addr_b[1],
			    k->port_a + k->port_b, point);
}

static __always_inline __u32 tracked_slot(__u64 hash)
{
	return hash >> (64 - TRACKED_BITS) & ((1 << TRACKED_BITS) - 1);
}

/* Never NULL; the check satisfies the verifier. */
static __always_inline __u32 *tracked_counter_by_sums(__u64 addrs, __u32 ports, __u32 point)
{
	struct tracked *f = bpf_map_lookup_elem(&tracked_connections, &(__u32){0});

	return f ? &f->count[tracked_slot(hash_of_sums(addrs, ports, point))] : NULL;
}

static __always_inline __u32 *tracked_counter(const struct connection_key *k, __u32 point)
{
	struct tracked *f = bpf_map_lookup_elem(&tracked_connections, &(__u32){0});

	return f ? &f->count[tracked_slot(hash_of_key(k, point))] : NULL;
}

/* The point of a key of the connections map, as it counts for the hash. */
static __always_inline __u32 point_of(const struct connection_key *k)
{
	return k->ifindex & SOCKET_POINT ? SOCKET_POINT : k->ifindex;
}

/* Same for a key of the connections map. */
static __always_inline __u32 *tracked_counter_at(const struct connection_key *k)
{
	return tracked_counter(k, point_of(k));
}

static __always_inline bool is_tracked(const __u32 *counter)
{
	return counter && *counter & COUNT_MASK;
}

/* Whether a bare acknowledgement may prove a connection. */
static __always_inline bool any_unproven(void)
{
	const struct tracked *f = bpf_map_lookup_elem(&tracked_connections, &(__u32){0});

	return f && f->unproven & COUNT_MASK;
}

/* Packets of both directions may call this at the same time. */
static __always_inline void set_tracked(struct connection *c, __u32 *counter, __u32 tracked)
{
	struct tracked *f = bpf_map_lookup_elem(&tracked_connections, &(__u32){0});

	if (__sync_lock_test_and_set(&c->tracked, tracked) == tracked)
		return;
	change_count(counter, tracked ? 1 : -1);
	if (f)
		__sync_fetch_and_add(&f->total, tracked ? 1 : -1);
}

/* Likewise. */
static __always_inline void set_proof(struct connection *c, __u32 proof)
{
	struct tracked *f = bpf_map_lookup_elem(&tracked_connections, &(__u32){0});
	__u32 was = __sync_lock_test_and_set(&c->proof, proof);

	if (f && (was == PROOF_AWAITED) != (proof == PROOF_AWAITED))
		change_count(&f->unproven, proof == PROOF_AWAITED ? 1 : -1);
}

static __always_inline bool is_proven(const struct connection *c)
{
	return c->proof == PROOF_SEEN;
}

static __always_inline bool is_open(const struct connection *c)
{
	return c->phase == PHASE_REQUEST || c->phase == PHASE_RESPONSE;
}

/* Requests in the queue. */
static __always_inline __u8 pending(const struct connection *c)
{
	return c->queued - c->answered;
}

/* Whether later segments may belong to a request seen before. */
static __always_inline bool expects_more(const struct connection *c)
{
	return c->phase != PHASE_IDLE || pending(c) || c->overflow;
}

/* Width of the band above ring_wakeup_fill, in bytes. */
#define WAKEUP_BAND (16 * sizeof(struct exchange_record))

/* Writes the first size bytes of a record into the ring, false: it is full. */
static __always_inline bool submit_bytes(const struct exchange_record *x, __u32 flags,
					 const __u32 size)
{
	__u64 wakeup = BPF_RB_NO_WAKEUP, filled;
	struct exchange_record *record;

	/* User space drains the ring at intervals. Wake it only as the fill passes that size,
	 * not for every record above: on a busy node a wakeup per record costs ten times as
	 * much as the record.
	 */
	filled = bpf_ringbuf_query(&exchanges, BPF_RB_AVAIL_DATA) - ring_wakeup_fill;
	if (filled < WAKEUP_BAND)
		wakeup = BPF_RB_FORCE_WAKEUP;
	record = bpf_ringbuf_reserve(&exchanges, size, 0);
	if (!record)
		return false;
	__builtin_memcpy(record, x, size); /* inline: starting the helper's string copy is slow */
	record->flags |= flags;
	bpf_ringbuf_submit(record, wakeup);
	return true;
}

/* By itself, as the verifier wants one size for each reservation. */
VERIFIED_ALONE int submit_of_socket(const struct exchange_record *x, __u32 flags)
{
	return x && submit_bytes(x, flags, sizeof(*x));
}

/* Writes a record into the ring, without what it does not have at an interface. */
static __always_inline bool submit(const struct exchange_record *x, __u32 flags)
{
	bool written = x->is_socket ? submit_of_socket(x, flags) :
				      submit_bytes(x, flags, INTERFACE_RECORD_SIZE);

	if (!written)
		count_rare(COUNTER_RING_FULL);
	return written;
}

/* Emits the open exchange of c unless that was done already. seen is c->claim at the
 * time of the caller's decision.
 */
VERIFIED_ALONE int emit(struct connection *c, __u64 seen, __u32 flags)
{
	if (!c || (seen & 1) || __sync_val_compare_and_swap(&c->claim, seen, seen | 1) != seen)
		return 0;
	if (!is_proven(c)) {
		count_rare(COUNTER_UNPROVEN);
		return 0;
	}
	c->x.flags |= flags;
	c->x.response_seq = c->response.start;
	if (!c->x.response_first)
		c->x.flags |= FLAG_NO_RESPONSE;
	if (submit(&c->x, 0))
		count(COUNTER_EMITTED);
	if (flags & FLAG_EVICTED)
		count_rare(COUNTER_EVICTED);
	if (c->x.flags & FLAG_INCOMPLETE)
		count_rare(COUNTER_INCOMPLETE);
	return 0;
}

/* Emits a request that waits in the queue, unless that was done already. proven: its
 * connection is.
 */
static __always_inline void emit_queued(const struct queue_key *key, __u32 flags, bool proven)
{
	struct queued_request *q = bpf_map_lookup_elem(&queued_requests, key);
	struct exchange_record *record;

	if (!q)
		return;
	if (!q->recorded || !proven) {
		bool counts = q->recorded;

		if (!bpf_map_delete_elem(&queued_requests, key) && counts)
			count_rare(COUNTER_UNPROVEN);
		return;
	}
	record = bpf_ringbuf_reserve(&exchanges, sizeof(*record), 0);
	if (record)
		*record = q->x;
	/* Only one succeeds, of the programs and the sweep. */
	if (bpf_map_delete_elem(&queued_requests, key)) {
		if (record)
			bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);
		return;
	}
	if (!record) {
		count_rare(COUNTER_RING_FULL);
		return;
	}
	record->flags |= flags | FLAG_NO_RESPONSE | FLAG_PIPELINED;
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	count(COUNTER_EMITTED);
}

/* Reports an exchange that goes on: a copy of what is known. */
static __always_inline void report_open(const struct exchange_record *x)
{
	__u32 flags = FLAG_STILL_OPEN;

	if (!x->response_first)
		flags |= FLAG_NO_RESPONSE;
	if (submit(x, flags))
		count_rare(COUNTER_OPEN_REPORT);
}

/* Whether the message has passed to its end. */
static __always_inline bool is_whole(const struct message *m, const struct stream *st)
{
	if (m->kind == MESSAGE_ENDS)
		return !m->length && !before(st->next, m->at) &&
		       (!st->missing || !before(st->gap_start, m->at));
	return m->kind == MESSAGE_TAIL && m->tail && m->at == st->next && !st->missing;
}

/* Whether its framing says that more is to come. */
static __always_inline bool is_unfinished(const struct message *m, const struct stream *st)
{
	switch (m->kind) {
	case MESSAGE_STATUS:
	case MESSAGE_INTERIM:
	case MESSAGE_HEAD:
	case MESSAGE_CHUNKS:
		return true;
	case MESSAGE_ENDS:
		return !is_whole(m, st);
	}
	return false;
}

/* Both messages have passed. */
static __always_inline bool is_complete(const struct connection *c)
{
	return c->phase == PHASE_RESPONSE && is_whole(&c->response, &c->server) &&
	       (pending(c) || !is_unfinished(&c->request, &c->client));
}

/* Flags of a response whose end is not known from its framing. */
static __always_inline __u32 guessed(const struct connection *c)
{
	if (c->phase != PHASE_RESPONSE)
		return 0;
	switch (c->response.kind) {
	case MESSAGE_NONE:
	case MESSAGE_TAIL:
	case MESSAGE_CLOSE:
	case MESSAGE_UNKNOWN:
		return FLAG_END_GUESSED;
	}
	return 0;
}

/* Flags of an exchange whose connection ends. */
static __always_inline __u32 flags_at_end(const struct connection *c, __u32 reset)
{
	bool unfinished = c->phase == PHASE_RESPONSE && is_unfinished(&c->response, &c->server);
	__u32 flags = 0;

	if (c->phase == PHASE_RESPONSE && c->response.kind == MESSAGE_TAIL)
		flags = FLAG_END_GUESSED;
	if (!pending(c) && is_unfinished(&c->request, &c->client))
		unfinished = true;
	if (!is_complete(c))
		flags |= reset;
	/* Without a response it is clear anyway. */
	if (unfinished && c->phase == PHASE_RESPONSE)
		flags |= FLAG_INCOMPLETE;
	return flags;
}

enum arrival {
	ARRIVAL_IN_ORDER,
	ARRIVAL_AHEAD,	/* bytes before it are missing so far */
	ARRIVAL_FILLED, /* those bytes */
	ARRIVAL_AGAIN,	/* a retransmission, possibly with new bytes at its end */
};

/* Restarts at next: earlier bytes are not missing. */
static __always_inline void resync_at(struct stream *st, __u32 next)
{
	st->valid = 1;
	st->next = next;
	st->missing = 0;
}

static __always_inline bool is_in_gap(const struct stream *st, __u32 seq)
{
	return st->missing && !before(seq, st->gap_start) && before(seq, st->gap_end);
}

/* The length of the first part of [seq, seq + len) that is all new, all missing so far,
 * or all seen before.
 */
static __always_inline __u32 uniform_part(const struct stream *st, __u32 seq, __u32 len)
{
	__u32 limit = st->next;

	if (!st->valid || !before(seq, limit))
		return len;
	if (st->missing && before(seq, st->gap_end))
		limit = before(seq, st->gap_start) ? st->gap_start : st->gap_end;
	return limit - seq < len ? limit - seq : len;
}

static __always_inline bool is_seen(const struct stream *st, __u32 seq)
{
	return unlikely(st->valid && before(seq, st->next)) && !is_in_gap(st, seq);
}

/* Windows above this are not in use. */
#define WINDOW_LIMIT (64U << 20)

/* Whether a receiver may take a segment with this number: RFC 9293, section 3.10.7.4. */
static __always_inline bool is_near(const struct stream *st, __u32 seq)
{
	return !st->valid || seq - st->next + WINDOW_LIMIT <= 2 * WINDOW_LIMIT;
}

/* Accounts for a segment; fresh is the number of bytes not seen before. Of several gaps
 * the bytes between them count as one, but not as missing.
 */
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
		if (!st->missing)
			st->gap_start = st->next;
		st->missing += seq - st->next;
		st->gap_end = seq;
		st->next = end;
		return ARRIVAL_AHEAD;
	}
	if (is_in_gap(st, seq) && !before(st->gap_end, end)) {
		st->missing -= len < st->missing ? len : st->missing;
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

/* Whether the peer has acknowledged bytes that are missing here: they will not come any
 * more.
 */
static __always_inline bool misses_acked(struct stream *st, __u32 ack)
{
	if (!st->missing || before(ack, st->gap_end))
		return false;
	st->missing = 0;
	return true;
}

/* The FIN and all bytes before it have passed. */
static __always_inline bool is_closed(const struct stream *st)
{
	return st->fin && (!st->valid || (!st->missing && !before(st->next, st->fin_seq)));
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
	count_rare(COUNTER_DROPPED);
}

#endif
