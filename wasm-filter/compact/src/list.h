/* SPDX-License-Identifier: Apache-2.0 */
/* The new order of a request's headers, in the bytes in which a proxy passes the list (proxy-wasm
 * ABI 0.2.1, "Serialized maps"), all numbers little-endian:
 *
 *	u32 count, count times {u32 size of name, u32 size of value},
 *	count times {name, NUL, value, NUL}
 *
 * reorder          read_list -> classify -> arrange -> write_list
 * insert           arrange, twice -> write_list
 */
#ifndef LAYERTRACE_LIST_H
#define LAYERTRACE_LIST_H

#include "names.h"

enum outcome {
	MALFORMED, /* not a header list, or no memory for it */
	NO_CONTEXT,
	ALREADY_FIRST,
	REORDERED,
};

/* Groups of headers, in the order in which they are sent. */
enum kind {
	KIND_HEAD,	   /* pseudo headers, and host if it leads */
	KIND_TE,	   /* of a gRPC request, which sends these three */
	KIND_TIMEOUT,	   /* before custom metadata, such as a trace context */
	KIND_CONTENT_TYPE, /* (gRPC over HTTP2, "Requests") */
	KIND_TRACE,	   /* the trace context */
	KIND_STATE,	   /* tracestate: after the last traceparent */
	KIND_REST,
};

struct entry {
	u32 at, name, value; /* offset of the name; sizes */
	enum kind kind;
};

/* run is a sequence of entries that stays together: first and end index. */
struct run {
	u32 first, end;
};

#define COUNT_SIZE 4
#define SIZES_SIZE 8
#define NO_ENTRY UINT32_MAX

/* List is the header list of the current request. Its buffers serve one request after the other. */
static struct {
	struct bytes pairs;
	struct buffer entries, runs, out;
	u32 count, run_count;
	u32 last_parent; /* the last traceparent, or NO_ENTRY */
	bool grpc;
} list;

static struct entry *entry(u32 i)
{
	return (struct entry *)list.entries.at + i;
}

static struct bytes name_of(u32 i)
{
	return (struct bytes){list.pairs.at + entry(i)->at, entry(i)->name};
}

static struct bytes value_of(u32 i)
{
	struct entry *e = entry(i);

	return (struct bytes){list.pairs.at + e->at + e->name + 1, e->value};
}

/* read_list fills the entries. It reports whether pairs is a header list, with every part
 * inside.
 */
static bool read_list(struct bytes pairs)
{
	u64 count, at;

	list.count = 0;
	list.pairs = pairs;
	if (pairs.len < COUNT_SIZE || pairs.len > 1U << 31)
		return false;
	count = number(pairs.at);
	at = COUNT_SIZE + count * SIZES_SIZE;
	if (at > pairs.len || !reserve(&list.entries, count * sizeof(struct entry)) ||
	    !reserve(&list.runs, (count + 1) * sizeof(struct run)))
		return false;
	for (u32 i = 0; i < count; i++) {
		const u8 *sizes = pairs.at + COUNT_SIZE + i * SIZES_SIZE;
		struct entry *e = entry(i);

		e->at = (u32)at;
		e->name = number(sizes);
		e->value = number(sizes + 4);
		at += (u64)e->name + e->value + 2;
		if (at > pairs.len)
			return false;
	}
	list.count = (u32)count;
	return at == pairs.len;
}

/* call_kind returns the kind of a header by which gRPC defines a call, or KIND_REST. */
static enum kind call_kind(struct bytes name)
{
	if (equal_fold(name, LITERAL("te")))
		return KIND_TE;
	if (equal_fold(name, LITERAL("grpc-timeout")))
		return KIND_TIMEOUT;
	if (equal_fold(name, LITERAL("content-type")))
		return KIND_CONTENT_TYPE;
	return KIND_REST;
}

/* is_grpc reports whether a content type is that of gRPC, by Envoy's definition: not that of
 * gRPC-Web, which a browser sends to a proxy.
 */
static bool is_grpc(struct bytes value)
{
	struct bytes grpc = LITERAL("application/grpc");

	return value.len >= grpc.len && equal((struct bytes){value.at, grpc.len}, grpc) &&
	       (value.len == grpc.len || value.at[grpc.len] == '+');
}

static bool is_call(enum kind kind)
{
	return kind >= KIND_TE && kind <= KIND_CONTENT_TYPE;
}

/* replace_kind changes the kind of entries. */
static void replace_kind(bool (*matches)(enum kind), enum kind by)
{
	for (u32 i = 0; i < list.count; i++) {
		if (matches(entry(i)->kind))
			entry(i)->kind = by;
	}
}

static bool is_state(enum kind kind)
{
	return kind == KIND_STATE;
}

/* classify sets the kind of each entry. It reports whether there is a trace context. */
static bool classify(const struct names *names)
{
	bool traced = false, states = false, calls = false;
	bool leading = true; /* only pseudo headers and host so far */

	list.last_parent = NO_ENTRY;
	list.grpc = false;
	for (u32 i = 0; i < list.count; i++) {
		struct bytes name = name_of(i);
		enum kind kind;

		if ((name.len && name.at[0] == ':') ||
		    (leading && equal_fold(name, LITERAL("host")))) {
			kind = KIND_HEAD;
		} else if (equal_fold(name, TRACESTATE)) {
			kind = KIND_STATE;
			states = true;
		} else if (is_trace_header(names, name)) {
			kind = KIND_TRACE;
			traced = true;
			if (equal_fold(name, TRACEPARENT))
				list.last_parent = i;
		} else {
			kind = call_kind(name);
			calls |= kind != KIND_REST;
			list.grpc |= kind == KIND_CONTENT_TYPE && is_grpc(value_of(i));
		}
		entry(i)->kind = kind;
		leading &= kind == KIND_HEAD;
	}
	if (states && list.last_parent == NO_ENTRY) {
		/* A header like any other: it moves only if it is configured to. */
		bool moves = is_trace_header(names, TRACESTATE);

		replace_kind(is_state, moves ? KIND_TRACE : KIND_REST);
		traced |= moves;
	}
	if (calls && !list.grpc)
		replace_kind(is_call, KIND_REST);
	return traced;
}

