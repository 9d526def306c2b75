/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Trace headers (docs/trace-context.md): settings, IDs as text, header values, header
 * names. A value is the text in [off, end) without surrounding blanks.
 */
#ifndef LAYERTRACE_TRACE_CONTEXT_H
#define LAYERTRACE_TRACE_CONTEXT_H

#include "packet.h"
#include "trace_formats.h"

/* A configured header name, in lower case and with its colon, and its format. */
struct context_header {
	__u8 len;
	__u8 pad[3];
	enum format format;
	__u8 name[CONTEXT_HEADER_LEN];
};

struct context_headers {
	__u32 len;
	struct context_header of[CONTEXT_HEADERS_MAX];
};

const volatile struct context_headers context_headers;

/* Set with --context-format: only formats with a rank are read, 1 is the most preferred. */
const volatile bool ordered;
#define RANKS 16 /* a power of two, above FORMATS */
_Static_assert(FORMATS <= RANKS, "each format has a rank");
const volatile __u8 ranks[RANKS];

static __always_inline bool reads(enum format format)
{
	return !ordered || ranks[format & (RANKS - 1)];
}

/* Whether a decision of this format ends the walk. */
static __always_inline bool ends_walk(const struct context *c)
{
	return ordered && ranks[c->format & (RANKS - 1)] == 1 && c->sampling == SAMPLING_DENIED;
}

#define HEX_UPPER 0x40
#define HEX_INVALID 0x80

/* Value of a hex digit. Upper-case digits are marked: W3C forbids them. */
static const __u8 hex_value[256] = {
	[0 ... 255] = HEX_INVALID,
	['0'] = 0,
	['1'] = 1,
	['2'] = 2,
	['3'] = 3,
	['4'] = 4,
	['5'] = 5,
	['6'] = 6,
	['7'] = 7,
	['8'] = 8,
	['9'] = 9,
	['a'] = 10,
	['b'] = 11,
	['c'] = 12,
	['d'] = 13,
	['e'] = 14,
	['f'] = 15,
	['A'] = 10 | HEX_UPPER,
	['B'] = 11 | HEX_UPPER,
	['C'] = 12 | HEX_UPPER,
	['D'] = 13 | HEX_UPPER,
	['E'] = 14 | HEX_UPPER,
	['F'] = 15 | HEX_UPPER,
};

enum hex_case {
	HEX_LOWER_ONLY = HEX_INVALID | HEX_UPPER,
	HEX_ANY_CASE = HEX_INVALID,
};

#define EACH(byte) (0x0101010101010101ULL * (byte))
#define HIGH1 EACH(0x80)

/* clang-format off */
/* Eight characters as the little-endian word that text64() reads. */
#define WORD(a, b, c, d, e, f, g, h)                                                   \
	((__u64)(a) | (__u64)(b) << 8 | (__u64)(c) << 16 | (__u64)(d) << 24 |          \
	 (__u64)(e) << 32 | (__u64)(f) << 40 | (__u64)(g) << 48 | (__u64)(h) << 56)
/* Compares the first n characters, with case. */
#define MATCHES_EXACT(text, n, ...) ((((text) ^ WORD(__VA_ARGS__)) << (8 * (8 - (n)))) == 0)
#define CASE_BIT(c) ((c) >= 'a' && (c) <= 'z' ? 0x20 : 0)

/* Compares the first n characters. Letters, given in lower case, match both cases. */
#define MATCHES(text, n, a, b, c, d, e, f, g, h)                                       \
	(((((text) ^ WORD(a, b, c, d, e, f, g, h)) &                                   \
	   ~WORD(CASE_BIT(a), CASE_BIT(b), CASE_BIT(c), CASE_BIT(d), CASE_BIT(e),      \
		 CASE_BIT(f), CASE_BIT(g), CASE_BIT(h)))                               \
	  << (8 * (8 - (n)))) == 0)
/* The same with a word of trace_formats.h. */
#define MATCHES_WORD(text, ...) MATCHES(text, __VA_ARGS__)

/* clang-format on */

/* Converts eight hex digits at once to their four bytes. Sets bits in bad if one is not
 * a digit of the given case.
 *
 * Letters have bit 6 set, decimal digits do not. That bit and the low nibble give the
 * value and the only character that it can come from.
 */
