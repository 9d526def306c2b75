/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The headers of TLS records (RFC 8446, section 5.1), which are never encrypted.
 *
 * walk_records     walk_record -> read_partial_header, apply_header -> on_application_record ->
 *                    finish_turn
 */
#ifndef LAYERTRACE_TLS_H
#define LAYERTRACE_TLS_H

#include "turn.h"

#define RECORD_HEADER_LEN 5
#define CONTENT_CHANGE_CIPHER_SPEC 20
#define CONTENT_APPLICATION_DATA 23
#define CONTENT_HEARTBEAT 24

/* RFC 5246, section 6.2.3: 2^14 + 2048. TLS 1.3 allows 2^14 + 256. */
#define RECORD_LEN_MAX (16384 + 2048)

/* Lengths of an encrypted alert and a KeyUpdate in TLS 1.3. Application data of that length
 * never begins an HTTP message.
 */
#define ALERT_LEN 19
#define KEY_UPDATE_LEN 22

/* Shortest record of application data: the tag alone (ChaCha20 in TLS 1.2). */
#define APPLICATION_DATA_MIN 16

/* Records in one segment, which offloading may have merged from 45 of the wire. */
#define RECORDS_MAX 64

/* A connection of which so many segments in a row could not be read is left alone. */
#define LOST_MAX 256

/* Windows above this are not in use: a segment further away is of another connection. */
#define CONNECTION_DISTANCE (64U << 20)

/* The first 8 bytes of a payload, in the order of a little-endian machine. */
static __always_inline bool is_client_hello(__u64 head)
{
	/* type handshake, version 3.x, type of the message ClientHello */
	return (head & 0xff000000ffff) == 0x010000000316;
}

static __always_inline bool is_plausible(__u8 type, __u8 major, __u8 minor, __u32 len)
{
	return type >= CONTENT_CHANGE_CIPHER_SPEC && type <= CONTENT_HEARTBEAT && major == 3 &&
	       minor <= 4 && len && len <= RECORD_LEN_MAX;
}

static __always_inline bool is_application_data(__u64 head)
{
	__u32 len = (head >> 24 & 0xff) << 8 | (head >> 32 & 0xff);

	return (head & 0xffffff) == 0x030317 && len >= APPLICATION_DATA_MIN &&
	       len <= RECORD_LEN_MAX;
}

static __always_inline bool is_record_header(__u64 head)
{
	return is_plausible(head, head >> 8, head >> 16,
			    (head >> 24 & 0xff) << 8 | (head >> 32 & 0xff));
}

/* Whether a payload may begin a connection that is followed. */
static __always_inline bool begins_tls(__u64 head)
{
	return is_client_hello(head) || is_application_data(head);
}

static __always_inline struct turn_message *message_of(struct connection *c, bool from_client)
{
	return from_client ? &c->turn.request : &c->turn.response;
}

static __always_inline struct stream *stream_of(struct connection *c, bool from_client)
{
	return from_client ? &c->client : &c->server;
}

/* The next header is somewhere in bytes that were not read. */
static COLD int lose(struct connection *c, struct stream *st)
{
	st->state = STREAM_LOST;
	st->partial_len = 0;
	st->in_message = 0;
	c->turn.flags |= TURN_DESYNCHRONIZED;
	count(ENCRYPTED_COUNTER_DESYNCHRONIZED);
	return 0;
}

static __always_inline void add_record(struct turn_message *m, __u32 len)
{
	m->records++;
	m->record_bytes += len;
	if (len == ALERT_LEN)
		m->alerts++;
	else if (len == KEY_UPDATE_LEN)
		m->key_updates++;
}

static __always_inline void add_leading(struct turn_message *m, __u32 len, __u64 time)
{
	if (m->leading[LEADING_MAX - 1])
		return;
	for (int i = 0; i < LEADING_MAX; i++) {
		if (m->leading[i])
			continue;
		m->leading[i] = len;
		m->leading_delay[i] = delay(m->first, time);
		return;
	}
}

/* In TLS 1.3 the handshake is encrypted too, and looks like application data: what the
 * server sends before the client does, and the client's first such records, which it sends
 * at once: up to the first that ends with its segment.
 */
static __always_inline bool is_handshake(struct connection *c, bool from_client)
{
	if (!(c->role & ROLE_HELLO) || c->role & ROLE_FINISHED)
		return false;
	if (!from_client) {
		c->role |= ROLE_TLS13;
		return true;
	}
	if (c->role & ROLE_TLS13 || c->server.state != STREAM_SYNCED) {
		c->in_flight = 1;
		return true;
	}
	c->role |= ROLE_FINISHED | ROLE_TLS12;
	c->turn.flags |= TURN_TLS12;
	return false;
}

/* A record of application data begins. time: of its first byte. Returns what it is to its
 * message.
 */
