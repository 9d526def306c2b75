/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Segments that pass after a lost or late one: while the record header in that one is
 * unknown, the headers in later segments are searched for, and kept until it comes.
 */
#ifndef LAYERTRACE_DISORDER_H
#define LAYERTRACE_DISORDER_H

#include "tls.h"

#define FOUND_MAX 16 /* a power of two */
#define CHUNK_LEN 256
/* Of a segment: 16 KiB, the longest record. */
#define CHUNKS_MAX 64

/* A record header in a segment that passed too early. */
struct found {
	__u64 time;
	__u32 seq;
	__u8 header[8];
	__u32 pad;
};

struct disorder {
	__u64 since;
	__u32 count;
	__u32 position; /* in the segment that is being searched */
	__u32 bytes;	/* of the segments that passed meanwhile */
	__u32 packets;
	struct found found[FOUND_MAX];
	__u8 chunk[CHUNK_LEN + 8];
};

/* By id of the connection << 1 | from_client. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct disorder);
} disorders SEC(".maps");

struct disorder no_disorder;

static __always_inline __u64 disorder_key(const struct connection *c)
{
	return (__u64)c->id << 1 | c->from_client;
}

/* The bytes from st->next until seq have not passed. */
static __always_inline void note_gap(struct stream *st, __u32 seq)
{
	if (!st->missing)
		st->gap_start = st->next;
	st->gap_end = seq;
	st->missing += seq - st->next;
}

/* Whether a segment before st->next has bytes that were missing, as far as is known. */
static __always_inline bool fills_gap(struct connection *c, struct stream *st, __u32 seq, __u32 end)
{
	__u32 fill = end - seq;

	if (!st->missing || !before(seq, st->gap_end) || !before(st->gap_start, end)) {
		c->turn.retransmits++;
		count(ENCRYPTED_COUNTER_RETRANSMITTED);
		return false;
	}
	st->missing -= fill < st->missing ? fill : st->missing;
	if (!before(st->gap_start, seq))
		st->gap_start = end;
	c->turn.flags |= TURN_OUT_OF_ORDER;
	count(ENCRYPTED_COUNTER_OUT_OF_ORDER);
	return true;
}

static __always_inline void begin_waiting(struct connection *c, struct stream *st)
{
	__u64 key = disorder_key(c);
	struct disorder *d;

	bpf_map_update_elem(&disorders, &key, &no_disorder, BPF_ANY);
	d = bpf_map_lookup_elem(&disorders, &key);
	if (!d) {
		lose(c, st);
		return;
	}
	d->since = c->now;
	st->state = STREAM_WAITING;
	count(ENCRYPTED_COUNTER_WAITED);
}

/* Searches a chunk of a segment for the header of a record with application data. Returns
 * its position + 1, or 0.
 */
VERIFIED_ALONE int search_chunk(struct disorder *d)
{
	if (!d)
		return 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < CHUNK_LEN; i++) {
		__u64 head = *(const __u64 *)(d->chunk + i);

		if ((head & 0xff) == CONTENT_APPLICATION_DATA && is_application_data(head))
			return i + 1;
	}
	return 0;
}

/* Sets d->position to the first header at or after it. */
VERIFIED_ALONE int find_header(struct __sk_buff *skb, struct disorder *d, __u32 off, __u32 len)
{
	if (!skb || !d)
		return 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < CHUNKS_MAX; i++) {
		__u32 left = len - d->position, size = CHUNK_LEN + 8;
		int found;

		if (d->position >= len || left < RECORD_HEADER_LEN)
			return 0;
		if (left < size) {
			__builtin_memset(d->chunk, 0, sizeof(d->chunk));
			size = left;
		}
		if (size > CHUNK_LEN + 8 || size < 1)
			return 0;
		if (bpf_skb_load_bytes(skb, off + d->position, d->chunk, size))
			return 0;
		found = search_chunk(d);
		if (found) {
			d->position += found - 1;
			return 1;
		}
		d->position += CHUNK_LEN;
	}
	return 0;
}

