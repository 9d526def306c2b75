//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Capture at interfaces: one body and a thin wrapper per hook, direction and link
 * type. The programs only read; their verdict is always "next program". The sweep
 * emits exchanges that no further packet ends.
 *
 * Entry point               functions
 * capture_in, capture_out   capture: parse_fast -> skip_untracked (nearly all packets)
 *   (_l3: no Ethernet)        or slow_path_direct -> slow_path
 * capture_sock (_l3)        slow_path
 * slow_path                 parse -> classify_payload -> track_segment
 * classify_payload          segment cache, else read_payload -> walk_head
 * walk_head                 fast_walk_packet, then parse_lines -> parse_line,
 *                             deep: search_chunks
 * track_segment             on_syn | on_payload, then on_fin, end_connection, set_tracked
 * on_payload                for each part: search_on (deep), track_part
 * track_part                on_client_data (request.h) | on_server_data (response.h)
 * sweep                     at the beginning and the end of a walk: begin_recount,
 *                             end_recount, sweep_queued
 * sweep_walk                for each connection: sweep_connection -> emit, untrack, report
 */
#include "include/iterator.h"
#include "include/track.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

CAPTURE_PROGRAMS(capture)

#define IDLE_BUCKETS 32

/* What one run of sweep does. Between the first two, user space walks over the connections
 * with sweep_walk, in slices. It repeats the last until the ring has room for all.
 */
enum sweep_stage {
	SWEEP_BEGIN,
	SWEEP_END,    /* corrects counts */
	SWEEP_QUEUED, /* requests in the queue */
};

/* Times in ns. An exchange is emitted when it has been idle for response_idle and is
 * complete; for unframed_idle, if the end of its response cannot be known; else for
 * request_idle. One that has been open for hold_after is reported once before, and again
 * after report_after. A connection is forgotten when it has been idle for forget_idle after
 * its exchange was emitted. With evict_idle, up to evict_max open exchanges that have been idle
 * for longer are emitted. Unproven connections are forgotten after unproven_idle.
 * Results: open, exchanges left open, and in idle those by the logarithm of their idle
 * time in units of 2^20 ns; unproven, connections without proof; tracked, others, and those
 * that it forgot; evicted; deferred, queued requests for which the ring had no room; miscounted,
 * slots of tracked_connections whose count was not right.
 */
struct sweep_args {
	enum sweep_stage stage;
	__u64 response_idle;
	__u64 request_idle;
	__u64 unframed_idle;
	__u64 hold_after;
	__u64 report_after;
	__u64 forget_idle;
	__u64 unproven_idle;
	__u64 evict_idle;
	__u64 evict_max;
	__u64 open;
	__u64 unproven;
	__u64 tracked;
	__u64 evicted;
	__u64 deferred;
	__u64 miscounted;
	__u64 idle[IDLE_BUCKETS];
};

/* Between runs, and not on the stack: there the verifier would follow each value. Sweeps do
 * not overlap.
 */
struct sweep_context {
	__u64 now;
	struct sweep_args args;
} sweeping;

/* The counts of tracked_connections, counted again by the sweep: a packet program that
 * works on a connection while another one deletes it leaves a count that is wrong for good.
 */
struct recount {
	__u32 before; /* the count before the walk */
	__u32 seen;   /* connections seen by the walk */
	__u32 wrong;  /* difference at the latest sweep */
};

struct {
	struct recount of[1 << TRACKED_BITS];
	struct recount unproven;
} recounts;

/* Idle times after which a connection with an emitted exchange is no longer tracked; until
 * then late segments are counted. A connection kept open but unused must not stay
 * tracked: it would send other connections in the same slot down the slow path. It stays
 * in the table for longer: a copy of its request, sent while the response is lost, is no
 * new request.
 */
#define UNTRACK_AFTER 2

/* Stops tracking a connection, unless another request has begun meanwhile. */
static __always_inline bool untrack(struct connection *c, const struct connection_key *key,
				    __u64 claim, __u8 phase)
{
	__u32 *counter = tracked_counter_at(key);
	__u32 tracked = c->tracked;

	if (!counter)
		return false;
	set_tracked(c, counter, 0);
	if (*(volatile __u64 *)&c->claim == claim && *(volatile __u8 *)&c->phase == phase)
		return true;
	set_tracked(c, counter, tracked);
	return false;
}

/* Requests in its queue are emitted by sweep_queued(). The last sweep of an agent deletes
 * nothing: no other one follows, which would visit what a slice skipped. It can still skip a
 * connection if a packet deletes another one of the bucket in which a slice ends.
 */
static __always_inline void
forget_connection(struct connection *c, const struct connection_key *key, __u64 claim, __u8 phase)
{
	if (untrack(c, key, claim, phase)) {
		set_proof(c, PROOF_NONE);
		if (sweeping.args.request_idle)
			bpf_map_delete_elem(&connections, key);
	}
}

