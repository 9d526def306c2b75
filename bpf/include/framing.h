/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Where a message ends: RFC 9112, section 6. Only on connections with a request that is
 * recorded. A message is read where its framing is: the head, and the size lines of
 * chunks. Segments that are neither cost a comparison with struct message.at. The
 * framing may be cut anywhere by segments, which may be reordered as long as none of
 * its bytes pass before the bytes in front of them.
 *
 * follow        -> read_head, read_chunks; the part of a segment that is the message's
 * read_head     -> scan_head -> read_framing_line
 * read_chunks   -> chunk_byte
 * lose_framing  after a gap in the framing: the end is guessed or unknown
 */
#ifndef LAYERTRACE_FRAMING_H
#define LAYERTRACE_FRAMING_H

#include "http_head.h"

/* Lines of a head in one segment that are searched for its framing. */
#define FRAMING_LINES 128
/* Bytes read of each chunk's size line at a time, and reads for each segment. */
#define CHUNK_READ 16
#define CHUNK_READS 64
/* Sequence numbers are compared modulo 4 GiB: more than that is added in steps. */
#define LENGTH_STEP (1U << 30)

#define CONTENT_LENGTH_NAME 15
#define CONTENT_LENGTH_DIGITS 18

/* "content-length:" and "transfer-encoding:", without regard to case. */
static __always_inline bool is_content_length(const struct scratch *s, __u32 off)
{
	return MATCHES(text64(s, off), 8, 'c', 'o', 'n', 't', 'e', 'n', 't', '-') &&
	       MATCHES(text64(s, off + 8), 7, 'l', 'e', 'n', 'g', 't', 'h', ':', 0);
}

static __always_inline bool is_transfer_encoding(const struct scratch *s, __u32 off)
{
	return MATCHES(text64(s, off), 8, 't', 'r', 'a', 'n', 's', 'f', 'e', 'r') &&
	       MATCHES(text64(s, off + 8), 8, '-', 'e', 'n', 'c', 'o', 'd', 'i', 'n') &&
	       MATCHES(text64(s, off + 16), 2, 'g', ':', 0, 0, 0, 0, 0, 0);
}

/* Whether a line that is cut after len bytes may be one of them. */
static __always_inline bool may_be_framing_line(const struct scratch *s, __u32 off, __u32 len)
{
	__u64 word = text64(s, off) | EACH(' '), mask = ~0ULL;

	if (len < 8)
		mask >>= 64 - 8 * len;
	return !((word ^ WORD('c', 'o', 'n', 't', 'e', 'n', 't', '-')) & mask) ||
	       !((word ^ WORD('t', 'r', 'a', 'n', 's', 'f', 'e', 'r')) & mask);
}

/* Reads the decimal number in [off, end) into *to; false if it is none. */
static __always_inline bool read_content_length(struct scratch *s, __u32 off, __u32 end, __u64 *to)
{
	__u64 value = 0;

	off = skip_blanks(s, off, end);
	end = trim_blanks(s, off, end);
	if (off >= end || end - off > CONTENT_LENGTH_DIGITS)
		return false;
	for (int i = 0; i < CONTENT_LENGTH_DIGITS; i++) {
		__u8 digit;

		if (off >= end)
			break;
		digit = text8(s, off) - '0';
		if (digit > 9)
			return false;
		value = value * 10 + digit;
		off++;
	}
	*to = value;
	return true;
}

/* One header line in [off, end). */
VERIFIED_ALONE int read_framing_line(struct scratch *s, struct message *m, __u32 off, __u32 end)
{
	__u64 length = 0;

	if (!s || !m)
		return 0;
	if (is_content_length(s, off)) {
		if (!read_content_length(s, off + CONTENT_LENGTH_NAME, end, &length) ||
		    (m->headers & FRAMING_LENGTH && m->length != length))
			m->headers |= FRAMING_UNCLEAR;
		m->headers |= FRAMING_LENGTH;
		m->length = length;
	} else if (is_transfer_encoding(s, off)) {
		end = trim_blanks(s, off, end);
		/* the last coding decides, section 6.3 */
		if (MATCHES(text64(s, end - 7), 7, 'c', 'h', 'u', 'n', 'k', 'e', 'd', 0))
			m->headers |= FRAMING_CHUNKED;
		else
			m->headers |= FRAMING_UNCLEAR;
	}
	return 0;
}

/* A line that may be a framing header continues in the next segment. */
static __always_inline void keep_cut_line(struct scratch *s, struct message *m, __u32 off,
					  __u32 len)
{
	if (len > CUT_LINE_MAX) {
		m->headers |= FRAMING_UNCLEAR;
		return;
	}
	for (int i = 0; i < CUT_LINE_MAX; i += 8)
		*(__u64 *)(m->cut_line + i) = text64(s, off + i);
	m->cut_len = len;
	m->line = LINE_START;
}

