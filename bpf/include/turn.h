/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Turns of encrypted connections: the state of a connection at a capture point, the ring of
 * finished turns that user space maps, and the table of the points that see a connection.
 *
 * A turn is what the client sends, then what the server sends, by records of application
 * data (TLS content type 23). It usually is an exchange. The record that begins the next one
 * finishes it: it moves from the connection to the ring.
 */
#ifndef LAYERTRACE_TURN_H
#define LAYERTRACE_TURN_H

#include "hooks.h"
#include "ip.h"
#include "waits.h"

/* Metric names and help texts: agent/internal/probe/encrypted.go. */
enum encrypted_counter {
	ENCRYPTED_COUNTER_FOLLOWED,
	ENCRYPTED_COUNTER_FROM_MIDDLE,
	ENCRYPTED_COUNTER_ABANDONED,
	ENCRYPTED_COUNTER_TURNS,
	ENCRYPTED_COUNTER_UNCONFIRMED,
	ENCRYPTED_COUNTER_RECORDS_BEYOND,
	ENCRYPTED_COUNTER_DESYNCHRONIZED,
	ENCRYPTED_COUNTER_RESYNCHRONIZED,
	ENCRYPTED_COUNTER_RETRANSMITTED,
	ENCRYPTED_COUNTER_OUT_OF_ORDER,
	ENCRYPTED_COUNTER_HOLES,
	ENCRYPTED_COUNTER_WAITED,
	ENCRYPTED_COUNTER_CONTENDED,
	ENCRYPTED_COUNTER_MAP_FULL,
	ENCRYPTED_COUNTER_POINTS_FULL,
	ENCRYPTED_COUNTER_FRAGMENT,
	ENCRYPTED_COUNTER_TRUNCATED,
	ENCRYPTED_COUNTER_DROPPED,
	ENCRYPTED_COUNTERS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, ENCRYPTED_COUNTERS);
	__type(key, enum encrypted_counter);
	__type(value, __u64);
} encrypted_counters SEC(".maps");

static __always_inline void count(enum encrypted_counter which)
{
	increment(&encrypted_counters, which);
}

/* A test compares these with the flags of the Go package observe. */
enum turn_flag {
	TURN_OPEN = 1 << 0, /* set by user space */
	TURN_HANDSHAKE = 1 << 1,
	TURN_MIDDLE = 1 << 2,
	TURN_DESYNCHRONIZED = 1 << 3,
	TURN_OUT_OF_ORDER = 1 << 4,
	TURN_PACKETS_MISSING = 1 << 5,
	TURN_RESET = 1 << 6,
	TURN_CLOSED = 1 << 7,
	TURN_TLS12 = 1 << 8,
	/* Not of user space's flags, and of the message that leaves by the interface: */
	TURN_BYPASS = 1 << 16,	 /* packets bypass the qdisc while it is empty */
	TURN_TX_WHOLE = 1 << 17, /* the last byte was seen at the qdisc */
};

/* Unit of the times in a turn that are relative to others, in ns: 32 bits hold a minute. */
#define TURN_TIME_SHIFT 4

#define LEADING_MAX 4

/* One side's part of a turn: see TurnMessage in internal/observe/turn.go. Times are in ns of
 * CLOCK_MONOTONIC, relative ones in units of 1 << TURN_TIME_SHIFT ns.
 */
struct turn_message {
	__u64 first;
	__u64 last;
	__u64 bytes;
	__u64 record_bytes;
	__u32 records;
	__u32 packets;
	__u32 leading_delay[LEADING_MAX]; /* from first to the record's first byte */
	__u16 leading[LEADING_MAX];	  /* lengths, 0: none */
	/* At a socket, the application's first and last access less first and last; at an
	 * interface, the driver's. 0: unknown.
	 */
	__s32 far_first;
	__s32 far_last;
	__u32 small_delay; /* to last, from that of the last record that is not small */
	__u16 alerts;
	__u16 key_updates;
};

/* Unit of the waits in a turn, in ns: 32 bits hold an hour. */
#define TURN_WAIT_SHIFT 10

struct turn {
	__u64 sequence; /* place in the ring + 1; 0: not there, or being written */
	__u64 previous; /* sequence of the turn before on this connection, 0: none */
	__u32 number;
	enum turn_flag flags; /* set */
	__u32 retransmits;
	/* At a socket: when the peer's TCP had the message that it sent, from that one's last
	 * byte on, + 1. 0: unknown.
	 */
	__u32 acknowledged;
	/* At a socket, of the message that it sends, and the last one of that which arrives:
	 * see struct waits. In units of 1 << TURN_WAIT_SHIFT ns.
	 */
	__u32 waited;
	__u32 held;
	__u32 stalled;
	__u32 unread;
	/* Packets that the kernel dropped here, and why the last one. At a socket: how often it
	 * had announced all of its window when the application read.
	 */
	__u32 drop_reason;
	__u16 drops;
	__u16 zero_windows;
	struct turn_message request;
	struct turn_message response;
};

