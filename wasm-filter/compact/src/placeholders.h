/* SPDX-License-Identifier: Apache-2.0 */
/* Placeholders: the tracer's headers, added to requests that begin a trace, for the tracer to
 * overwrite in place. The tracer decides before the filter runs and writes after it, and the
 * proxy does not show whether there is a tracer. Two conditions keep placeholders from reaching
 * an upstream:
 *
 *   - Envoy shows that it traces this request: x-envoy-decorator-operation, which it sets before
 *     the filters, only if tracing is configured, on listeners of direction OUTBOUND and routes
 *     with a decorator (Istio's have one). (Envoy, conn_manager_impl.cc, setRequestDecorator.)
 *   - The tracer has proven to be the configured one: at the end of an earlier request of this
 *     kind, without placeholders, all its headers were there.
 */
#ifndef LAYERTRACE_PLACEHOLDERS_H
#define LAYERTRACE_PLACEHOLDERS_H

#include "config.h"

struct counter {
	u32 id;
	bool defined; /* false: the proxy refused */
};

static void count(const struct counter *c)
{
	if (c->defined)
		proxy_increment_metric(c->id, 1); /* it fails only for an unknown counter */
}

/* What is known about the tracer. */
enum proof {
	UNPROVEN,
	PROVEN,
	REFUTED, /* permanently: another tracer, or none */
};

struct placeholders {
	const struct tracer *tracer; /* NULL: no placeholders */
	enum proof state;
	u32 watched; /* the stream whose end decides, 0 for none */
	u32 passed;  /* streams since then that could have been watched */
	struct counter set, left;
};

/* The number of streams that a watched one may outlast: it could last for days. */
#define PASSED_MAX 1000

/* Headers of every format, also of those that do not move. */
static struct names all_names;

/* is_traced reports whether Envoy shows that it traces the request. A header from the client
 * precedes x-request-id, unless the client sent that as well.
 */
static bool is_traced(void)
{
	u32 id, operation;

	if (has_any(&all_names) || find(TRACESTATE) != NO_ENTRY)
		return false;
	id = find(LITERAL("x-request-id"));
	operation = find(LITERAL("x-envoy-decorator-operation"));
	return id != NO_ENTRY && operation != NO_ENTRY && operation > id;
}

static bool is_outbound(void)
{
	/* envoy.config.core.v3.TrafficDirection.OUTBOUND, an int64 */
	static const u8 outbound[8] = {2};
	struct bytes direction;

	return get_property(LITERAL("xds\0listener_direction"), &direction) == STATUS_OK &&
	       equal(direction, (struct bytes){outbound, sizeof(outbound)});
}

/* begin_placeholders handles a request in which reorder found no trace context. It returns the
 * headers with placeholders, empty if there must be none.
 */
static struct bytes begin_placeholders(struct placeholders *p, u32 stream)
{
	struct bytes with = {};

	if (p->state == REFUTED || !is_traced())
		return with;
	if (p->state == PROVEN)
		with = insert(p->tracer->root, p->tracer->roots);
	/* The last use of the list was above: a property overwrites it. */
	if (!is_outbound())
		return (struct bytes){};
	if (!p->watched || ++p->passed > PASSED_MAX) {
		p->watched = stream;
		p->passed = 0;
	}
	return with;
}

static void refute(struct placeholders *p, struct bytes reason)
{
	p->state = REFUTED;
	begin_message();
	SAY("the tracer of this proxy ");
	say(reason);
	SAY(" as ");
	say(p->tracer->name);
	SAY(" does; placeholders are off");
	warn();
}

/* has_written reports whether all of the tracer's headers are there, and the first one is not a
 * placeholder.
 */
static bool has_written(const struct placeholders *p, const struct names *names, struct bytes pairs)
{
	struct bytes unused;

	if (reorder(names, pairs, &unused) == MALFORMED)
		return false;
	for (u32 i = 0; i < p->tracer->roots; i++) {
		u32 at = find(p->tracer->root[i].name);

		if (at == NO_ENTRY || (i == 0 && equal(value_of(at), p->tracer->root[0].value)))
			return false;
	}
	return true;
}

/* end_placeholders looks for the tracer's headers at the end of the watched stream. */
static void end_placeholders(struct placeholders *p, const struct names *names)
{
	struct bytes address, pairs;
	bool written;

	p->watched = 0;
	if (get_property(LITERAL("upstream\0address"), &address) != STATUS_OK || !address.len)
		return; /* not sent to an upstream, so nothing was injected */
	if (get_request_headers(&pairs) != STATUS_OK)
		return;
	written = has_written(p, names, pairs);
	if (written && p->state == UNPROVEN) {
		p->state = PROVEN;
	} else if (!written && p->state == UNPROVEN) {
		refute(p, LITERAL("does not write its headers"));
	} else if (!written && p->state == PROVEN) {
		count(&p->left);
		refute(p, LITERAL("has left placeholders in a request"));
	}
}

#endif