static __always_inline __u32 eight_digits(__u64 text, const enum hex_case hex_case, __u64 *bad)
{
	__u64 letter = (text & EACH(0x40)) >> 6, value;

	if (hex_case == HEX_ANY_CASE)
		text |= letter << 5;
	value = (text & EACH(0x0f)) + letter * 9;
	*bad |= text ^ (value + EACH(0x30) + letter * 0x27);
	/* decimal: value <= 9; letter: 10 <= value <= 15 */
	*bad |= (((value + EACH(6)) ^ letter << 4) | value) & EACH(0x10);
	value = (value << 4 | value >> 8) & 0x00ff00ff00ff00ffULL;
	value = (value | value >> 8) & 0x0000ffff0000ffffULL;
	return value | value >> 16;
}

/* Decodes 2 * bytes hex digits (a multiple of 16) into 8-byte words. False if one is
 * not a digit of the given case, or if all are zero, which no ID may be. Stored in the
 * width of later reads: a load that spans two stores waits for both.
 */
static __always_inline bool read_hex(const __u8 *text, __u8 *to, const __u32 bytes,
				     const enum hex_case hex_case)
{
	__u64 bad = 0, any = 0;

#pragma unroll
	for (__u32 i = 0; i < bytes; i += 8) {
		const __u64 *digits = (const __u64 *)(text + 2 * i);
		__u64 value = eight_digits(digits[0], hex_case, &bad) |
			      (__u64)eight_digits(digits[1], hex_case, &bad) << 32;

		any |= value;
		__builtin_memcpy(__builtin_assume_aligned(to + i, 8), &value, sizeof(value));
	}
	return any && !bad;
}

/* Whether n bytes at off are hex digits of either case. */
static __always_inline bool is_hex(const struct scratch *s, __u32 off, const __u32 n)
{
	__u8 seen = 0;

	for (__u32 i = 0; i < n; i++)
		seen |= hex_value[text8(s, off + i)];
	return !(seen & HEX_INVALID);
}

static __always_inline void store_be64(__u8 *to, __u64 value)
{
	value = bpf_cpu_to_be64(value);
	__builtin_memcpy(to, &value, sizeof(value));
}

/* Reads 1 to 20 decimal digits, a 64-bit number, into s->high. */
VERIFIED_ALONE int read_decimal(struct scratch *s, __u32 off, __u32 end)
{
	const __u64 limit = ~0ULL / 10;
	__u64 value = 0;

	if (!s || off >= end || end - off > 20)
		return false;
	for (int i = 0; i < 20; i++) {
		__u8 digit;

		if (off >= end)
			break;
		digit = text8(s, off++) - '0';
		if (digit > 9 || value > limit || (value == limit && digit > 5))
			return false;
		value = value * 10 + digit;
	}
	s->high = value;
	return true;
}

#define LOW7 EACH(0x7f)

/* Offset of the next such byte in [off, end), or -1. Eight bytes at a time: a byte of
 * found is 0x80 exactly where the text has the byte.
 */
VERIFIED_ALONE int find_byte(struct scratch *s, __u32 off, __u32 end, __u8 byte)
{
	__u64 each = EACH(byte);

	if (!s)
		return -1;
	for (int i = 0; i < WINDOW_MAX / 8 + 1; i++) {
		__u64 x, found;

		if (off >= end)
			break;
		x = text64(s, off) ^ each;
		found = ~(((x & LOW7) + LOW7) | x) & HIGH1;
		if (found) {
			off += ((found & -found) >> 7) * 0x0001020304050607ULL >> 56;
			return off < end ? (int)off : -1;
		}
		off += 8;
	}
	return -1;
}

/* FNV-1a, 64 bits (draft-eastlake-fnv). */
#define FNV_BASIS 0xcbf29ce484222325ULL
#define FNV_PRIME 0x100000001b3ULL

static __always_inline __u64 fnv(__u64 hash, __u8 byte)
{
	return (hash ^ byte) * FNV_PRIME;
}

/* What a header with a whole context has. Its reader leaves the context in s->id. */
enum value {
	VALUE_MALFORMED,
	VALUE_CONTEXT,
	VALUE_DENIAL,  /* without IDs */
	VALUE_NOTHING, /* valid, but neither */
};