/* Size of the ring in turns, a power of two. */
const volatile __u64 turns_size = 1;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* turns_size */
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct turn);
} turns SEC(".maps");

/* Turns finished so far. */
__u64 turns_finished;

/* A connection at a capture point: its ends in a fixed order and the interface's index, or
 * for a socket, whose packets may have translated addresses, only its cookie in addr_a[0].
 */
struct connection_key {
	__u64 addr_a[2];
	__u64 addr_b[2];
	__u16 port_a;
	__u16 port_b;
	__u32 point; /* interface, or SOCKET_POINT */
};

#define SOCKET_POINT (1U << 31)

enum stream_state {
	STREAM_UNSEEN, /* no data yet */
	STREAM_SYNCED, /* header_at is known */
	STREAM_LOST,   /* a header was missed */
	/* The next header is in bytes that have not passed, but later ones have: see disorder.h.
	 */
	STREAM_WAITING,
};

/* What the record before the next header is to the message. */
enum in_message {
	NOT_IN_MESSAGE,
	SMALL_IN_MESSAGE, /* it has the length of an alert or a KeyUpdate */
	LARGE_IN_MESSAGE,
};

/* What one end sends. */
struct stream {
	__u32 next;	 /* sequence number after the last byte seen */
	__u32 header_at; /* of the next record header */
	/* Of the bytes in [gap_start, gap_end), which are inside of a record, so many have not
	 * passed.
	 */
	__u32 gap_start;
	__u32 gap_end;
	__u32 missing;
	__u32 start;	   /* of the message */
	__u32 message_end; /* of its last record so far */
	__u8 state;	   /* enum stream_state */
	__u8 in_message;   /* enum in_message */
	__u8 fin;
	__u8 partial_len; /* bytes of a header of which only the start has passed */
	__u8 partial[8];
	__u64 partial_time;
};

/* When the application wrote or read a message, or the driver got it. Each is set by one
 * program only, which takes no lock: a packet that interrupts it would be missed. At an
 * interface that has dropped a packet of the message, sent is also set by the one that sees it
 * again.
 */
struct far {
	__u64 first;
	__u64 last;
	__u32 turn;   /* number of the turn + 1 */
	__u32 next;   /* sequence number after the last byte */
	__u32 bypass; /* of the qdisc */
	/* At an interface: number + 1 of the last turn of which it dropped a packet that leaves. */
	__u32 dropped;
};

/* A write of an application: from seq until end. */
struct write {
	__u64 time;
	__u32 seq;
	__u32 end;
};

#define PROCESS_NAME_LEN 16

/* What only a socket knows; see Socket in internal/observe/observation.go. */
struct socket_facts {
	__u64 cgroup;
	__u32 netns;
	__u32 uid;
	__u32 tgid;
	__u32 srtt_us;
	__u8 process_name[PROCESS_NAME_LEN];
};

enum role {
	ROLE_CLIENT_KNOWN = 1 << 0, /* one end is taken as the client */
	ROLE_CLIENT_IS_A = 1 << 1,
	ROLE_HELLO = 1 << 2, /* that end sent the ClientHello */
	ROLE_TLS13 = 1 << 3, /* the server's handshake was encrypted */
	ROLE_TLS12 = 1 << 4,
	ROLE_FINISHED = 1 << 5,	      /* the handshake is over */
	ROLE_CLIENT_RECORDS = 1 << 6, /* records of application data were seen */
	ROLE_SERVER_RECORDS = 1 << 7,
	ROLE_OPENED = 1 << 8, /* syn is set */
};

struct connection {
	__u32 lock; /* number of the CPU that holds it + 1, 0: none */
	__u32 id;
	enum role role; /* set */
	__u64 now;	/* time of the segment that is being read */
	__u8 from_client;
	__u8 has_data;	/* it has application data */
	__u8 has_large; /* also records that are not small */
	__u8 in_flight; /* the client's last message of the handshake has begun */
	__u8 direction; /* of the client's segments at the interface or socket */
	__u16 lost;	/* segments in a row that could not be read */
	struct stream client;
	struct stream server;
	struct turn turn; /* sequence is 0 */
	__u64 ended;	  /* time, 0: it goes on */
	__u64 touched;
	__u32 syn;	 /* sequence number */
	__u32 read;	 /* at a socket: so far the application has read */
	struct far sent; /* of the message that leaves */
	struct far received;
	struct far acknowledged; /* of the message that leaves a socket: last */
	/* At a socket: the oldest write of which nothing was sent at the time of the last one,
	 * and that one.
	 */
	struct write unsent;
	struct write latest;
	/* Of the turn that is open, as is what the turn itself counts of this; see waits.h. */
	struct waits waits;
	__u64 waits_since; /* ns: since when data waits to be sent, 0: none */
	__u64 sent_last;   /* ns: when it last sent data */
	struct receive_queue queue;
	struct socket_facts socket;
};

