/* SPDX-License-Identifier: Apache-2.0 */
/* The plugin configuration, a JSON object whose keys are all optional. Errors are messages: what
 * returns false has written one.
 *
 * read_config      read_member -> read_strings, read_string -> check
 */
#ifndef LAYERTRACE_CONFIG_H
#define LAYERTRACE_CONFIG_H

#include "list.h"

/* tracer is one of Envoy's tracers that placeholders support. */
struct tracer {
	struct bytes name;
	u32 format;	       /* of its headers: an index of formats[] */
	struct header root[3]; /* headers that it sets on every request that begins a trace */
	u32 roots;
};

#define ZERO                       \
	{                          \
		(const u8 *)"0", 1 \
	}

static const struct tracer tracers[] = {
	{NAME("zipkin"),
	 FORMAT_B3,
	 {{NAME("x-b3-traceid"), ZERO}, {NAME("x-b3-spanid"), ZERO}, {NAME("x-b3-sampled"), ZERO}},
	 3},
	{NAME("opentelemetry"),
	 FORMAT_W3C,
	 {{NAME("traceparent"), ZERO}, {NAME("tracestate"), {}}},
	 2},
};

enum key {
	KEY_FORMATS,	  /* the formats whose headers move, by their names. Default: all */
	KEY_HEADERS,	  /* names of further headers that move */
	KEY_PLACEMENT,	  /* where Envoy runs the filter */
	KEY_PLACEHOLDERS, /* the tracer whose headers the filter adds to a request without a
			   * trace context, for the tracer to overwrite; "" for none
			   */
	KEYS,
};

static const struct bytes keys[KEYS] = {NAME("formats"), NAME("headers"), NAME("placement"),
					NAME("placeholders")};

/* config is what is read, and where. Strings are in the text, without their escapes. */
struct config {
	u8 *text;
	u32 len, at;
	u32 seen; /* bits of enum key */
	u32 formats;
	bool formats_set;
	bool manager; /* in the connection manager, not upstream */
	struct bytes placeholders;
	struct names *names;
};

static bool not_json(struct config *c)
{
	SAY("not a JSON object: invalid at byte ");
	say_number(c->at);
	return false;
}

/* peek returns the next byte after white space, or 0 at the end. */
static u8 peek(struct config *c)
{
	while (c->at < c->len && (c->text[c->at] == ' ' || c->text[c->at] == '\t' ||
				  c->text[c->at] == '\n' || c->text[c->at] == '\r'))
		c->at++;
	return c->at < c->len ? c->text[c->at] : 0;
}

/* take consumes the byte, if it is the next one after white space. */
static bool take(struct config *c, u8 want)
{
	if (peek(c) != want)
		return false;
	c->at++;
	return true;
}

static bool take_null(struct config *c)
{
	struct bytes null = LITERAL("null");

	if (peek(c) != 'n' || c->len - c->at < null.len ||
	    !equal((struct bytes){c->text + c->at, null.len}, null))
		return false;
	c->at += null.len;
	return true;
}

/* begins_value reports whether a JSON value of another kind than a string begins here. */
static bool begins_value(struct config *c)
{
	u8 next = peek(c);

	return next == '{' || next == '[' || next == 't' || next == 'f' || next == '-' ||
	       (next >= '0' && next <= '9');
}

/* read_hex reads the four digits of an escape. */
static bool read_hex(struct config *c, u32 *rune)
{
	*rune = 0;
	if (c->len - c->at < 4)
		return false;
	for (u32 end = c->at + 4; c->at < end; c->at++) {
		u8 digit = c->text[c->at], letter = digit | 0x20;

		if (digit >= '0' && digit <= '9')
			*rune = *rune << 4 | (digit - '0');
		else if (letter >= 'a' && letter <= 'f')
			*rune = *rune << 4 | (letter - 'a' + 10);
		else
			return false;
	}
	return true;
}