/* W3C Trace Context, section 3.2. */
VERIFIED_ALONE int read_traceparent(struct scratch *s, __u32 off, __u32 end)
{
	struct context *c;
	const __u8 *text;
	__u8 digits;

	if (!s || end < off || end - off < TRACEPARENT_LEN)
		return 0;
	c = &s->id;
	text = text_at(s, off);
	if (text[2] != '-' || text[35] != '-' || text[52] != '-')
		return 0;
	/* version and flags may be zero: check their digits only */
	digits =
		hex_value[text[0]] | hex_value[text[1]] | hex_value[text[53]] | hex_value[text[54]];
	if ((digits & HEX_LOWER_ONLY) || (text[0] == 'f' && text[1] == 'f'))
		return 0;
	if (end - off > TRACEPARENT_LEN &&
	    ((text[0] == '0' && text[1] == '0') || text[TRACEPARENT_LEN] != '-'))
		return 0;
	if (!read_hex(text + 3, c->trace_id, 16, HEX_LOWER_ONLY) ||
	    !read_hex(text + 36, c->span_id, 8, HEX_LOWER_ONLY))
		return 0;
	c->sampling = hex_value[text[54]] & 1 ? SAMPLING_ACCEPTED : SAMPLING_DENIED;
	c->format = FORMAT_W3C;
	return VALUE_CONTEXT;
}

/* B3 trace ID of 16 or 32 hex digits; the short form is padded with zeros. */
static __always_inline bool read_b3_trace_id(struct scratch *s, struct context *c, __u32 off,
					     __u32 len)
{
	if (len == 32)
		return read_hex(text_at(s, off), c->trace_id, 16, HEX_ANY_CASE);
	__builtin_memset(c->trace_id, 0, 8);
	return len == 16 && read_hex(text_at(s, off), c->trace_id + 8, 8, HEX_ANY_CASE);
}

/* openzipkin/b3-propagation, "Single Header"; Brave also writes a parent without a state. */
VERIFIED_ALONE int read_b3(struct scratch *s, __u32 off, __u32 end)
{
	struct context *c;
	__u32 id_len;

	if (!s || end <= off)
		return VALUE_MALFORMED;
	c = &s->id;
	c->sampling = SAMPLING_DEFERRED;
	c->format = FORMAT_B3;
	if (end - off == 1) {
		if (text8(s, off) == '0') {
			c->sampling = SAMPLING_DENIED;
			return VALUE_DENIAL;
		}
		return text8(s, off) == '1' || text8(s, off) == 'd' ? VALUE_NOTHING :
								      VALUE_MALFORMED;
	}
	id_len = text8(s, off + 16) == '-' ? 16 : 32;
	if (end - off < id_len + 17 || text8(s, off + id_len) != '-' ||
	    !read_b3_trace_id(s, c, off, id_len))
		return VALUE_MALFORMED;
	off += id_len + 1;
	if (!read_hex(text_at(s, off), c->span_id, 8, HEX_ANY_CASE))
		return VALUE_MALFORMED;
	off += 16;
	if (end - off == 2 || end - off == 19) {
		if (text8(s, off) != '-')
			return VALUE_MALFORMED;
		switch (text8(s, off + 1)) {
		case '0':
			c->sampling = SAMPLING_DENIED;
			break;
		case '1':
		case 'd':
			c->sampling = SAMPLING_ACCEPTED;
			break;
		default:
			return VALUE_MALFORMED;
		}
		off += 2;
	}
	if (off == end)
		return VALUE_CONTEXT;
	return end - off == 17 && text8(s, off) == '-' && is_hex(s, off + 1, 16) ? VALUE_CONTEXT :
										   VALUE_MALFORMED;
}

/* The following readers take a value part by part. Each part is a function that keeps
 * its numbers in scratch memory: for registers the verifier explores every combination
 * and exceeds its limit of a million instructions.
 */

/* Reads at most 33 hex digits into high and low; returns the offset after them. */
VERIFIED_ALONE int take_hex(struct scratch *s, __u32 off, __u32 end)
{
	if (!s)
		return off;
	s->high = 0;
	s->low = 0;
	for (int i = 0; i < 33; i++) {
		__u8 value = hex_value[text8(s, off)];

		if (off >= end || (value & HEX_INVALID))
			break;
		s->high = s->high << 4 | s->low >> 60;
		s->low = s->low << 4 | (value & 15);
		off++;
	}
	return off;
}

/* Skips ":" or "%3A"; returns the offset after it, or 0. */
static __always_inline __u32 take_colon(struct scratch *s, __u32 off, __u32 end)
{
	if (off < end && text8(s, off) == ':')
		return off + 1;
	if (off + 3 <= end && text8(s, off) == '%' && text8(s, off + 1) == '3' &&
	    (text8(s, off + 2) == 'A' || text8(s, off + 2) == 'a'))
		return off + 3;
	return 0;
}

/* Jaeger client libraries, "Propagation Format": four hex numbers of variable length,
 * separated by ":".
 */
