/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Who waits for whom at a socket: the sender for its peer's window, or the peer for the
 * application to read. TCP's own state shows it, at each packet and read.
 */
#ifndef LAYERTRACE_WAITS_H
#define LAYERTRACE_WAITS_H

#include "kernel.h"

/* In ns: for which the sender had more to send, how much of it without room in the peer's
 * window, and with nothing in flight either; and, for the message that arrives, for which the
 * receive queue blocked the peer.
 */
struct waits {
	__u64 waited;
	__u64 held;
	__u64 stalled;
	__u64 unread;
};

/* A receive queue. Times in ns: since when it may block the peer, and when a read or
 * acknowledgement ended that, 0: never, or not since then; shorter times do not count.
 */
struct receive_queue {
	__u64 full_since;
	__u64 full_read;
	__u64 full_min;
};

/* Bit of the flags of struct socket, include/linux/net.h. */
#define SOCK_NOSPACE 2

/* Bytes that wait to be sent: written ones, or any number if a writer waits for room in
 * the send buffer.
 */
static __always_inline __u32 waiting(const struct tcp_sock *tp)
{
	__u32 unsent = tp->write_seq - tp->snd_nxt;

	if (unsent)
		return unsent;
	return ((const struct sock *)tp)->sk_socket->flags & (1 << SOCK_NOSPACE) ? ~0U : 0;
}

/* Whether the peer's window keeps TCP from sending: more waits, and its next segment does
 * not fit; see tcp_snd_wnd_test() in net/ipv4/tcp_output.c. With packets in flight, the
 * network may be what delays their acknowledgement.
 */
static __always_inline bool is_held(const struct tcp_sock *tp)
{
	__u32 bytes = waiting(tp);
	__u32 segment = bytes < tp->mss_cache ? bytes : tp->mss_cache;

	return bytes && (__s32)(tp->snd_una + tp->snd_wnd - tp->snd_nxt) < (__s32)segment;
}

/* The application writes. Data waits from now on, unless it waited before. */
static __always_inline void note_waiting(__u64 *waits_since, const struct tcp_sock *tp, __u64 now)
{
	if (!*waits_since || tp->write_seq == tp->snd_nxt)
		*waits_since = now;
}

/* At a socket that sends a message, a packet arrives or leaves that changes what TCP may
 * send, or what is in flight; TCP has not processed it yet. Data waits since *waits_since,
 * and some was sent at sent. The time in which the application had nothing to send is its
 * own.
 */
static __always_inline void note_hold(struct waits *w, __u64 *waits_since, __u64 sent,
				      const struct tcp_sock *tp, __u64 now)
{
	__u64 since = *waits_since > sent ? *waits_since : sent;
	bool waits = waiting(tp), waited = *waits_since && waits && now > since;

	*waits_since = waits ? now : 0;
	if (!waited)
		return;
	w->waited += now - since;
	if (is_held(tp)) {
		w->held += now - since;
		if (!tp->packets_out)
			w->stalled += now - since;
	}
}

/* Segments that follow each other closer than this did not wait, in ns. */
#define LATE_MIN 1000000

/* Whether TCP sends after it had to wait: a probe, perhaps with what the window has room for.
 * Until now nothing of that was in flight. It sent last at sent.
 */
static __always_inline bool is_late(const struct tcp_sock *tp, __u64 sent)
{
	return tp->tcp_clock_cache - sent > LATE_MIN && (tp->packets_out || is_held(tp));
}

/* Whether the peer must wait for the application to read when the data up to end has
 * arrived: no further segment fits its window, or the memory for received packets.
 */
static __always_inline bool is_full(const struct tcp_sock *tp, __u32 end)
{
	const struct sock *sk = (const struct sock *)tp;

	return (__s32)(tp->rcv_wup + tp->rcv_wnd - end) < tp->advmss ||
	       sk->sk_backlog.rmem_alloc.counter + tp->advmss > sk->sk_rcvbuf;
}

/* The receive queue blocks the peer, from the arrival of data on, until the application
 * reads or TCP acknowledges the data. It acknowledges late while the application does not
 * read. A queue that is full then still blocks the peer, unless all of it that is in order
 * has been read: what misses is lost.
 */
static __always_inline void note_unblocked(struct receive_queue *q, const struct tcp_sock *tp,
					   bool reads, __u64 now)
{
	bool full = tp->copied_seq != tp->rcv_nxt && is_full(tp, tp->rcv_nxt);

	if (!q->full_read ? reads || !full : reads && full)
		q->full_read = now;
}

/* Whether the window that was announced is used up: the peer had to wait for a read. */
static __always_inline bool is_closed_window(const struct tcp_sock *tp)
{
	return (__s32)(tp->rcv_wup + tp->rcv_wnd - tp->rcv_nxt) <= 0;
}

/* Shorter times, in ns, are those of a reader that reads as soon as it has a processor. They
 * would add up over a slow link, where they hold no one up: there the queue is not full.
 * TCP delays an acknowledgement by 40 ms or more; see TCP_DELACK_MIN of include/net/tcp.h.
 */
#define FULL_MIN 1000000
#define UNACKED_MIN 20000000

/* A segment with the bytes from seq to end arrives. Out of order, the application could not
 * read it. After the last one, the time until the read is known from the read. Returns for
 * how long, in ns, the queue blocked the peer before.
 */
static __always_inline __u64 note_arrival(struct receive_queue *q, const struct tcp_sock *tp,
					  __u32 seq, __u32 end, __u64 now)
{
	__u64 blocked = 0, until;

	if (before(tp->rcv_nxt, seq))
		return 0;
	/* A read that the segment before interrupted has an earlier time. */
	until = q->full_read ? q->full_read : now;
	if (q->full_since && until > q->full_since)
		blocked = until - q->full_since;
	if (blocked < q->full_min)
		blocked = 0;
	/* A copy of data that was read leaves nothing to read. */
	if (before(end, tp->rcv_nxt + 1))
		end = tp->rcv_nxt;
	q->full_since = end != tp->copied_seq ? now : 0;
	q->full_min = is_full(tp, end) ? FULL_MIN : UNACKED_MIN;
	q->full_read = 0;
	return blocked;
}

#endif
