//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Encrypted connections at interfaces and sockets: who sent how much, and when, by the
 * headers of TLS records. The programs only read; user space pulls what it needs
 * (agent/internal/probe/turns.go).
 *
 * Entry point                    functions
 * encrypted_in, encrypted_out    capture: parse -> followed_at, peek (nearly all packets)
 *   (_l3: no Ethernet)             -> on_segment
 * encrypted_sock (_l3)           capture
 * encrypted_socket               capture_at_socket -> on_segment
 * encrypted_write, _wrote, _read times of the application at sockets
 * encrypted_dequeue              dequeue_batch -> on_dequeue: times at drivers
 * encrypted_drop                 what the kernel drops at interfaces and sockets
 * on_segment                     new_connection, lock -> on_locked -> on_syn | begin, follow
 *                                  (follow.h), on_end -> finish_turn (turn.h)
 * encrypted_walk, _walk_disorders, _walk_points
 *                                sweep_connection, sweep_disorder, sweep_points
 */
#include "include/dequeue.h"
#include "include/encrypted.h"
#include "include/iterator.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Puts the types into the object, for the Go bindings. */
const struct turn *unused_turn __attribute__((unused));
const enum turn_flag *unused_flag __attribute__((unused));

CAPTURE_PROGRAMS(encrypted)

#define LET_THROUGH 1

SEC("cgroup/skb")
int encrypted_socket(struct __sk_buff *skb)
{
	capture_at_socket(skb);
	return LET_THROUGH;
}

/* kfree_skb reports the receiving socket of a dropped packet (since 6.11). */
const volatile bool have_rx_sk;

struct sock_common___cookie {
	struct {
		__s64 counter;
	} skc_cookie;
} __attribute__((preserve_access_index));

/* The connection of a socket, if it is followed. Every write and read on the machine gets
 * here: a socket that is not followed has no cookie, or one that nearly always has an empty
 * slot.
 */
static __always_inline struct connection *connection_of(const struct sock *sk)
{
	__u64 cookie = ((const struct sock_common___cookie *)sk)->skc_cookie.counter;
	struct connection_key key = {.addr_a = {cookie}, .point = SOCKET_POINT};

	if (!cookie || !*followed_at(sum_of(&key)))
		return NULL;
	return bpf_map_lookup_elem(&connections, &key);
}

/* Takes the current process as the one that uses the socket: its cgroup can be another than
 * the socket's.
 */
static COLD int learn_process(struct connection *c)
{
	struct task_struct *task = bpf_get_current_task_btf();

	c->socket.cgroup = bpf_get_current_cgroup_id();
	BPF_CORE_READ_INTO(&c->socket.process_name, task, group_leader, comm);
	c->socket.tgid = bpf_get_current_pid_tgid() >> 32;
	return 0;
}

/* A write of len bytes from sequence number seq on. */
static COLD int on_write(struct connection *c, const struct tcp_sock *tp, __u32 seq, __u32 len)
{
	__u64 now = bpf_ktime_get_ns();

	if (!c->socket.tgid)
		learn_process(c);
	if (!c->unsent.time || before(c->unsent.seq, tp->snd_nxt)) {
		c->unsent.seq = seq;
		c->unsent.end = seq + len;
		c->unsent.time = now;
	} else {
		c->unsent.end = seq + len;
	}
	c->latest.seq = seq;
	c->latest.end = seq + len;
	c->latest.time = now;
	return 0;
}

/* tcp_sendmsg_locked, net/ipv4/tcp.c: for each part of a write, before TCP can send it. */
SEC("tp_btf/tcp_sendmsg_locked")
int BPF_PROG(encrypted_write, struct sock *sk, const struct msghdr *msg)
{
	struct connection *c = connection_of(sk);
	struct tcp_sock *tp;

	if (!c)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 0;
	on_write(c, tp, tp->write_seq, msg->msg_iter.count);
	note_waiting(&c->waits_since, tp, c->latest.time);
	return 0;
}

/* sock_sendmsg_nosec, net/socket.c: at the end of each write. For kernels without a
 * tracepoint at its start: data that waits now was written before.
 */