VERIFIED_ALONE int read_uber_trace_id(struct scratch *s, __u32 off, __u32 end)
{
	struct context *c;
	__u32 start = off;

	if (!s)
		return 0;
	c = &s->id;
	off = take_hex(s, start, end);
	if (off == start || off - start > 32 || !(s->high | s->low))
		return 0;
	store_be64(c->trace_id, s->high);
	store_be64(c->trace_id + 8, s->low);

	start = take_colon(s, off, end);
	off = take_hex(s, start, end);
	if (!start || off == start || off - start > 16 || !s->low)
		return 0;
	store_be64(c->span_id, s->low);

	start = take_colon(s, off, end);
	off = take_hex(s, start, end);
	if (!start || off - start > 16)
		return 0;

	start = take_colon(s, off, end);
	off = take_hex(s, start, end);
	if (!start || off == start || off - start > 2 || off != end)
		return 0;
	c->sampling = s->low & 1 ? SAMPLING_ACCEPTED : SAMPLING_DENIED;
	c->format = FORMAT_JAEGER;
	return VALUE_CONTEXT;
}

static __always_inline bool is_base64(__u8 byte)
{
	__u8 letter = byte | 0x20;

	return (letter >= 'a' && letter <= 'z') || (byte >= '0' && byte <= '9') || byte == '+' ||
	       byte == '/' || byte == '=';
}

/* Hashes at most SW8_PART_MAX + 1 bytes of base64 text into high and low; returns the offset after
 * it.
 */
VERIFIED_ALONE int take_base64(struct scratch *s, __u32 off, __u32 end)
{
	if (!s)
		return off;
	for (int i = 0; i < SW8_PART_MAX + 1; i++) {
		__u8 byte = text8(s, off);

		if (off >= end || !is_base64(byte))
			break;
		s->high = fnv(s->high, byte);
		s->low = fnv(s->low, byte);
		off++;
	}
	return off;
}

/* Hashes at most 9 decimal digits into high; returns the offset after them. */
VERIFIED_ALONE int take_index(struct scratch *s, __u32 off, __u32 end)
{
	if (!s)
		return off;
	for (int i = 0; i < SW8_INDEX_MAX + 1; i++) {
		__u8 byte = text8(s, off);

		if (off >= end || byte < '0' || byte > '9')
			break;
		s->high = fnv(s->high, byte);
		off++;
	}
	return off;
}

/* SkyWalking Cross Process Propagation Headers Protocol v3. Its IDs are free text,
 * hence hashed.
 */
VERIFIED_ALONE int read_sw8(struct scratch *s, __u32 off, __u32 end)
{
	struct context *c;
	__u32 start;
	__u8 sample;

	if (!s || end < off || end - off < 2 || text8(s, off + 1) != '-')
		return 0;
	sample = text8(s, off);
	if (sample != '0' && sample != '1')
		return 0;
	c = &s->id;

	start = off + 2;
	s->high = FNV_BASIS;
	s->low = fnv(FNV_BASIS, 0);
	off = take_base64(s, start, end);
	if (off == start || off - start > SW8_PART_MAX || off >= end || text8(s, off) != '-')
		return 0;
	store_be64(c->trace_id, s->high);
	store_be64(c->trace_id + 8, s->high | s->low ? s->low : 1);

	start = off + 1;
	s->high = FNV_BASIS;
	off = take_base64(s, start, end);
	if (off == start || off - start > SW8_PART_MAX || off >= end || text8(s, off) != '-')
		return 0;

	start = off + 1;
	s->high = fnv(s->high, '-');
	off = take_index(s, start, end);
	if (off == start || off - start > SW8_INDEX_MAX || (off < end && text8(s, off) != '-'))
		return 0;
	store_be64(c->span_id, s->high ? s->high : 1);
	c->sampling = sample == '1' ? SAMPLING_ACCEPTED : SAMPLING_DENIED;
	c->format = FORMAT_SKYWALKING;
	return VALUE_CONTEXT;
}

/* Whether the whole value is this text of up to 8 characters; letters match both cases. */
#define VALUE_IS(s, off, end, n, ...) \
	((end) - (off) == (n) && MATCHES(text64(s, off), n, __VA_ARGS__))