static __always_inline enum in_message on_application_record(struct connection *c, bool from_client,
							     __u32 len, __u64 time)
{
	struct turn *t = &c->turn;
	struct turn_message *m = message_of(c, from_client);
	struct stream *st = stream_of(c, from_client);
	bool small = len == ALERT_LEN || len == KEY_UPDATE_LEN;

	c->role |= from_client ? ROLE_CLIENT_RECORDS : ROLE_SERVER_RECORDS;
	if (is_handshake(c, from_client))
		return NOT_IN_MESSAGE;
	if (from_client && t->response.first && !small)
		finish_turn(c);
	/* Tickets before the first request, or a server that speaks first. */
	if (!from_client && !t->request.first && !(t->flags & TURN_MIDDLE))
		return NOT_IN_MESSAGE;
	add_record(m, len);
	/* It begins nothing. */
	if (small && !m->first)
		return NOT_IN_MESSAGE;
	st->message_end = st->header_at;
	if (!m->first) {
		m->first = time;
		st->start = st->header_at - len - RECORD_HEADER_LEN;
	}
	add_leading(m, len, time);
	c->has_data = 1;
	c->has_large |= !small;
	return small ? SMALL_IN_MESSAGE : LARGE_IN_MESSAGE;
}

/* Reads on in a header that began in an earlier segment, or that ends in a later one.
 * Returns whether it is complete.
 */
static COLD int read_partial_header(struct __sk_buff *skb, struct connection *c, struct stream *st,
				    __u32 at, __u32 end)
{
	if (!st->partial_len)
		st->partial_time = c->now;
	for (int i = 0; i < RECORD_HEADER_LEN; i++) {
		__u32 len = st->partial_len;
		__u8 byte = 0;

		if (len >= RECORD_HEADER_LEN || at >= end)
			break;
		if (bpf_skb_load_bytes(skb, at, &byte, sizeof(byte)))
			break;
		st->partial[len & 7] = byte;
		st->partial_len = len + 1;
		at++;
	}
	return st->partial_len >= RECORD_HEADER_LEN;
}

/* Applies a record header, whose first byte passed at a time. Returns 0 if it is none. */
static __always_inline int apply_header(struct connection *c, struct stream *st, __u32 from_client,
					const __u8 *header, __u64 time)
{
	__u32 len = header[3] << 8 | header[4];

	if (!is_plausible(header[0], header[1], header[2], len)) {
		lose(c, st);
		return 0;
	}
	st->header_at += RECORD_HEADER_LEN + len;
	st->in_message = NOT_IN_MESSAGE;
	if (header[0] == CONTENT_APPLICATION_DATA)
		st->in_message = on_application_record(c, from_client, len, time);
	return 1;
}

/* Reads the record header at offset at of a packet whose payload ends at end. Returns 0 if
 * there is none to read after it.
 */
VERIFIED_ALONE int walk_record(struct __sk_buff *skb, struct connection *c, __u32 at, __u32 end,
			       __u32 from_client)
{
	struct stream *st;
	__u8 header[8] = {};
	__u64 time;

	if (!skb || !c)
		return 0;
	st = stream_of(c, from_client);
	time = c->now;
	if (st->partial_len || at + RECORD_HEADER_LEN > end) {
		if (!read_partial_header(skb, c, st, at, end))
			return 0;
		__builtin_memcpy(header, st->partial, sizeof(header));
		time = st->partial_time;
		st->partial_len = 0;
	} else if (bpf_skb_load_bytes(skb, at, header, RECORD_HEADER_LEN)) {
		lose(c, st);
		return 0;
	}
	return apply_header(c, st, from_client, header, time);
}

/* Reads the headers in a segment of which len bytes, from seq on, are at offset off. */
static __always_inline void walk_records(struct __sk_buff *skb, struct connection *c,
					 struct stream *st, __u32 seq, __u32 off, __u32 len)
{
	__u32 end = seq + len;

	for (int i = 0; i < RECORDS_MAX; i++) {
		__u32 next = st->header_at + st->partial_len;

		if (!before(next, end) ||
		    !walk_record(skb, c, off + (next - seq), off + len, c->from_client))
			break;
	}
	if (st->state != STREAM_LOST && !st->partial_len && before(st->header_at, end)) {
		count(ENCRYPTED_COUNTER_RECORDS_BEYOND);
		lose(c, st);
	}
}

/* Segments with application data have passed. */
static __always_inline void account(struct connection *c, bool from_client, __u32 len,
				    __u32 packets)
{
	struct turn_message *m = message_of(c, from_client);

	if (!m->first)
		m->first = c->now;
	if (c->has_large)
		m->small_delay = 0;
	else
		m->small_delay = add_delay(m->small_delay, delay(m->last, c->now));
	m->last = c->now;
	m->bytes += len;
	m->packets += packets;
}

#endif