/* Less than a kilobyte each: memory is taken when a connection is followed. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct connection_key);
	__type(value, struct connection);
} connections SEC(".maps");

/* A new connection. */
struct connection blank;

/* The last of their numbers. */
__u32 connection_ids;

/* Number of connections by hash of their keys: that of nearly all traffic that is not
 * encrypted finds 0 here, without a look-up of its key.
 */
#define FOLLOWED_BITS 14

__u32 followed[1 << FOLLOWED_BITS];

/* sum is that of all parts of the key, the same for both directions. */
static __always_inline __u32 *followed_at(__u64 sum)
{
	return &followed[sum * HASH_FACTOR >> (64 - FOLLOWED_BITS)];
}

static __always_inline __u64 sum_of(const struct connection_key *key)
{
	return key->addr_a[0] + key->addr_a[1] + key->addr_b[0] + key->addr_b[1] + key->port_a +
	       key->port_b + key->point;
}

/* The points that see a connection, by its ends: interfaces, or cookies of sockets with
 * IS_SOCKET. 0: free.
 */
#define POINTS_MAX 8
#define IS_SOCKET (1ULL << 63)

struct points {
	__u64 of[POINTS_MAX];
};

/* The point of the key is 0. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct connection_key);
	__type(value, struct points);
} points_of_ends SEC(".maps");

struct points no_points;

static __always_inline bool is_socket(const struct connection_key *key)
{
	return key->point == SOCKET_POINT;
}

static __always_inline __u64 point_of(const struct connection_key *key)
{
	return is_socket(key) ? key->addr_a[0] | IS_SOCKET : key->point;
}

static COLD int add_point(const struct connection_key *ends, __u64 point)
{
	struct points *p = bpf_map_lookup_elem(&points_of_ends, ends);

	if (!p) {
		bpf_map_update_elem(&points_of_ends, ends, &no_points, BPF_NOEXIST);
		p = bpf_map_lookup_elem(&points_of_ends, ends);
	}
	if (!p) {
		count(ENCRYPTED_COUNTER_MAP_FULL);
		return 0;
	}
	for (int i = 0; i < POINTS_MAX; i++) {
		if (p->of[i] == point)
			return 0;
		if (!p->of[i] && !__sync_val_compare_and_swap(&p->of[i], 0, point))
			return 0;
	}
	count(ENCRYPTED_COUNTER_POINTS_FULL);
	return 0;
}

/* from until to in the unit of a turn's relative times. */
static __always_inline __u32 delay(__u64 from, __u64 to)
{
	__u64 units = to > from ? (to - from) >> TURN_TIME_SHIFT : 0;

	return units > 0xffffffff ? 0xffffffff : units;
}

static __always_inline __u32 add_delay(__u32 a, __u32 b)
{
	return a + b < a ? 0xffffffff : a + b;
}

/* Whether what has been seen is TLS for sure: both ends have sent records, or the handshake
 * was seen.
 */
static __always_inline bool is_confirmed(const struct connection *c)
{
	const __u32 both = ROLE_CLIENT_RECORDS | ROLE_SERVER_RECORDS;

	return c->role & ROLE_HELLO || (c->role & both) == both;
}

/* The difference of a far time to a near one, if it is known and fits. It is rounded away from
 * 0: a byte is not read before it has passed, nor written afterwards.
 */
static __always_inline __s32 far_delay(__u64 far, __u64 near)
{
	const __u64 round = (1 << TURN_TIME_SHIFT) - 1;
	__s64 units = far < near ? -(__s64)((near - far + round) >> TURN_TIME_SHIFT) :
				   (far - near + round) >> TURN_TIME_SHIFT;

	if (!far || units != (__s32)units)
		return 0;
	return units ?: 1;
}

static __always_inline void set_far(struct connection *c, const struct far *far, bool of_request)
{
	struct turn *t = &c->turn;
	struct turn_message *m = of_request ? &t->request : &t->response;

	if (far->turn != t->number + 1 || !m->first)
		return;
	m->far_first = far_delay(far->first, m->first);
	m->far_last = far_delay(far->last, m->last);
}