/* One field of x-amzn-trace-id; of repeated ones the first counts. */
VERIFIED_ALONE int read_xray_field(struct scratch *s, __u32 off, __u32 end)
{
	__u64 bad = 0, word, high, low;
	struct context *c;
	const __u8 *text;

	if (!s || end < off)
		return 0;
	c = &s->id;
	if (off < end && text8(s, off) == ' ')
		off++;
	word = text64(s, off);
	if (end - off >= 5 && MATCHES_EXACT(word, 5, 'R', 'o', 'o', 't', '=', 0, 0, 0)) {
		if (c->have & PART_TRACE_ID)
			return 1;
		c->have |= PART_TRACE_ID;
		text = text_at(s, off + 5);
		if (end - off != 5 + 35 || text[0] != '1' || text[1] != '-' || text[10] != '-')
			return 0;
		high = eight_digits(*(const __u64 *)(text + 2), HEX_ANY_CASE, &bad) |
		       (__u64)eight_digits(*(const __u64 *)(text + 11), HEX_ANY_CASE, &bad) << 32;
		low = eight_digits(*(const __u64 *)(text + 19), HEX_ANY_CASE, &bad) |
		      (__u64)eight_digits(*(const __u64 *)(text + 27), HEX_ANY_CASE, &bad) << 32;
		__builtin_memcpy(c->trace_id, &high, sizeof(high));
		__builtin_memcpy(c->trace_id + 8, &low, sizeof(low));
		return !bad && (high | low);
	}
	if (end - off >= 7 && MATCHES_EXACT(word, 7, 'P', 'a', 'r', 'e', 'n', 't', '=', 0)) {
		if (c->have & PART_SPAN_ID)
			return 1;
		c->have |= PART_SPAN_ID;
		return end - off == 7 + 16 &&
		       read_hex(text_at(s, off + 7), c->span_id, 8, HEX_ANY_CASE);
	}
	if (end - off >= 8 && MATCHES_EXACT(word, 8, 'S', 'a', 'm', 'p', 'l', 'e', 'd', '=')) {
		if (c->have & PART_SAMPLING || end - off == 8) {
			c->have |= PART_SAMPLING;
			return 1;
		}
		c->have |= PART_SAMPLING;
		switch (text8(s, off + 8)) {
		case '0':
			c->sampling = SAMPLING_DENIED;
			break;
		case '1':
			c->sampling = SAMPLING_ACCEPTED;
			break;
		case '?':
			break;
		default:
			return 0;
		}
		return end - off == 9;
	}
	return 1;
}

/* AWS X-Ray, "Tracing header". */
VERIFIED_ALONE int read_xray(struct scratch *s, __u32 off, __u32 end)
{
	if (!s)
		return VALUE_MALFORMED;
	s->id.have = 0;
	s->id.sampling = SAMPLING_DEFERRED;
	s->id.format = FORMAT_XRAY;
	for (int i = 0; i < XRAY_FIELDS_MAX; i++) {
		int next = find_byte(s, off, end, ';');

		if (!read_xray_field(s, off, next < 0 ? end : next))
			return VALUE_MALFORMED;
		if (next < 0)
			return (s->id.have & PART_IDS) == PART_IDS ? VALUE_CONTEXT : VALUE_NOTHING;
		off = next + 1;
	}
	return VALUE_MALFORMED;
}

/* Google Cloud Trace, "Legacy HTTP header": TRACE_ID/SPAN_ID;o=OPTIONS. */
VERIFIED_ALONE int read_gcp(struct scratch *s, __u32 off, __u32 end)
{
	struct context *c;
	int options;

	if (!s || end < off || end - off < 32)
		return VALUE_MALFORMED;
	c = &s->id;
	c->sampling = SAMPLING_DEFERRED;
	c->format = FORMAT_GCP;
	options = find_byte(s, off, end, ';');
	if (options >= 0) {
		__u8 digit = text8(s, options + 3) - '0';

		if (end - options != 4 || text8(s, options + 1) != 'o' ||
		    text8(s, options + 2) != '=' || digit > 9)
			return VALUE_MALFORMED;
		c->sampling = digit & 1 ? SAMPLING_ACCEPTED : SAMPLING_DENIED;
		end = options;
	}
	if (end - off < 32 || take_hex(s, off, off + 32) != off + 32 || !(s->high | s->low))
		return VALUE_MALFORMED;
	store_be64(c->trace_id, s->high);
	store_be64(c->trace_id + 8, s->low);
	off += 32;
	if (off == end)
		return VALUE_NOTHING;
	if (text8(s, off) != '/' || !read_decimal(s, off + 1, end))
		return VALUE_MALFORMED;
	store_be64(c->span_id, s->high);
	return s->high ? VALUE_CONTEXT : VALUE_NOTHING;
}

struct name {
	__u32 header;
	__u16 len; /* including the colon */
	bool configured;
};