/* read_escape reads what follows a backslash and writes it as UTF-8, which is never longer. */
static bool read_escape(struct config *c, u8 **to)
{
	static const u8 escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
	u32 rune, low;
	u8 escape;

	if (c->at == c->len)
		return false;
	escape = c->text[c->at++];
	for (u32 i = 0; i < sizeof(escapes) - 1; i++) {
		if (escape == escapes[i]) {
			*(*to)++ = meanings[i];
			return true;
		}
	}
	if (escape != 'u' || !read_hex(c, &rune))
		return false;
	if (rune >= 0xd800 && rune < 0xe000) { /* half of a surrogate pair */
		if (rune >= 0xdc00 || c->len - c->at < 6 || c->text[c->at++] != '\\' ||
		    c->text[c->at++] != 'u' || !read_hex(c, &low) || low < 0xdc00 || low >= 0xe000)
			return false;
		rune = 0x10000 + ((rune - 0xd800) << 10 | (low - 0xdc00));
		*(*to)++ = (u8)(0xf0 | rune >> 18);
		*(*to)++ = (u8)(0x80 | (rune >> 12 & 0x3f));
		*(*to)++ = (u8)(0x80 | (rune >> 6 & 0x3f));
		*(*to)++ = (u8)(0x80 | (rune & 0x3f));
	} else if (rune >= 0x800) {
		*(*to)++ = (u8)(0xe0 | rune >> 12);
		*(*to)++ = (u8)(0x80 | (rune >> 6 & 0x3f));
		*(*to)++ = (u8)(0x80 | (rune & 0x3f));
	} else if (rune >= 0x80) {
		*(*to)++ = (u8)(0xc0 | rune >> 6);
		*(*to)++ = (u8)(0x80 | (rune & 0x3f));
	} else {
		*(*to)++ = (u8)rune;
	}
	return true;
}

/* read_text reads a string into the text itself. */
static bool read_text(struct config *c, struct bytes *result)
{
	u8 *begin, *to;

	if (!take(c, '"'))
		return not_json(c);
	begin = to = c->text + c->at;
	for (;;) {
		u8 next;

		if (c->at == c->len)
			return not_json(c);
		next = c->text[c->at++];
		if (next == '"')
			break;
		if (next < ' ' || (next == '\\' && !read_escape(c, &to)))
			return not_json(c);
		if (next != '\\')
			*to++ = next;
	}
	*result = (struct bytes){begin, (u32)(to - begin)};
	return true;
}

/* read_string reads the string of a key; null leaves the value unchanged. */
static bool read_string(struct config *c, struct bytes key, struct bytes *value)
{
	if (take_null(c))
		return true;
	if (begins_value(c)) {
		say_quoted(key);
		SAY(" must be a string");
		return false;
	}
	return read_text(c, value);
}

static bool add_format(struct config *c, struct bytes name)
{
	for (u32 i = 0; i < FORMATS; i++) {
		if (equal(name, formats[i])) {
			c->formats |= 1U << i;
			return true;
		}
	}
	say_quoted(name);
	SAY(" is not a format (known: ");
	for (u32 i = 0; i < FORMATS; i++) {
		if (i)
			SAY(", ");
		say(formats[i]);
	}
	SAY(")");
	return false;
}

static bool add_header(struct config *c, struct bytes name)
{
	if (!is_token(name)) {
		say_quoted(name);
		SAY(" is not a header name (RFC 9110: letters, digits and !#$%&'*+-.^_`|~)");
		return false;
	}
	if (equal_fold(name, LITERAL("host"))) {
		say_quoted(name);
		SAY(" cannot be moved: it always precedes the trace context");
		return false;
	}
	add_name(c->names, name);
	return true;
}

/* read_strings passes each string of an array to add; null is no array. */
static bool read_strings(struct config *c, struct bytes key, bool *set,
			 bool (*add)(struct config *, struct bytes))
{
	if (take_null(c))
		return true;
	if (!take(c, '[')) {
		if (peek(c) != '"' && !begins_value(c))
			return not_json(c);
		goto wrong;
	}
	*set = true;
	if (take(c, ']'))
		return true;
	do {
		struct bytes value;

		if (begins_value(c) || peek(c) == 'n')
			goto wrong;
		if (!read_text(c, &value) || !add(c, value))
			return false;
	} while (take(c, ','));
	return take(c, ']') || not_json(c);
wrong:
	say_quoted(key);
	SAY(" must be an array of strings");
	return false;
}