/* Keeps the headers in a segment that passed too early. */
VERIFIED_ALONE int keep_headers(struct __sk_buff *skb, struct disorder *d, __u32 seq, __u32 off,
				__u32 len)
{
	__u64 now = bpf_ktime_get_ns();

	if (!skb || !d)
		return 0;
	d->position = 0;
	if (!find_header(skb, d, off, len))
		return 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < FOUND_MAX; i++) {
		__u32 position = d->position, n = d->count;
		struct found *f = &d->found[n & (FOUND_MAX - 1)];

		if (n >= FOUND_MAX || position + RECORD_HEADER_LEN > len)
			break;
		if (bpf_skb_load_bytes(skb, off + position, f->header, RECORD_HEADER_LEN))
			break;
		f->time = now;
		f->seq = seq + position;
		d->count = n + 1;
		d->position = position + RECORD_HEADER_LEN + (f->header[3] << 8 | f->header[4]);
	}
	return 0;
}

/* Applies the header that was kept for the next record, if there is one. */
VERIFIED_ALONE int apply_kept(struct connection *c, struct disorder *d)
{
	struct stream *st;

	if (!c || !d)
		return 0;
	st = stream_of(c, c->from_client);
#pragma clang loop unroll(disable)
	for (int i = 0; i < FOUND_MAX; i++) {
		if (i >= d->count)
			break;
		if (d->found[i].seq == st->header_at)
			return apply_header(c, st, c->from_client, d->found[i].header,
					    d->found[i].time);
	}
	return 0;
}

/* The client's last flight of the handshake is over. */
static __always_inline void end_flight(struct connection *c, const struct stream *st, __u32 end)
{
	if (c->in_flight && st->header_at == end)
		c->role |= ROLE_FINISHED;
}

/* The header was read, or cannot be any more. */
static __always_inline void end_waiting(struct connection *c, struct stream *st,
					const struct disorder *d)
{
	__u64 key = disorder_key(c);

	if (st->state == STREAM_WAITING)
		st->state = STREAM_SYNCED;
	end_flight(c, st, st->next);
	if (c->has_data || message_of(c, c->from_client)->first) {
		c->has_large = 1;
		account(c, c->from_client, d->bytes, d->packets);
	}
	bpf_map_delete_elem(&disorders, &key);
}

/* A segment of a stream that waits. */
VERIFIED_ALONE int wait_on(struct __sk_buff *skb, struct connection *c, __u32 seq, __u32 off,
			   __u32 len)
{
	__u32 end = seq + len, next;
	struct disorder *d;
	struct stream *st;
	__u64 key;

	if (!skb || !c)
		return 0;
	st = stream_of(c, c->from_client);
	key = disorder_key(c);
	d = bpf_map_lookup_elem(&disorders, &key);
	if (!d) {
		lose(c, st);
		return 0;
	}
	if (before(st->next, end)) {
		if (before(st->next, seq)) {
			note_gap(st, seq);
		} else {
			off += st->next - seq;
			len -= st->next - seq;
			seq = st->next;
		}
		st->next = end;
	} else if (!fills_gap(c, st, seq, end)) {
		return 0;
	}
	d->bytes += len;
	d->packets++;
	if (st->in_message)
		c->has_data = 1;
	/* Until the client sends again it is of this response, whatever its header. */
	if (!c->from_client && c->turn.response.first) {
		c->turn.response.last = c->now;
		c->turn.response.small_delay = 0;
	}
	next = st->header_at + st->partial_len;
	if (!before(next, seq) && before(next, end)) {
		walk_records(skb, c, st, seq, off, len);
		/* Its other part has passed, unread. */
		if (st->partial_len && end != st->next && st->state != STREAM_LOST)
			lose(c, st);
	} else {
		keep_headers(skb, d, seq, off, len);
	}
#pragma clang loop unroll(disable)
	for (int i = 0; i < FOUND_MAX; i++) {
		if (st->state == STREAM_LOST || !before(st->header_at, st->next) ||
		    !apply_kept(c, d))
			break;
	}
	if (st->state == STREAM_WAITING && before(st->header_at + st->partial_len, st->next) &&
	    !st->missing)
		lose(c, st);
	if (st->state == STREAM_LOST || !before(st->header_at + st->partial_len, st->next))
		end_waiting(c, st, d);
	return 0;
}

#endif
