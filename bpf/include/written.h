/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* When sockets of the chosen cgroups were written to last, where that is not when
 * it was sent. A write comes before its first packet, and nobody knows
 * then whether a request that is recorded begins: so it is noted of all sockets,
 * in a table of its own. Their BPF storage is far from every cache.
 */
#ifndef LAYERTRACE_WRITTEN_H
#define LAYERTRACE_WRITTEN_H

#include "chosen.h"
#include "scratch.h"

/* Whether a write of len bytes is sent at once: it fits one segment, the peer has
 * room for it, and all before it was acknowledged. So neither the congestion
 * window, nor Nagle's algorithm, nor a queue with earlier segments makes it wait.
 * So it is with nearly every request, and the time, which is not cheap, need not
 * be taken.
 */
static __always_inline bool is_sent_at_once(const struct tcp_sock *tp, __u64 len)
{
	return tp->write_seq == tp->snd_una && len <= tp->mss_cache && len <= tp->snd_wnd;
}

/* A power of 2. Of two sockets with the same place, the one that wrote last is
 * known.
 */
#define WRITINGS (1 << 10)

struct noted_writing {
	__u32 socket; /* its hash, skc_hash */
	__u32 read;   /* what the process had read then, copied_seq */
	__u32 end;    /* the sequence number behind what was written */
	__u32 pad;
	struct writing times;
};

struct writings {
	struct noted_writing of[WRITINGS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct writings);
} latest_writings SEC(".maps");

static __always_inline __u32 socket_hash(const struct tcp_sock *tp)
{
	return ((const struct sock *)tp)->__sk_common.skc_hash;
}

/* The socket's place; NULL is only what the verifier cannot exclude. */
static __always_inline struct noted_writing *place_of_writing(const struct tcp_sock *tp)
{
	struct writings *w = bpf_map_lookup_elem(&latest_writings, &(__u32){0});

	return w ? &w->of[socket_hash(tp) & (WRITINGS - 1)] : NULL;
}

/* Whether it was noted of this socket, and nothing was read since. */
static __always_inline bool is_latest(const struct noted_writing *w, const struct tcp_sock *tp)
{
	return w->socket == socket_hash(tp) && w->read == tp->copied_seq;
}

/* The process writes len bytes to the socket now. Something was read since it did
 * so before: another message begins.
 */
static __always_inline void note_writing(const struct tcp_sock *tp, __u64 len, __u64 now)
{
	struct noted_writing *w = place_of_writing(tp);

	if (!w)
		return;
	if (!is_latest(w, tp)) {
		w->socket = socket_hash(tp);
		w->read = tp->copied_seq;
		w->times.first = now;
	}
	w->end = tp->write_seq + len;
	w->times.last = now;
}

/* Whether the kernel tells of writes; without, no time of writing is known. */
const volatile bool writes_told;

/* Sets when that was written which the socket sends now, up to the sequence
 * number end: what lies behind the latest write that was noted was sent at once.
 */
static __always_inline void find_writing(const struct tcp_sock *tp, __u32 end, struct writing *to)
{
	const struct noted_writing *w = place_of_writing(tp);

	if (!w || !writes_told)
		to->first = to->last = 0;
	else if (is_latest(w, tp) && (__s32)(w->end - end) >= 0)
		*to = w->times;
	else
		to->first = to->last = tp->tcp_clock_cache;
}

#endif