static __always_inline struct name b3_name(const struct scratch *s, __u32 off)
{
	__u64 rest = text64(s, off + PREFIX_B3_LEN);

	if (MATCHES_WORD(rest, NAME_B3_TRACEID_0))
		return (struct name){HEADER_B3_TRACEID, NAME_B3_TRACEID_LEN};
	if (MATCHES_WORD(rest, NAME_B3_SPANID_0))
		return (struct name){HEADER_B3_SPANID, NAME_B3_SPANID_LEN};
	if (MATCHES_WORD(rest, NAME_B3_SAMPLED_0))
		return (struct name){HEADER_B3_SAMPLED, NAME_B3_SAMPLED_LEN};
	if (MATCHES_WORD(rest, NAME_B3_FLAGS_0))
		return (struct name){HEADER_B3_FLAGS, NAME_B3_FLAGS_LEN};
	return (struct name){HEADER_B3_OTHER, 0};
}

static __always_inline struct name datadog_name(const struct scratch *s, __u32 off)
{
	__u64 rest = text64(s, off + PREFIX_DATADOG_LEN);
	__u64 more = text64(s, off + PREFIX_DATADOG_LEN + 8);

	if (MATCHES_WORD(rest, NAME_DATADOG_TRACE_ID_0) &&
	    MATCHES_WORD(more, NAME_DATADOG_TRACE_ID_1))
		return (struct name){HEADER_DATADOG_TRACE_ID, NAME_DATADOG_TRACE_ID_LEN};
	if (MATCHES_WORD(rest, NAME_DATADOG_PARENT_ID_0) &&
	    MATCHES_WORD(more, NAME_DATADOG_PARENT_ID_1))
		return (struct name){HEADER_DATADOG_PARENT_ID, NAME_DATADOG_PARENT_ID_LEN};
	if (MATCHES_WORD(rest, NAME_DATADOG_SAMPLING_PRIORITY_0) &&
	    MATCHES_WORD(more, NAME_DATADOG_SAMPLING_PRIORITY_1) &&
	    MATCHES_WORD(text64(s, off + PREFIX_DATADOG_LEN + 16),
			 NAME_DATADOG_SAMPLING_PRIORITY_2))
		return (struct name){HEADER_DATADOG_SAMPLING_PRIORITY,
				     NAME_DATADOG_SAMPLING_PRIORITY_LEN};
	if (MATCHES_WORD(rest, NAME_DATADOG_TAGS_0))
		return (struct name){HEADER_DATADOG_TAGS, NAME_DATADOG_TAGS_LEN};
	return (struct name){HEADER_DATADOG_OTHER, 0};
}

/* Which of the configured headers begins at off: its index, or -1. */
VERIFIED_ALONE int find_configured(struct scratch *s, __u32 off)
{
	if (!s)
		return -1;
	for (__u32 i = 0; i < CONTEXT_HEADERS_MAX && i < context_headers.len; i++) {
		__u32 len = context_headers.of[i].len, same = 0;

		for (__u32 j = 0; j < CONTEXT_HEADER_LEN && j < len; j++) {
			__u8 byte = text8(s, off + j);

			if (byte >= 'A' && byte <= 'Z')
				byte |= 0x20;
			if (byte != context_headers.of[i].name[j])
				break;
			same++;
		}
		if (same == len)
			return i;
	}
	return -1;
}

static __always_inline struct name configured_header(struct scratch *s, __u32 off)
{
	__u32 i = find_configured(s, off), format;

	if (i >= CONTEXT_HEADERS_MAX)
		return (struct name){HEADER_OTHER, 0};
	format = context_headers.of[i].format;
	if (!reads(format))
		return (struct name){HEADER_OTHER, 0};
	switch (format) {
	case FORMAT_W3C:
		return (struct name){HEADER_TRACEPARENT, context_headers.of[i].len, true};
	case FORMAT_B3:
		return (struct name){HEADER_B3, context_headers.of[i].len, true};
	case FORMAT_JAEGER:
		return (struct name){HEADER_UBER_TRACE_ID, context_headers.of[i].len, true};
	case FORMAT_SKYWALKING:
		return (struct name){HEADER_SW8, context_headers.of[i].len, true};
	case FORMAT_XRAY:
		return (struct name){HEADER_AMZN_TRACE_ID, context_headers.of[i].len, true};
	case FORMAT_GCP:
		return (struct name){HEADER_CLOUD_TRACE_CONTEXT, context_headers.of[i].len, true};
	}
	return (struct name){HEADER_OTHER, 0}; /* no single header */
}

