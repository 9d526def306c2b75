/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Exchanges that no further packet ends: user space runs this at intervals. */
#ifndef LAYERTRACE_SWEEP_H
#define LAYERTRACE_SWEEP_H

#include "connection.h"

/* Idle times in ns after which an exchange is emitted; open: how many are
 * left open afterwards.
 */
struct sweep_args {
	__u64 response_idle;
	__u64 request_idle;
	__u64 open;
};

struct sweep_context {
	__u64 now;
	struct sweep_args args;
};

static long sweep_connection(void *map, const struct connection_key *key, struct connection *c,
			     struct sweep_context *ctx)
{
	/* The claim is read before what it guards: a request that begins in
	 * between changes it, and the emission fails.
	 */
	__u64 claim = *(volatile __u64 *)&c->claim;
	__u64 last = *(volatile __u64 *)&c->last_ns;
	__u64 idle = ctx->now > last ? ctx->now - last : 0;

	if (!is_open(c) || (claim & 1))
		return 0;
	if (c->phase == PHASE_RESPONSE && idle >= ctx->args.response_idle)
		emit(c, claim, 0);
	else if (c->phase == PHASE_REQUEST && idle >= ctx->args.request_idle)
		emit(c, claim, FLAG_IDLE);
	else
		ctx->args.open++;
	return 0;
}

SEC("syscall")
int sweep(struct sweep_args *args)
{
	struct sweep_context ctx = {.now = bpf_ktime_get_ns()};

	ctx.args.response_idle = args->response_idle;
	ctx.args.request_idle = args->request_idle;
	bpf_for_each_map_elem(&connections, sweep_connection, &ctx, 0);
	args->open = ctx.args.open;
	return 0;
}

#endif
