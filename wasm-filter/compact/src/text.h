/* SPDX-License-Identifier: Apache-2.0 */
/* Names of headers, and messages for the proxy's log. */
#ifndef LAYERTRACE_TEXT_H
#define LAYERTRACE_TEXT_H

#include "proxy.h"

static bool equal(struct bytes a, struct bytes b)
{
	if (a.len != b.len)
		return false;
	for (u32 i = 0; i < a.len; i++) {
		if (a.at[i] != b.at[i])
			return false;
	}
	return true;
}

static u8 lower(u8 c)
{
	return c >= 'A' && c <= 'Z' ? c | 0x20 : c;
}

/* equal_fold reports whether name is want, which is in lower case. It compares from the end:
 * different names mostly differ there (x-envoy-..., x-forwarded-...) or in length.
 */
static bool equal_fold(struct bytes name, struct bytes want)
{
	if (name.len != want.len)
		return false;
	for (u32 i = name.len; i > 0; i--) {
		if (lower(name.at[i - 1]) != want.at[i - 1])
			return false;
	}
	return true;
}

/* is_token reports whether a name can be a header's (RFC 9110, section 5.6.2). */
static bool is_token(struct bytes name)
{
	static const char marks[] = "!#$%&'*+-.^_`|~";

	for (u32 i = 0; i < name.len; i++) {
		u8 c = name.at[i], letter = c | 0x20;
		bool valid = (letter >= 'a' && letter <= 'z') || (c >= '0' && c <= '9');

		for (u32 m = 0; m < sizeof(marks) - 1; m++)
			valid |= c == marks[m];
		if (!valid)
			return false;
	}
	return name.len > 0;
}

/* Message is the line for the log that is being written, cut at its size. */
static struct {
	u8 text[768];
	u32 len;
} message;

static void say_char(u8 c)
{
	if (message.len < sizeof(message.text))
		message.text[message.len++] = c;
}

static void say(struct bytes text)
{
	for (u32 i = 0; i < text.len; i++)
		say_char(text.at[i]);
}

#define SAY(literal) say(LITERAL(literal))

static void say_number(u32 n)
{
	if (n >= 10)
		say_number(n / 10);
	say_char('0' + n % 10);
}

#define QUOTED_MAX 100 /* bytes */

/* say_quoted writes text between quotes, with escapes for what does not belong in a line. */
static void say_quoted(struct bytes text)
{
	static const char digits[] = "0123456789abcdef";

	say_char('"');
	for (u32 i = 0; i < text.len && i < QUOTED_MAX; i++) {
		u8 c = text.at[i];

		if (c == '"' || c == '\\') {
			say_char('\\');
		} else if (c < ' ' || c == 0x7f) {
			SAY("\\x");
			say_char(digits[c >> 4]);
			c = digits[c & 15];
		}
		say_char(c);
	}
	say_char('"');
	if (text.len > QUOTED_MAX)
		SAY("...");
}

static void begin_message(void)
{
	message.len = 0;
	SAY("layertrace: ");
}

static void warn(void)
{
	proxy_log(LOG_WARN, message.text, message.len);
}

#endif