/* A complete exchange also waits for the application to read the response. */
static __always_inline bool has_settled(const struct connection *c)
{
	return is_complete(c) &&
	       !(c->x.is_client && (c->left_unread || c->x.far_response_last < c->x.response_last));
}

static __always_inline bool is_unframed(const struct connection *c)
{
	return c->phase == PHASE_RESPONSE && !is_whole(&c->response, &c->server) &&
	       !is_unfinished(&c->response, &c->server);
}

/* A connection without an exchange to emit. */
static __always_inline void sweep_rest(const struct connection_key *key, struct connection *c,
				       struct sweep_args *args, __u64 claim, __u64 idle)
{
	__u8 phase = *(volatile __u8 *)&c->phase;
	__u64 limit = args->request_idle;

	if (phase == PHASE_RESPONSE) {
		limit = UNTRACK_AFTER * args->response_idle;
		if (args->request_idle && c->tracked && idle >= limit)
			untrack(c, key, claim, phase);
		if (limit < args->forget_idle)
			limit = args->forget_idle;
	} else if (phase == PHASE_IDLE && !expects_more(c) && !c->syn_option_len) {
		limit = UNTRACK_AFTER * args->response_idle;
	}
	args->tracked++; /* also when it is forgotten: see sweep_walk */
	if (!args->request_idle || idle < limit)
		return;
	if (phase == PHASE_HEAD)
		count(COUNTER_DISCARDED);
	forget_connection(c, key, claim, phase);
}

/* A connection without proof. */
static __always_inline void sweep_unproven(const struct connection_key *key, struct connection *c,
					   struct sweep_args *args, __u64 claim, __u64 idle)
{
	__u8 phase = *(volatile __u8 *)&c->phase;

	if (idle < args->unproven_idle) {
		args->unproven++;
		return;
	}
	args->tracked++;
	if (is_open(c))
		emit(c, claim, 0); /* counts it */
	if (phase == PHASE_HEAD)
		count(COUNTER_DISCARDED);
	forget_connection(c, key, claim | 1, phase);
}

static __always_inline __u32 idle_bucket(__u64 idle)
{
	__u32 bucket = 0;

	idle >>= 20;
	for (int i = 0; i < IDLE_BUCKETS - 1; i++) {
		if (!idle)
			break;
		idle >>= 1;
		bucket++;
	}
	return bucket & (IDLE_BUCKETS - 1);
}

/* Reports an exchange that goes on, if it is old enough. Returns false if it is, and the ring
 * has no room.
 */
static __always_inline bool report(const struct exchange_record *x, __u8 *reports,
				   struct sweep_context *ctx)
{
	struct sweep_args *args = &ctx->args;
	__u64 age = ctx->now > x->request_first ? ctx->now - x->request_first : 0;
	__u8 due = 0;

	if (args->hold_after && age >= args->hold_after)
		due |= REPORT_HELD;
	if (args->report_after && age >= args->report_after)
		due |= REPORT_OPEN;
	if (!(due & ~*reports))
		return true;
	if (!ring_has_room(&exchanges))
		return false;
	*reports |= due;
	report_open(x);
	return true;
}

/* A connection with an exchange to emit. Returns false if the ring has no room for that. */
static __always_inline bool sweep_open(const struct connection_key *key, struct connection *c,
				       struct sweep_context *ctx, __u64 claim, __u64 idle)
{
	struct sweep_args *args = &ctx->args;
	__u64 limit = args->request_idle;
	__u32 flags = FLAG_IDLE;
	bool ends, evicted;

	if (has_settled(c)) {
		limit = args->response_idle;
		flags = guessed(c);
	} else if (is_unframed(c)) {
		limit = args->unframed_idle;
		flags = FLAG_END_GUESSED;
	}
	ends = idle >= limit;
	evicted = !ends && args->evict_idle && idle >= args->evict_idle &&
		  args->evicted < args->evict_max;
	if ((ends || evicted) && !ring_has_room(&exchanges))
		return false;
	if (ends) {
		emit(c, claim, flags);
		args->tracked++;
		return true;
	}
	if (evicted) {
		emit(c, claim, FLAG_EVICTED);
		forget_connection(c, key, claim | 1, *(volatile __u8 *)&c->phase);
		args->tracked++;
		args->evicted++;
		return true;
	}
	if (!report(&c->x, &c->reports, ctx))
		return false;
	args->open++;
	args->idle[idle_bucket(idle)]++;
	return true;
}

