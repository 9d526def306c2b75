/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Where a message ends: RFC 9112, section 6. Only for exchanges that are recorded.
 *
 * parse_framing   reads Content-Length and Transfer-Encoding of a head
 * follow_chunks   follows the chunks of a body, in order (section 7.1)
 */
#ifndef LAYERTRACE_FRAMING_H
#define LAYERTRACE_FRAMING_H

#include "http_head.h"

/* Lines of a head that are searched for its framing. */
#define FRAMING_LINES 128
/* Bytes read of each chunk's size line at a time, and reads for each segment. */
#define CHUNK_READ 16
#define CHUNK_READS 64

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

#define CONTENT_LENGTH_NAME 15
#define CONTENT_LENGTH_DIGITS 18

/* Reads the decimal number in [off, end); false if it is none. */
VERIFIED_ALONE int read_content_length(struct scratch *s, __u32 off, __u32 end)
{
	__u64 value = 0;

	if (!s)
		return 0;
	off = skip_blanks(s, off, end);
	end = trim_blanks(s, off, end);
	if (off >= end || end - off > CONTENT_LENGTH_DIGITS)
		return 0;
	for (int i = 0; i < CONTENT_LENGTH_DIGITS; i++) {
		__u8 digit;

		if (off >= end)
			break;
		digit = text8(s, off) - '0';
		if (digit > 9)
			return 0;
		value = value * 10 + digit;
		off++;
	}
	s->framing.length = value;
	return 1;
}

/* One header line in [off, end). Transfer-Encoding overrides Content-Length; contradicting
 * or malformed values leave the end unknown.
 */
VERIFIED_ALONE int parse_framing_line(struct scratch *s, __u32 off, __u32 end)
{
	struct framing *f;
	__u64 before;

	if (!s)
		return 0;
	f = &s->framing;
	if (is_content_length(s, off)) {
		before = f->length;
		if (!read_content_length(s, off + CONTENT_LENGTH_NAME, end) ||
		    (f->kind == FRAMING_LENGTH && f->length != before))
			f->contradicts = 1;
		else if (f->kind != FRAMING_CHUNKED)
			f->kind = FRAMING_LENGTH;
	} else if (is_transfer_encoding(s, off)) {
		end = trim_blanks(s, off, end);
		/* the last coding decides, section 6.3 */
		if (MATCHES(text64(s, end - 7), 7, 'c', 'h', 'u', 'n', 'k', 'e', 'd', 0))
			f->kind = FRAMING_CHUNKED;
		else
			f->contradicts = 1;
	}
	return 0;
}

/* Reads the head at the start of text, [0, end), into s->framing. */
VERIFIED_ALONE int parse_framing_text(struct scratch *s, __u32 end)
{
	__u32 off = 0;

	if (!s)
		return 0;
	s->framing = (struct framing){};
	for (int i = 0; i < FRAMING_LINES; i++) {
		int lf = find_lf(s, off, end);
		__u32 len;

		if (lf < 0)
			return 0;
		len = lf - off;
		if (len && text8(s, lf - 1) == '\r')
			len--;
		if (!len) {
			s->framing.head_len = lf + 1;
			if (s->framing.contradicts)
				s->framing.kind = FRAMING_UNKNOWN;
			return 1;
		}
		if (len > CONTENT_LENGTH_NAME)
			parse_framing_line(s, off, off + len);
		off = lf + 1;
	}
	return 0;
}

/* Reads the framing of the message that begins at payload offset skipped of the
 * segment. False if its head does not end within the part that is read; s->framing is
 * then unknown.
 */
static __always_inline bool parse_framing(struct __sk_buff *skb, const struct segment *seg,
					  struct scratch *s, __u32 skipped)
{
	__u32 len = seg->payload_len - skipped;

	s->framing = (struct framing){};
	s->walk.end = 0;
	if (len > WINDOW_MAX)
		len = WINDOW_MAX;
	return append(skb, s, seg->payload_off + skipped, len) && parse_framing_text(s, len) &&
	       s->framing.head_len;
}

/* One byte of a chunk's size line or of the trailers: RFC 9112, sections 7.1 and
 * 7.1.2. Size lines and trailers may be cut anywhere by segments.
 */
static __always_inline void chunk_byte(struct chunks *c, __u8 byte)
{
	__u8 digit = hex_value[byte];

	switch (c->state) {
	case CHUNK_SIZE_LINE:
		if (!(digit & HEX_INVALID)) {
			c->left = c->left << 4 | (digit & 0xf);
			break;
		}
		if (byte != '\n') {
			c->state = CHUNK_EXTENSION;
			break;
		}
		c->state = c->left ? CHUNK_DATA : CHUNK_TRAILER;
		break;
	case CHUNK_EXTENSION:
		if (byte == '\n')
			c->state = c->left ? CHUNK_DATA : CHUNK_TRAILER;
		break;
	case CHUNK_TRAILER: /* at the start of a line */
		if (byte == '\n')
			c->state = CHUNK_END;
		else if (byte != '\r')
			c->state = CHUNK_TRAILER_LINE;
		break;
	case CHUNK_TRAILER_LINE:
		if (byte == '\n')
			c->state = CHUNK_TRAILER;
		break;
	}
	if (c->state == CHUNK_DATA)
		c->left += 2; /* CRLF after the data */
}

/* Follows the chunks in len bytes of the packet at off, which come next in the body.
 * Sets CHUNK_LOST if there are too many of them in one segment. Returns the number of
 * bytes after the end of the body.
 */
VERIFIED_ALONE int follow_chunks(struct __sk_buff *skb, struct chunks *c, __u32 off, __u32 len)
{
	__u8 bytes[CHUNK_READ];

	if (!c)
		return 0;
	for (int i = 0; i < CHUNK_READS; i++) {
		__u32 n = CHUNK_READ, used = 0;

		FORGET(len, n);
		if (!len || c->state >= CHUNK_END)
			return len;
		if (c->state == CHUNK_DATA) {
			__u32 skip = c->left < len ? c->left : len;

			off += skip;
			len -= skip;
			c->left -= skip;
			if (c->left)
				return 0;
			c->state = CHUNK_SIZE_LINE;
			continue;
		}
		if (len < CHUNK_READ) {
			n = len;
			BOUND_LENGTH(n, CHUNK_READ);
		}
		if (bpf_skb_load_bytes(skb, off, bytes, n))
			break;
		for (int k = 0; k < CHUNK_READ; k++) {
			if (used >= n || c->state == CHUNK_DATA || c->state >= CHUNK_END)
				break;
			chunk_byte(c, bytes[k]);
			used++;
		}
		off += used;
		len -= used;
	}
	c->state = CHUNK_LOST;
	return 0;
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

#endif