SEC("tp_btf/sock_send_length")
int BPF_PROG(encrypted_wrote, struct sock *sk, int len)
{
	struct connection *c = len > 0 ? connection_of(sk) : NULL;
	struct tcp_sock *tp;

	if (!c)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 0;
	if (tp->snd_nxt != tp->write_seq)
		return on_write(c, tp, tp->write_seq - len, len);
	return c->socket.tgid ? 0 : learn_process(c);
}

/* tcp_rcv_space_adjust, net/ipv4/tcp_input.c: after bytes were copied to the application,
 * also by a peek.
 */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(encrypted_read, struct sock *sk)
{
	struct connection *c = connection_of(sk);
	const struct stream *st;
	struct tcp_sock *tp;
	__u32 read, number;
	struct far *far;
	__u64 now;

	if (!c)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 0;
	read = c->read;
	if (tp->copied_seq == read)
		return 0;
	c->read = tp->copied_seq;
	c->socket.srtt_us = tp->srtt_us >> 3;
	now = bpf_ktime_get_ns();
	if (c->queue.full_since)
		note_unblocked(&c->queue, tp, true, now);
	if (is_closed_window(tp))
		c->turn.zero_windows += c->turn.zero_windows != 0xffff;
	if (!c->socket.tgid)
		learn_process(c);
	st = client_is_a(c) ? &c->server : &c->client;
	far = &c->received;
	number = c->turn.number + 1;
	/* Bytes of the message, and not all of them were read before. */
	if (!message_of(c, !client_is_a(c))->first || !before(st->start, tp->copied_seq) ||
	    !before(read, st->message_end))
		return 0;
	if (far->turn != number) {
		far->first = now;
		far->turn = number;
	}
	far->last = now;
	far->next = tp->copied_seq;
	return 0;
}

/* A watched interface's qdisc releases a segment. */
VERIFIED_ALONE int note_dequeue(struct segment *s, __u32 ifindex, __u32 bypass)
{
	struct connection_key key;
	const struct stream *st;
	struct connection *c;
	bool from_client;
	struct far *far;
	__u32 end;
	__u64 now;

	if (!s)
		return 0;
	set_ends(s);
	key = s->ends;
	key.point = ifindex;
	if (!*followed_at(sum_of(&key)))
		return 0;
	c = bpf_map_lookup_elem(&connections, &key);
	if (!c)
		return 0;
	from_client = s->from_a == client_is_a(c);
	st = stream_of(c, from_client);
	end = s->seq + s->payload_len;
	if (!message_of(c, from_client)->first || !before(st->start, end))
		return 0;
	far = &c->sent;
	now = bpf_ktime_get_ns();
	if (far->turn != c->turn.number + 1) {
		far->first = now;
		far->turn = c->turn.number + 1;
		far->next = end;
	} else if (!before(far->next, end) && far->dropped != far->turn) {
		return 0; /* again */
	}
	if (far->dropped == far->turn && !before(st->start, s->seq))
		far->first = now;
	far->last = now;
	if (before(far->next, end))
		far->next = end;
	far->bypass = bypass;
	return 0;
}

static __always_inline void on_dequeue(const struct sk_buff *skb, __u32 ifindex, bool bypass)
{
	struct dequeued d = {};
	struct segment s = {};

	if (!read_dequeued(skb, s.ends.addr_a, s.ends.addr_b, &d))
		return;
	s.seq = d.seq;
	s.payload_len = d.payload_len;
	s.sport = d.sport;
	s.dport = d.dport;
	note_dequeue(&s, ifindex, bypass);
}

/* dequeue_skb, net/sched/sch_generic.c: root qdiscs of interfaces, not nested ones. */
SEC("tp_btf/qdisc_dequeue")
int BPF_PROG(encrypted_dequeue, const struct Qdisc *queue, const struct netdev_queue *to,
	     int packets, const struct sk_buff *skb)
{
	return dequeue_batch_from(queue, to, skb, &ctx[3]);
}

static __always_inline void note_drop(struct connection *c, __u32 reason)
{
	c->turn.drops += c->turn.drops != 0xffff;
	c->turn.drop_reason = reason;
	count(ENCRYPTED_COUNTER_DROPPED);
}