#define HEAD_BLOCK 64

/* Offset of the LF that ends the line at off, or -1. A block at a time, which is skipped
 * at once if it has no control character.
 */
VERIFIED_ALONE int find_line_end(struct scratch *s, __u32 off, __u32 end)
{
	if (!s)
		return -1;
	for (int i = 0; i < TEXT_SIZE / HEAD_BLOCK; i++) {
		const __u8 *p = text_at(s, off);
		__u64 found = 0;

		if (off >= end)
			return -1;
#pragma unroll
		for (int j = 0; j < HEAD_BLOCK; j += 8)
			found |= *(const __u64 *)(p + j) - EACH(' ');
		if (found & HIGH1) {
			found = 0;
#pragma unroll
			for (int j = 0; j < HEAD_BLOCK; j += 8)
				found |= one_bit_each(line_feeds(*(const __u64 *)(p + j))) << j;
			if (found) {
				off += lowest_bit[(found & -found) * DE_BRUIJN >> 58];
				return off < end ? (int)off : -1;
			}
		}
		off += HEAD_BLOCK;
	}
	return -1;
}

/* Scans the lines in text, [0, end), which continue the head of m. Returns the offset
 * of the head's end, or 0 if it continues.
 */
VERIFIED_ALONE int scan_head(struct scratch *s, struct message *m, __u32 end)
{
	__u32 off = 0;

	if (!s || !m)
		return 0;
	for (int i = 0; i < FRAMING_LINES; i++) {
		int lf = find_line_end(s, off, end);
		__u8 line = m->line;
		__u32 len;

		if (lf < 0) {
			if (off >= end)
				return 0;
			m->line = LINE_MIDDLE;
			if (line == LINE_START && end - off == 1 && text8(s, off) == '\r')
				m->line = LINE_CR;
			else if (line == LINE_START && may_be_framing_line(s, off, end - off))
				keep_cut_line(s, m, off, end - off);
			return 0;
		}
		len = lf - off;
		if (len && text8(s, lf - 1) == '\r')
			len--;
		m->line = LINE_START;
		/* An empty line before a request line: section 2.2. */
		if (!len && !i && m->at == m->start && m->body == BODY_FRAMED) {
			off = lf + 1;
			continue;
		}
		if (!len && (line == LINE_START || (line == LINE_CR && lf == off)))
			return lf + 1;
		if (line == LINE_START && len > CONTENT_LENGTH_NAME &&
		    may_be_framing(text64(s, off)))
			read_framing_line(s, m, off, off + len);
		off = lf + 1;
	}
	m->kind = MESSAGE_UNKNOWN;
	return 0;
}

/* A message begins with its head at seq. */
static __always_inline void start_message(struct message *m, __u32 seq, __u8 body)
{
	__builtin_memset(m, 0, __builtin_offsetof(struct message, cut_line)); /* cut_len is 0 */
	m->kind = MESSAGE_HEAD;
	m->start = seq;
	m->at = seq;
	m->body = body;
}

/* The head of m has ended before sequence number end. */
static __always_inline void end_head_of(struct message *m, __u32 end)
{
	__u64 length = m->headers & FRAMING_LENGTH ? m->length : 0;

	m->at = end;
	m->length = 0;
	m->chunk = CHUNK_START;
	if (m->kind == MESSAGE_INTERIM) {
		m->kind = MESSAGE_NONE;
	} else if (m->body == BODY_NONE) {
		m->kind = MESSAGE_ENDS;
	} else if (m->headers & FRAMING_UNCLEAR) {
		m->kind = MESSAGE_UNKNOWN;
	} else if (m->headers & FRAMING_CHUNKED) {
		m->kind = MESSAGE_CHUNKS;
	} else if (!(m->headers & FRAMING_LENGTH) && m->body == BODY_TO_CLOSE) {
		m->kind = MESSAGE_CLOSE;
	} else {
		__u32 step = length < LENGTH_STEP ? length : LENGTH_STEP;

		m->kind = MESSAGE_ENDS;
		m->at = end + step;
		m->length = length - step;
	}
}

/* A segment passes several points of a node (sockets and interfaces) one right after
 * the other, mostly on the same CPU: later points reuse what the first one read.
 */
static __always_inline __u32 cache_slot(__u32 seq)
{
	return (__u32)(seq * (__u32)(HASH_FACTOR >> 32)) >> (32 - SEGMENT_CACHE_BITS);
}