/* Returns false if the ring has no room for its exchange. */
static __always_inline bool sweep_connection(const struct connection_key *key, struct connection *c)
{
	struct sweep_context *ctx = &sweeping;
	/* Read the claim before what it guards: a request that begins in between changes it,
	 * and emit() does nothing.
	 */
	__u64 claim = *(volatile __u64 *)&c->claim;
	__u64 last = *(volatile __u64 *)&c->last_ns;
	__u64 idle = ctx->now > last ? ctx->now - last : 0;
	bool unproven = *(volatile __u32 *)&c->proof == PROOF_AWAITED;
	bool tracked = c->tracked;

	if (unproven)
		sweep_unproven(key, c, &ctx->args, claim, idle);
	else if (!is_open(c) || claim & 1)
		sweep_rest(key, c, &ctx->args, claim, idle);
	else if (!sweep_open(key, c, ctx, claim, idle))
		return false;
	if (unproven)
		recounts.unproven.seen++;
	if (tracked)
		recounts.of[tracked_slot(hash_of_key(key, point_of(key)))].seen++;
	return true;
}

/* Forgotten connections count as tracked: another sweep follows, which visits the connections
 * that this one skipped.
 */
WALK_PROGRAM(sweep_walk, connections, sweep_connection)

/* A request that waits for the response to an earlier one. */
static long sweep_queued(void *map, const struct queue_key *key, struct queued_request *q,
			 void *unused)
{
	struct sweep_context *ctx = &sweeping;
	const struct connection *c = bpf_map_lookup_elem(&connections, &key->connection);
	__u64 last = c ? c->last_ns : 0;

	if (!c || !ctx->args.request_idle || last + ctx->args.request_idle <= ctx->now) {
		if (!q->recorded || ring_has_room(&exchanges))
			emit_queued(key, FLAG_IDLE, c ? is_proven(c) : q->proven);
		else
			ctx->args.deferred++;
	} else if (q->recorded && is_proven(c) && !report(&q->x, &q->reports, ctx)) {
		ctx->args.deferred++;
	}
	return 0;
}

static __always_inline void begin_recount(struct recount *r, const __u32 *count)
{
	r->before = *(volatile __u32 *)count;
	r->seen = 0;
}

/* Corrects a count that nothing has changed since the walk began, if two sweeps agree.
 * Returns whether it is not right.
 */
static __always_inline bool end_recount(struct recount *r, __u32 *count, __u32 *total)
{
	__u32 now = *(volatile __u32 *)count, wrong = (now - r->seen) & COUNT_MASK;
	bool again = wrong && r->wrong == wrong;

	r->wrong = now == r->before ? wrong : 0;
	if (!again || now != r->before ||
	    __sync_val_compare_and_swap(count, now, (now & ~COUNT_MASK) | r->seen) != now)
		return wrong;
	if (total)
		__sync_fetch_and_add(total, r->seen - (now & COUNT_MASK));
	return true;
}

static long begin_slot(__u32 i, void *unused)
{
	const struct tracked *f = bpf_map_lookup_elem(&tracked_connections, &(__u32){0});

	i &= (1 << TRACKED_BITS) - 1;
	if (f)
		begin_recount(&recounts.of[i], &f->count[i]);
	return 0;
}

static long end_slot(__u32 i, void *unused)
{
	struct tracked *f = bpf_map_lookup_elem(&tracked_connections, &(__u32){0});

	i &= (1 << TRACKED_BITS) - 1;
	if (f)
		sweeping.args.miscounted += end_recount(&recounts.of[i], &f->count[i], &f->total);
	return 0;
}

static __always_inline void begin_sweep(const struct sweep_args *args, const struct tracked *f)
{
	struct sweep_context *ctx = &sweeping;

	ctx->now = bpf_ktime_get_ns();
	ctx->args = *args;
	ctx->args.open = 0;
	ctx->args.unproven = 0;
	ctx->args.tracked = 0;
	ctx->args.evicted = 0;
	ctx->args.deferred = 0;
	ctx->args.miscounted = 0;
	__builtin_memset(ctx->args.idle, 0, sizeof(ctx->args.idle));
	bpf_loop(1 << TRACKED_BITS, begin_slot, NULL, 0);
	begin_recount(&recounts.unproven, &f->unproven);
}

SEC("syscall")
int sweep(struct sweep_args *args)
{
	struct tracked *f = bpf_map_lookup_elem(&tracked_connections, &(__u32){0});
	struct sweep_context *ctx = &sweeping;

	if (!f)
		return 0;
	switch (args->stage) {
	case SWEEP_BEGIN:
		begin_sweep(args, f);
		break;
	case SWEEP_END:
		bpf_loop(1 << TRACKED_BITS, end_slot, NULL, 0);
		ctx->args.miscounted += end_recount(&recounts.unproven, &f->unproven, NULL);
		break;
	case SWEEP_QUEUED:
		ctx->args.deferred = 0;
		bpf_for_each_map_elem(&queued_requests, sweep_queued, NULL, 0);
		break;
	}
	*args = ctx->args;
	return 0;
}