/* The first character settles most lines of a request. */
static __always_inline struct name header_name(struct scratch *s, __u32 off)
{
	__u64 word = text64(s, off);

	switch ((word & 0xff) | 0x20) {
	case 't':
		if (reads(FORMAT_W3C) && MATCHES_WORD(word, NAME_TRACEPARENT_0) &&
		    MATCHES_WORD(text64(s, off + 8), NAME_TRACEPARENT_1))
			return (struct name){HEADER_TRACEPARENT, NAME_TRACEPARENT_LEN};
		break;
	case 'b':
		if (reads(FORMAT_B3) && MATCHES_WORD(word, NAME_B3_0))
			return (struct name){HEADER_B3, NAME_B3_LEN};
		break;
	case 'x':
		if (reads(FORMAT_B3MULTI) && MATCHES_WORD(word, PREFIX_B3_0))
			return b3_name(s, off);
		if (reads(FORMAT_DATADOG) && MATCHES_WORD(word, PREFIX_DATADOG_0) &&
		    MATCHES_WORD(text64(s, off + 8), PREFIX_DATADOG_1))
			return datadog_name(s, off);
		if (reads(FORMAT_XRAY) && MATCHES_WORD(word, NAME_AMZN_TRACE_ID_0) &&
		    MATCHES_WORD(text64(s, off + 8), NAME_AMZN_TRACE_ID_1))
			return (struct name){HEADER_AMZN_TRACE_ID, NAME_AMZN_TRACE_ID_LEN};
		if (reads(FORMAT_GCP) && MATCHES_WORD(word, NAME_CLOUD_TRACE_CONTEXT_0) &&
		    MATCHES_WORD(text64(s, off + 8), NAME_CLOUD_TRACE_CONTEXT_1) &&
		    MATCHES_WORD(text64(s, off + 16), NAME_CLOUD_TRACE_CONTEXT_2))
			return (struct name){HEADER_CLOUD_TRACE_CONTEXT,
					     NAME_CLOUD_TRACE_CONTEXT_LEN};
		break;
	case 'u':
		if (reads(FORMAT_JAEGER) && MATCHES_WORD(word, NAME_UBER_TRACE_ID_0) &&
		    MATCHES_WORD(text64(s, off + 8), NAME_UBER_TRACE_ID_1))
			return (struct name){HEADER_UBER_TRACE_ID, NAME_UBER_TRACE_ID_LEN};
		break;
	case 's':
		if (reads(FORMAT_SKYWALKING) && MATCHES_WORD(word, NAME_SW8_0))
			return (struct name){HEADER_SW8, NAME_SW8_LEN};
		break;
	}
	return context_headers.len ? configured_header(s, off) : (struct name){HEADER_OTHER, 0};
}

/* The first valid decision of a format counts, but debug wins. */
static __always_inline bool set_sampling(struct context *c, enum sampling sampling, bool debug)
{
	if (debug || !(c->have & PART_SAMPLING))
		c->sampling = sampling;
	c->have |= PART_SAMPLING;
	return true;
}

static __always_inline void add_id(struct context *c, enum part part, __u32 offset)
{
	if (!(c->have & PART_IDS))
		c->offset = offset;
	c->have |= part;
}

/* A B3 ID of any length in its header of its own, in s->high and s->low. */
static __always_inline bool take_b3_id(struct scratch *s, __u32 off, __u32 end, __u32 max)
{
	return end - off <= max && take_hex(s, off, end) == end && (s->high | s->low);
}

/* One x-b3-* line. */
VERIFIED_ALONE int read_b3_part(struct scratch *s, __u32 header, __u32 off, __u32 end, __u32 offset)
{
	struct context *c, *id;

	if (!s || end < off)
		return 0;
	c = &s->walk.b3;
	id = &s->id; /* no stack left at this call depth */
	switch (header) {
	case HEADER_B3_TRACEID:
		if (!read_b3_trace_id(s, id, off, end - off)) {
			if (!take_b3_id(s, off, end, 32))
				return 0;
			store_be64(id->trace_id, s->high);
			store_be64(id->trace_id + 8, s->low);
		}
		if (!(c->have & PART_TRACE_ID)) {
			__builtin_memcpy(c->trace_id, id->trace_id, sizeof(id->trace_id));
			add_id(c, PART_TRACE_ID, offset);
		}
		return 1;
	case HEADER_B3_SPANID:
		if (end - off != 16 || !read_hex(text_at(s, off), id->span_id, 8, HEX_ANY_CASE)) {
			if (!take_b3_id(s, off, end, 16))
				return 0;
			store_be64(id->span_id, s->low);
		}
		if (!(c->have & PART_SPAN_ID)) {
			__builtin_memcpy(c->span_id, id->span_id, sizeof(id->span_id));
			add_id(c, PART_SPAN_ID, offset);
		}
		return 1;
	case HEADER_B3_SAMPLED:
		if (end - off == 1 && text8(s, off) == 'd')
			return set_sampling(c, SAMPLING_ACCEPTED, true);
		if (VALUE_IS(s, off, end, 1, '1', 0, 0, 0, 0, 0, 0, 0) ||
		    VALUE_IS(s, off, end, 4, 't', 'r', 'u', 'e', 0, 0, 0, 0))
			return set_sampling(c, SAMPLING_ACCEPTED, false);
		if (VALUE_IS(s, off, end, 1, '0', 0, 0, 0, 0, 0, 0, 0) ||
		    VALUE_IS(s, off, end, 5, 'f', 'a', 'l', 's', 'e', 0, 0, 0))
			return set_sampling(c, SAMPLING_DENIED, false);
		return 0;
	case HEADER_B3_FLAGS:
		if (VALUE_IS(s, off, end, 1, '1', 0, 0, 0, 0, 0, 0, 0))
			return set_sampling(c, SAMPLING_ACCEPTED, true);
		return VALUE_IS(s, off, end, 1, '0', 0, 0, 0, 0, 0, 0, 0);
	}
	return 1;
}