/* What the walk over a head for its context has seen of its framing: the whole head
 * without a framing header, or the lines up to unframed.
 */
static __always_inline void cache_head(struct scratch *s, __u64 seq_ack, __u32 id, __u32 head_len,
				       __u32 unframed, __u8 line)
{
	struct cached_head *k = &s->cached_heads[cache_slot(seq_ack >> 32)];

	k->seq_ack = 0;
	k->length = 0;
	k->id = id;
	k->head_len = head_len;
	k->unframed = unframed;
	k->line = line;
	k->headers = 0;
	k->unread = 0;
	k->seq_ack = seq_ack;
}

/* Reads the head of m in len bytes of the packet at off, which begin at m->at. */
static __always_inline void read_head(struct __sk_buff *skb, struct scratch *s, struct message *m,
				      __u32 off, __u32 len)
{
	__u64 seq_ack = (__u64)m->at << 32 | s->segment.ack;
	struct cached_head *k = &s->cached_heads[cache_slot(m->at)];
	__u32 kept = m->cut_len, payload_len = len, unframed = 0, n;
	bool first = m->line == LINE_START && !m->headers && !kept;
	bool cached = first && k->seq_ack == seq_ack && k->id == segment_id(s->segment.sender, len);
	int end;

	if (cached)
		unframed = k->unframed;
	if (cached && !unframed) {
		m->length = k->length;
		m->line = k->line;
		m->headers = k->headers;
		if (k->unread)
			m->kind = MESSAGE_UNKNOWN;
		end = k->head_len;
	} else {
		__u8 kind = m->kind;

		for (int i = 0; kept && i < CUT_LINE_MAX; i += 8)
			*(__u64 *)(s->text + i) = *(__u64 *)(m->cut_line + i);
		m->cut_len = 0;
		s->walk.end = kept;
		if (unframed && unframed < len) {
			m->line = k->line;
			m->at += unframed;
			off += unframed;
			len -= unframed;
		}
		n = len < WINDOW_MAX ? len : WINDOW_MAX;
		end = append(skb, s, off, n) ? scan_head(s, m, kept + n) : 0;
		if (!end && len > WINDOW_MAX)
			m->kind = MESSAGE_UNKNOWN;
		if (end)
			end -= kept;
		if (first && !m->cut_len) {
			k->seq_ack = 0;
			k->length = m->length;
			k->id = segment_id(s->segment.sender, payload_len);
			k->head_len = end ? payload_len - len + end : 0;
			k->unframed = 0;
			k->line = m->line;
			k->headers = m->headers;
			k->unread = m->kind != kind;
			k->seq_ack = seq_ack;
		}
	}
	if (end)
		end_head_of(m, m->at + end);
	else
		m->at += len;
}

/* One byte of a chunk's size line or of the trailers: RFC 9112, sections 7.1 and 7.1.2. */
static __always_inline void chunk_byte(struct message *m, __u8 byte)
{
	__u8 digit = hex_value[byte];

	switch (m->chunk) {
	case CHUNK_START:
	case CHUNK_DIGITS:
		if (!(digit & HEX_INVALID)) {
			m->length = m->length << 4 | (digit & 0xf);
			m->chunk = m->length < LENGTH_STEP ? CHUNK_DIGITS : CHUNK_LOST;
			break;
		}
		if (m->chunk == CHUNK_START) {
			m->chunk = CHUNK_LOST;
			break;
		}
		m->chunk = CHUNK_EXTENSION;
		if (byte == '\n')
			m->chunk = m->length ? CHUNK_DATA : CHUNK_TRAILER;
		break;
	case CHUNK_EXTENSION:
		if (byte == '\n')
			m->chunk = m->length ? CHUNK_DATA : CHUNK_TRAILER;
		break;
	case CHUNK_TRAILER:
		if (byte == '\n')
			m->chunk = CHUNK_END;
		else if (byte != '\r')
			m->chunk = CHUNK_TRAILER_LINE;
		break;
	case CHUNK_TRAILER_LINE:
		if (byte == '\n')
			m->chunk = CHUNK_TRAILER;
		break;
	}
}

/* Chunks can no longer be followed: from here on the end is guessed. */
static __always_inline void lose_chunks(struct message *m)
{
	m->kind = MESSAGE_TAIL;
	m->tail = 0;
	count_rare(COUNTER_FRAMING_LOST);
}

struct chunk_bytes {
	__u8 of[CHUNK_READ];
};

/* Reads a size line, or trailers, up to the chunk's data. Returns the number of bytes
 * read of n.
 */