static void add_run(u32 i)
{
	struct run *runs = list.runs.at;

	if (list.run_count && runs[list.run_count - 1].end == i)
		runs[list.run_count - 1].end++;
	else
		runs[list.run_count++] = (struct run){i, i + 1};
}

/* arrange adds the entries of the kinds from first to last to the runs, in their new order. A
 * single run of all kinds is the list as it was.
 */
static void arrange(enum kind first, enum kind last)
{
	for (enum kind kind = first; kind <= last; kind++) {
		if (kind == KIND_STATE || (is_call(kind) && !list.grpc))
			continue;
		for (u32 i = 0; i < list.count; i++) {
			if (entry(i)->kind != kind)
				continue;
			add_run(i);
			if (i != list.last_parent)
				continue;
			for (u32 s = 0; s < list.count; s++) {
				if (entry(s)->kind == KIND_STATE)
					add_run(s);
			}
		}
	}
}

/* offset returns where entry i begins, or the end of the list. */
static u32 offset(u32 i)
{
	return i < list.count ? entry(i)->at : list.pairs.len;
}

static u8 *append(u8 *to, const u8 *from, u32 len)
{
	__builtin_memcpy(to, from, len);
	return to + len;
}

static u8 *append_number(u8 *to, u32 n)
{
	return append(to, (const u8 *)&n, sizeof(n));
}

static u8 *append_sizes(u8 *to, u32 first, u32 end)
{
	struct run *runs = list.runs.at;

	for (u32 i = first; i < end; i++)
		to = append(to, list.pairs.at + COUNT_SIZE + SIZES_SIZE * runs[i].first,
			    SIZES_SIZE * (runs[i].end - runs[i].first));
	return to;
}

static u8 *append_data(u8 *to, u32 first, u32 end)
{
	struct run *runs = list.runs.at;

	for (u32 i = first; i < end; i++)
		to = append(to, list.pairs.at + offset(runs[i].first),
			    offset(runs[i].end) - offset(runs[i].first));
	return to;
}

/* reorder makes a list with the trace context right after the pseudo headers and a leading host.
 * Within these three groups the order stays, repeated headers included, except for tracestate:
 * it follows the last traceparent, and without one it is an ordinary header. In a gRPC request
 * te, grpc-timeout and content-type precede the trace context, in this order.
 *
 * The result is set if the outcome is REORDERED, and valid until the next call.
 */
static enum outcome reorder(const struct names *names, struct bytes pairs, struct bytes *result)
{
	u8 *out;

	if (!read_list(pairs))
		return MALFORMED;
	if (!classify(names))
		return NO_CONTEXT;
	list.run_count = 0;
	arrange(KIND_HEAD, KIND_REST);
	if (list.run_count == 1)
		return ALREADY_FIRST;
	if (!reserve(&list.out, pairs.len))
		return MALFORMED;
	out = append(list.out.at, pairs.at, COUNT_SIZE);
	out = append_sizes(out, 0, list.run_count);
	append_data(out, 0, list.run_count);
	*result = (struct bytes){list.out.at, pairs.len};
	return REORDERED;
}

/* The functions below use the list that reorder was called with last. */

/* find returns the index of the first header of a name (in lower case), or NO_ENTRY. */
static u32 find(struct bytes name)
{
	for (u32 i = 0; i < list.count; i++) {
		if (equal_fold(name_of(i), name))
			return i;
	}
	return NO_ENTRY;
}

/* has_any reports whether any of the headers has one of the names. */
static bool has_any(const struct names *names)
{
	for (u32 i = 0; i < list.count; i++) {
		if (is_trace_header(names, name_of(i)))
			return true;
	}
	return false;
}

struct header {
	struct bytes name, value;
};

/* insert makes the list with further headers where a trace context goes: right after the pseudo
 * headers, a leading host, and what precedes it in a gRPC request. The result is valid until the
 * next call of insert or reorder; it is empty if there is no memory.
 */
static struct bytes insert(const struct header *added, u32 count)
{
	u64 len = list.pairs.len;
	u32 before;
	u8 *out;

	for (u32 i = 0; i < count; i++)
		len += SIZES_SIZE + added[i].name.len + added[i].value.len + 2;
	if (!reserve(&list.out, len))
		return (struct bytes){};
	list.run_count = 0;
	arrange(KIND_HEAD, KIND_CONTENT_TYPE);
	before = list.run_count;
	/* An empty run keeps those before and after the headers apart. */
	((struct run *)list.runs.at)[list.run_count++] = (struct run){};
	arrange(KIND_TRACE, KIND_REST);

	out = append_number(list.out.at, list.count + count);
	out = append_sizes(out, 0, before);
	for (u32 i = 0; i < count; i++) {
		out = append_number(out, added[i].name.len);
		out = append_number(out, added[i].value.len);
	}
	out = append_sizes(out, before, list.run_count);
	out = append_data(out, 0, before);
	for (u32 i = 0; i < count; i++) {
		out = append(out, added[i].name.at, added[i].name.len);
		*out++ = 0;
		out = append(out, added[i].value.at, added[i].value.len);
		*out++ = 0;
	}
	append_data(out, before, list.run_count);
	return (struct bytes){list.out.at, (u32)len};
}

#endif