/* One tag of Datadog. Returns 0 for a malformed one, 1 for another one, 2 for the high
 * half of the trace ID.
 */
VERIFIED_ALONE int read_datadog_tag(struct scratch *s, __u32 off, __u32 end)
{
	__u64 bad = 0, high;
	const __u8 *text;

	if (!s || end < off)
		return 0;
	if (end - off < 10 ||
	    !MATCHES_EXACT(text64(s, off), 8, '_', 'd', 'd', '.', 'p', '.', 't', 'i') ||
	    !MATCHES_EXACT(text64(s, off + 8), 2, 'd', '=', 0, 0, 0, 0, 0, 0))
		return 1;
	text = text_at(s, off + 10);
	high = eight_digits(*(const __u64 *)text, HEX_ANY_CASE, &bad) |
	       (__u64)eight_digits(*(const __u64 *)(text + 8), HEX_ANY_CASE, &bad) << 32;
	if (bad || end - off != 26)
		return 0;
	s->high = high;
	return 2;
}

/* dd-trace-go, "_dd.p.tid". */
static __always_inline int read_datadog_tags(struct scratch *s, __u32 off, __u32 end)
{
	struct context *c = &s->walk.datadog;

	for (int i = 0; i < DATADOG_TAGS_MAX; i++) {
		int next = find_byte(s, off, end, ',');
		int tag = read_datadog_tag(s, off, next < 0 ? end : next);

		if (tag == 2 && !(c->have & PART_TRACE_ID_HIGH)) {
			__builtin_memcpy(c->trace_id, &s->high, sizeof(s->high));
			c->have |= PART_TRACE_ID_HIGH;
		}
		if (tag != 1)
			return tag;
		if (next < 0)
			break;
		off = next + 1;
	}
	return 1;
}

/* One x-datadog-* line. */
VERIFIED_ALONE int read_datadog_part(struct scratch *s, __u32 header, __u32 off, __u32 end,
				     __u32 offset)
{
	struct context *c;

	if (!s)
		return 0;
	c = &s->walk.datadog;
	switch (header) {
	case HEADER_DATADOG_TRACE_ID:
		if (!read_decimal(s, off, end) || !s->high)
			return 0;
		if (!(c->have & PART_TRACE_ID)) {
			store_be64(c->trace_id + 8, s->high);
			add_id(c, PART_TRACE_ID, offset);
		}
		return 1;
	case HEADER_DATADOG_PARENT_ID:
		if (!read_decimal(s, off, end))
			return 0;
		if (!(c->have & PART_SPAN_ID)) {
			store_be64(c->span_id, s->high);
			add_id(c, PART_SPAN_ID, offset);
		}
		return 1;
	case HEADER_DATADOG_SAMPLING_PRIORITY:
		if (VALUE_IS(s, off, end, 1, '1', 0, 0, 0, 0, 0, 0, 0) ||
		    VALUE_IS(s, off, end, 1, '2', 0, 0, 0, 0, 0, 0, 0))
			return set_sampling(c, SAMPLING_ACCEPTED, false);
		if (VALUE_IS(s, off, end, 1, '0', 0, 0, 0, 0, 0, 0, 0) ||
		    VALUE_IS(s, off, end, 2, '-', '1', 0, 0, 0, 0, 0, 0))
			return set_sampling(c, SAMPLING_DENIED, false);
		return 0;
	case HEADER_DATADOG_TAGS:
		return read_datadog_tags(s, off, end);
	}
	return 1;
}

#endif