VERIFIED_ALONE int read_size_line(struct message *m, struct chunk_bytes *bytes, __u32 n)
{
	__u32 used = 0;

	if (!m || !bytes)
		return 0;
	for (int k = 0; k < CHUNK_READ; k++) {
		if (used >= n || m->chunk == CHUNK_DATA || m->chunk >= CHUNK_END)
			break;
		chunk_byte(m, bytes->of[k]);
		used++;
	}
	return used;
}

static __always_inline void lose_head(struct message *m)
{
	m->kind = MESSAGE_UNKNOWN;
	count_rare(COUNTER_FRAMING_LOST);
}

/* Follows the chunks of m in len bytes of the packet at off, which begin at m->at. */
VERIFIED_ALONE int read_chunks(struct __sk_buff *skb, struct message *m, __u32 off, __u32 len)
{
	struct chunk_bytes bytes;

	if (!m)
		return 0;
	for (int i = 0; i < CHUNK_READS; i++) {
		__u32 n = CHUNK_READ, used;

		FORGET(len, n);
		if (!len)
			return 0;
		if (len < CHUNK_READ) {
			n = len;
			BOUND_LENGTH(n, CHUNK_READ);
		}
		__builtin_memset(&bytes, 0, sizeof(bytes));
		if (bpf_skb_load_bytes(skb, off, &bytes, n))
			break;
		used = read_size_line(m, &bytes, n);
		m->at += used;
		if (m->chunk == CHUNK_END) {
			m->kind = MESSAGE_ENDS;
			m->length = 0;
			return 0;
		}
		if (m->chunk == CHUNK_LOST)
			break;
		if (m->chunk == CHUNK_DATA) {
			__u32 data = m->length + 2; /* with CRLF */

			m->chunk = CHUNK_START;
			m->length = 0;
			m->at += data;
			if (data >= len - used)
				return 0;
			used += data;
		}
		off += used;
		len -= used;
	}
	lose_chunks(m);
	return 0;
}

/* Reads m in len bytes of the packet at off, which begin at sequence number seq. Returns
 * how many of them belong to m, from the first one on.
 */
static __always_inline __u32 follow(struct __sk_buff *skb, struct scratch *s, struct message *m,
				    __u32 off, __u32 len)
{
	bool interim = m->kind == MESSAGE_INTERIM;
	__u32 seq = s->segment.seq, skip;

	skip = m->at - seq;
	if ((m->kind == MESSAGE_HEAD || m->kind == MESSAGE_INTERIM) && skip < len)
		read_head(skb, s, m, off + skip, len - skip);
	skip = m->at - seq;
	if (interim && m->kind == MESSAGE_NONE) /* it has ended */
		return skip;
	if (unlikely(m->kind == MESSAGE_CHUNKS && skip < len))
		read_chunks(skb, m, off + skip, len - skip);
	if (m->kind != MESSAGE_ENDS)
		return len;
	if (m->length && m->at - seq < LENGTH_STEP) {
		__u32 step = m->length < LENGTH_STEP ? m->length : LENGTH_STEP;

		m->at += step;
		m->length -= step;
	}
	if (before(m->at, seq))
		return 0;
	skip = m->at - seq;
	return skip < len ? skip : len;
}

/* Whether the segment ends like the last chunk without trailers. */
static __always_inline bool ends_like_last_chunk(struct __sk_buff *skb, const struct segment *seg)
{
	__u8 tail[8] = {};

	if (seg->payload_len < 5)
		return false;
	if (bpf_skb_load_bytes(skb, seg->payload_off + seg->payload_len - 5, tail, 5))
		return false;
	return tail[0] == '0' && tail[1] == '\r' && tail[2] == '\n' && tail[3] == '\r' &&
	       tail[4] == '\n';
}

/* Whether bytes of m with its framing passed unread, or will not come any more. */
static __always_inline bool give_up_missing(struct message *m, const struct stream *st)
{
	if (m->kind < MESSAGE_STATUS || m->kind > MESSAGE_CHUNKS || !before(m->at, st->next))
		return false;
	if (m->kind == MESSAGE_CHUNKS)
		lose_chunks(m);
	else
		lose_head(m);
	return true;
}

/* After a segment of m has passed: whether bytes with its framing passed unread. */
static __always_inline bool lose_framing(struct __sk_buff *skb, const struct segment *seg,
					 struct message *m, const struct stream *st)
{
	bool lost = !is_in_gap(st, m->at) && give_up_missing(m, st);

	if (m->kind == MESSAGE_TAIL && ends_like_last_chunk(skb, seg)) {
		m->at = seg->seq + seg->payload_len;
		m->tail = 1;
	}
	return lost;
}

#endif