/* The kernel drops a packet at a watched interface. */
static COLD int drop_at_interface(const struct sk_buff *skb, __u32 ifindex, __u32 reason)
{
	struct dequeued d = {};
	struct segment s = {};
	struct connection *c;

	if (!read_dequeued(skb, s.ends.addr_a, s.ends.addr_b, &d))
		return 0;
	s.sport = d.sport;
	s.dport = d.dport;
	set_ends(&s);
	s.ends.point = ifindex;
	if (!*followed_at(sum_of(&s.ends)))
		return 0;
	c = bpf_map_lookup_elem(&connections, &s.ends);
	if (!c)
		return 0;
	note_drop(c, reason);
	if (s.from_a == client_is_a(c) ? c->direction == DIRECTION_EGRESS :
					 c->direction == DIRECTION_INGRESS)
		c->sent.dropped = c->turn.number + 1;
	return 0;
}

/* Within the socket's own network namespace: netns is that of the interface, or 0 after TCP has
 * detached the packet from it.
 */
static COLD int drop_at_socket(const struct sock *sk, __u32 netns, __u32 reason)
{
	struct connection *c = connection_of(sk);

	if (c && (!netns || c->socket.netns == netns) && !is_duplicate_data(reason))
		note_drop(c, reason);
	return 0;
}

/* net/core/skbuff.c: of its arguments the reason is the third, and the receiving socket the
 * fourth, which older kernels lack.
 */
SEC("tp_btf/kfree_skb")
int encrypted_drop(__u64 *ctx)
{
	const struct sk_buff *skb = (const void *)ctx[0];
	const struct net_device *dev;
	struct sock *sk = skb->sk;
	__u32 reason = ctx[2];

	if (!is_drop_reason(reason))
		return 0;
	dev = skb->dev;
	if (dev && is_watched(dev))
		drop_at_interface(skb, dev->ifindex, reason);
	if (have_rx_sk && ctx[3])
		sk = (struct sock *)ctx[3];
	if (sk)
		drop_at_socket(sk, dev ? dev->nd_net.net->ns.inum : 0, reason);
	return 0;
}

/* Times in ns: a connection is forgotten when it has ended for ended, has been idle for
 * idle, for ended if it is not known to be TLS, or for twice that if one end has closed it.
 * Result: connections left. User space sets it before the walks, and reads it afterwards.
 * Sweeps do not overlap.
 */
struct encrypted_sweep {
	__u64 now;
	__u64 ended;
	__u64 idle;
	__u64 left;
} encrypted_sweeping;

static __always_inline bool sweep_connection(const struct connection_key *key, struct connection *c)
{
	struct encrypted_sweep *s = &encrypted_sweeping;
	__u64 touched = *(volatile __u64 *)&c->touched;
	__u64 idle = s->now > touched ? s->now - touched : 0;

	/* At the socket that closes first the other end's FIN does not pass: TIME_WAIT. */
	if (idle >= s->idle || (idle >= s->ended && (c->ended || !is_confirmed(c))) ||
	    (idle >= 2 * s->ended && (c->client.fin || c->server.fin)))
		forget_connection(key);
	else
		s->left++;
	return true;
}

/* The next sweep visits what a slice skipped. */
WALK_PROGRAM(encrypted_walk, connections, sweep_connection)

static __always_inline bool sweep_disorder(const __u64 *key, const struct disorder *d)
{
	if (d->since + encrypted_sweeping.ended < encrypted_sweeping.now)
		bpf_map_delete_elem(&disorders, key);
	return true;
}

WALK_PROGRAM(encrypted_walk_disorders, disorders, sweep_disorder)

static __always_inline bool is_followed(const struct connection_key *ends, __u64 point)
{
	struct connection_key key = {.point = SOCKET_POINT};

	if (point & IS_SOCKET) {
		key.addr_a[0] = point & ~IS_SOCKET;
	} else {
		key = *ends;
		key.point = point;
	}
	return bpf_map_lookup_elem(&connections, &key) != NULL;
}

static __always_inline bool sweep_points(const struct connection_key *ends, struct points *p)
{
	bool used = false;

	for (int i = 0; i < POINTS_MAX; i++) {
		__u64 point = p->of[i];

		if (!point)
			continue;
		if (is_followed(ends, point))
			used = true;
		else
			__sync_val_compare_and_swap(&p->of[i], point, 0);
	}
	if (!used)
		bpf_map_delete_elem(&points_of_ends, ends);
	return true;
}

WALK_PROGRAM(encrypted_walk_points, points_of_ends, sweep_points)
