/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* IDs out of text: hexadecimal, decimal, and hashed. */
#ifndef LAYERTRACE_DIGITS_H
#define LAYERTRACE_DIGITS_H

#include "scratch.h"

#define HEX_UPPER 0x40
#define HEX_INVALID 0x80

/* Value of a hex digit; upper-case ones marked, since W3C forbids them. */
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

/* Eight hex digits at once, to their four bytes. Sets bits of bad when one is no
 * digit of that case.
 *
 * A letter has bit 6 set, a decimal digit has not; from the low nibble and that
 * bit follow the value and the only character that it may have come from.
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

/* Decodes 2 * bytes digits at text, a multiple of 16, to words of 8 bytes; false
 * when one is no digit of that case or all are zero, which no ID may be. Stored
 * as they will be read: a load that covers two stores has to wait for both.
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

/* Whether n bytes at off are hex digits in either case. */
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

/* 1 to 20 decimal digits between off and end: a number of 64 bits, not 0. */
static __always_inline bool read_decimal(const struct scratch *s, __u32 off, __u32 end, __u64 *to)
{
	const __u64 limit = ~0ULL / 10;
	__u64 value = 0;

	if (off >= end || end - off > 20)
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
	*to = value;
	return value != 0;
}

/* FNV-1a, 64 bits (draft-eastlake-fnv). */
#define FNV_BASIS 0xcbf29ce484222325ULL
#define FNV_PRIME 0x100000001b3ULL

static __always_inline __u64 fnv(__u64 hash, __u8 byte)
{
	return (hash ^ byte) * FNV_PRIME;
}

#endif