static bool read_placement(struct config *c)
{
	struct bytes placement = LITERAL("upstream");

	if (!read_string(c, keys[KEY_PLACEMENT], &placement))
		return false;
	c->manager = equal(placement, LITERAL("connection-manager"));
	if (c->manager || equal(placement, LITERAL("upstream")))
		return true;
	SAY("\"placement\" is ");
	say_quoted(placement);
	SAY(", must be \"upstream\" or \"connection-manager\"");
	return false;
}

/* read_member reads a key and its value. An unknown key is an error, so that a typo does not go
 * unnoticed.
 */
static bool read_member(struct config *c)
{
	bool headers_set;
	struct bytes key;
	u32 k = 0;

	if (!read_text(c, &key))
		return false;
	while (k < KEYS && !equal(key, keys[k]))
		k++;
	if (k == KEYS) {
		SAY("unknown key ");
		say_quoted(key);
		SAY(" (known: \"formats\", \"headers\", \"placement\", \"placeholders\")");
		return false;
	}
	if (c->seen >> k & 1) {
		SAY("not a JSON object: duplicate object member name ");
		say_quoted(key);
		return false;
	}
	c->seen |= 1U << k;
	if (!take(c, ':'))
		return not_json(c);
	switch (k) {
	case KEY_FORMATS:
		return read_strings(c, keys[k], &c->formats_set, add_format);
	case KEY_HEADERS:
		return read_strings(c, keys[k], &headers_set, add_header);
	case KEY_PLACEMENT:
		return read_placement(c);
	default:
		return read_string(c, keys[k], &c->placeholders);
	}
}

/* check validates the values together and returns the tracer of the placeholders. */
static bool check(struct config *c, const struct tracer **tracer)
{
	struct bytes want = c->placeholders;

	*tracer = NULL;
	if (c->formats_set && !c->formats && !c->names->extra_len) {
		SAY("\"formats\" is empty and there are no \"headers\": nothing to move");
		return false;
	}
	if (!want.len)
		return true;
	for (u32 i = 0; i < sizeof(tracers) / sizeof(tracers[0]); i++) {
		if (equal(want, tracers[i].name))
			*tracer = &tracers[i];
	}
	SAY("\"placeholders\" ");
	if (!*tracer) {
		SAY("is ");
		say_quoted(want);
		SAY(", must be \"\", \"zipkin\" or \"opentelemetry\"");
		return false;
	}
	if (!c->manager) {
		SAY("needs \"placement\" \"connection-manager\"");
		return false;
	}
	if (c->formats_set && !(c->formats >> (*tracer)->format & 1)) {
		say_quoted(want);
		SAY(" needs ");
		say_quoted(formats[(*tracer)->format]);
		SAY(" among the \"formats\"");
		return false;
	}
	return true;
}

/* read_config reads the configuration; empty, or null, means defaults. It changes the text, and
 * replaces the names. The tracer is that of the placeholders, NULL for none.
 */
static bool read_config(struct bytes text, struct names *names, const struct tracer **tracer)
{
	struct config c = {.text = (u8 *)text.at, .len = text.len, .names = names};

	names->extra_len = 0;
	__builtin_memset(names->begins, 0, sizeof(names->begins));
	/* A name has at least its quotes and a comma or bracket in the text. */
	if (!reserve(&names->extra, (u64)text.len * 2)) {
		SAY("too long");
		return false;
	}
	if (peek(&c) && !take_null(&c)) {
		if (!take(&c, '{')) {
			SAY("not a JSON object");
			return false;
		}
		if (!take(&c, '}')) {
			do {
				if (!read_member(&c))
					return false;
			} while (take(&c, ','));
			if (!take(&c, '}'))
				return not_json(&c);
		}
	}
	if (peek(&c) || c.at < c.len) {
		SAY("not a JSON object: trailing data");
		return false;
	}
	if (!check(&c, tracer))
		return false;
	choose_formats(names, c.formats_set ? c.formats : ALL_FORMATS);
	return true;
}

#endif