static __always_inline __u32 wait_units(__u64 ns)
{
	__u64 units = ns >> TURN_WAIT_SHIFT;

	return units > 0xffffffff ? 0xffffffff : units;
}

/* Puts the waits into the turn. */
static __always_inline void set_waits(struct connection *c)
{
	c->turn.waited = wait_units(c->waits.waited);
	c->turn.held = wait_units(c->waits.held);
	c->turn.stalled = wait_units(c->waits.stalled);
	c->turn.unread = wait_units(c->waits.unread);
	__builtin_memset(&c->waits, 0, sizeof(c->waits));
}

/* Puts the far times into the turn. */
static COLD int set_far_times(struct connection *c)
{
	bool client_sends = c->direction == DIRECTION_EGRESS;
	struct stream *st = client_sends ? &c->client : &c->server;

	set_far(c, &c->sent, client_sends);
	set_far(c, &c->received, !client_sends);
	if (c->sent.turn == c->turn.number + 1) {
		c->turn.flags |= c->sent.bypass ? TURN_BYPASS : 0;
		c->turn.flags |= !before(c->sent.next, st->message_end) ? TURN_TX_WHOLE : 0;
	}
	if (c->acknowledged.turn == c->turn.number + 1 && c->acknowledged.next == st->message_end)
		c->turn.acknowledged =
			delay((client_sends ? &c->turn.request : &c->turn.response)->last,
			      c->acknowledged.last) +
			1;
	return 0;
}

static __always_inline void keep_turn(struct connection *c)
{
	__u64 place = __sync_fetch_and_add(&turns_finished, 1);
	__u32 slot = place & (turns_size - 1);
	struct turn *to = bpf_map_lookup_elem(&turns, &slot);
	__u64 *words = (__u64 *)to, *from = (__u64 *)&c->turn;

	if (!to)
		return;
	*(volatile __u64 *)&to->sequence = 0;
	asm volatile("" ::: "memory");
	for (int i = 1; i < sizeof(*to) / 8; i++)
		words[i] = from[i];
	asm volatile("" ::: "memory");
	*(volatile __u64 *)&to->sequence = place + 1;
	c->turn.previous = place + 1;
	count(ENCRYPTED_COUNTER_TURNS);
}

/* Bytes of the message that have not passed. What is missing after its end is of the next. */
static __always_inline void note_missing(struct connection *c, struct stream *st)
{
	if (!st->missing || !before(st->gap_start, st->message_end))
		return;
	c->turn.flags |= TURN_PACKETS_MISSING;
	st->missing = 0;
}

/* Finishes the open turn, if it has anything, and begins the next. */
static COLD int finish_turn(struct connection *c)
{
	struct turn *t = &c->turn;

	set_waits(c);
	/* What it waits for does not come any more, and is not of the next turn. */
	if (c->server.state == STREAM_WAITING) {
		c->server.state = STREAM_LOST;
		c->server.in_message = 0;
		c->server.partial_len = 0;
		note_missing(c, &c->server);
		c->server.missing = 0;
		t->flags |= TURN_DESYNCHRONIZED;
		count(ENCRYPTED_COUNTER_DESYNCHRONIZED);
	}
	if (t->request.records || t->response.records || t->request.first || t->response.first) {
		note_missing(c, &c->client);
		note_missing(c, &c->server);
		set_far_times(c);
		if (is_confirmed(c))
			keep_turn(c);
		else
			count(ENCRYPTED_COUNTER_UNCONFIRMED);
		t->number++;
	}
	t->flags = c->role & ROLE_TLS12 ? TURN_TLS12 : 0;
	t->retransmits = 0;
	t->acknowledged = 0;
	t->drop_reason = 0;
	t->drops = 0;
	t->zero_windows = 0;
	__builtin_memset(&t->request, 0, sizeof(t->request));
	__builtin_memset(&t->response, 0, sizeof(t->response));
	return 0;
}

/* Another connection has the same ends. Earlier turns can still be read. */
static COLD int start_over(struct connection *c)
{
	finish_turn(c);
	c->turn.number++; /* no neighbour of the last one */
	c->turn.flags = 0;
	c->role &= ROLE_CLIENT_IS_A; /* of those turns */
	c->in_flight = 0;
	c->ended = 0;
	c->lost = 0;
	c->waits_since = 0;
	c->queue.full_since = 0;
	__builtin_memset(&c->client, 0, sizeof(c->client));
	__builtin_memset(&c->server, 0, sizeof(c->server));
	return 0;
}

#endif
