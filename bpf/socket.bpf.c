//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Capture at the sockets in the target cgroups: their packets, and the application's
 * writes and reads. The programs only observe; all packets pass.
 *
 * Entry point       functions
 * socket_packet     capture_at_socket: parse_fast -> skip_untracked (nearly all), or
 *                     socket_slow_path -> handle_at_socket -> track_at_socket ->
 *                     track_segment (track.h), or on_bare_ack
 * socket_write      delayed_write (data that cannot be sent at once), tracked_write
 * socket_wrote      the same on kernels without that tracepoint
 * socket_read       times of the application's reads
 * socket_drop       on_socket_drop
 * cgroup_created    forget_cgroup
 */
#include "include/socket.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* kfree_skb reports the receiving socket of a dropped packet (since 6.11). */
const volatile bool have_rx_sk;

#define LET_THROUGH 1

/* One program for both directions: on loopback one follows the other closely and finds
 * the code in the caches.
 */
SEC("cgroup/skb")
int socket_packet(struct __sk_buff *skb)
{
	capture_at_socket(skb);
	return LET_THROUGH;
}

/* Takes the current process as the one that uses the socket. Its cgroup can be another
 * than the socket's, which is that of the process that made the socket or its listener.
 */
static COLD RARE int learn_process(struct socket_state *st)
{
	struct task_struct *task = bpf_get_current_task_btf();

	st->facts.tgid = bpf_get_current_pid_tgid() >> 32;
	st->facts.cgroup = bpf_get_current_cgroup_id();
	BPF_CORE_READ_INTO(&st->process_name, task, group_leader, comm);
	return 0;
}

static __always_inline void note_socket(struct connection *c, struct socket_state *st,
					const struct tcp_sock *tp)
{
	if (!st->facts.tgid)
		learn_process(st);
	if (!c->x.process_name[0]) {
		c->x.cgroup = st->facts.cgroup;
		c->x.tgid = st->facts.tgid;
		copy_words(c->x.process_name, st->process_name, PROCESS_NAME_LEN);
	}
	c->x.netns = st->facts.netns;
	c->x.srtt_us = tp->srtt_us >> 3;
}

static __always_inline __u64 sum_ipv6(const struct in6_addr *addr)
{
	const __be32 *words = addr->in6_u.u6_addr32;

	return (words[0] | (__u64)words[1] << 32) + (words[2] | (__u64)words[3] << 32);
}

/* Whether a connection with the socket's ends may be tracked. This table is small and
 * shared by all sockets; the socket's own state is rarely in a cache.
 */
static __always_inline bool may_be_tracked(const struct sock *sk)
{
	const struct sock_common *common = &sk->__sk_common;
	__u64 addrs;

	if (!any_tracked())
		return false;
	if (common->skc_family == AF_INET) {
		addrs = mapped_ipv4(common->skc_daddr) + mapped_ipv4(common->skc_rcv_saddr);
	} else {
		addrs = sum_ipv6(&common->skc_v6_daddr) + sum_ipv6(&common->skc_v6_rcv_saddr);
	}
	return is_tracked(tracked_counter_by_sums(
		addrs, common->skc_num + bpf_ntohs(common->skc_dport), SOCKET_POINT));
}

/* Whether the server may write the response: it has read some of the request. The write
 * of the response before may end, or be reported, when the next request has arrived.
 */
static __always_inline bool may_respond(const struct connection *c, const struct tcp_sock *tp)
{
	return !c->client_is_a && before(c->request_start, tp->copied_seq);
}

/* Response write on a tracked socket. Request writes are matched later, at transmit. */
static COLD int tracked_write(struct sock *sk)
{
	struct socket_state *st = bpf_sk_storage_get(&socket_states, sk, NULL, 0);
	struct connection *c;
	struct tcp_sock *tp;
	__u64 now;

	if (!st || !st->tracked)
		return 0;
	c = open_exchange_at(st);
	tp = bpf_skc_to_tcp_sock(sk);
	if (!c || !tp)
		return 0;
	now = bpf_ktime_get_ns();
	note_waiting(&c->waits_since, tp, now);
	if (!may_respond(c, tp))
		return 0;
	extend_times(&c->x.far_response_first, &c->x.far_response_last, now);
	note_socket(c, st, tp);
	return 0;
}

static COLD RARE int delayed_write(const struct tcp_sock *tp, __u64 len)
{
	note_write(tp, len, bpf_ktime_get_ns());
	return 0;
}

/* Casts a socket known to be TCP. Every write on the machine gets here; unlike the
 * helper, this kfunc is not a call.
 */
extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym;

static __always_inline const struct tcp_sock *tcp_socket(const struct sock *sk)
{
	return bpf_rdonly_cast(sk, bpf_core_type_id_kernel(struct tcp_sock));
}

/* tcp_sendmsg_locked, net/ipv4/tcp.c: for each part of a write, before TCP can send it. */
SEC("tp_btf/tcp_sendmsg_locked")
int BPF_PROG(socket_write, struct sock *sk, const struct msghdr *msg)
{
	const struct tcp_sock *tp;

	if (!sk_in_target_cgroup(sk))
		return 0;
	tp = tcp_socket(sk);
	if (!sends_at_once(tp, msg->msg_iter.count))
		delayed_write(tp, msg->msg_iter.count);
	return may_be_tracked(sk) ? tracked_write(sk) : 0;
}

/* A write on a tracked socket has ended. Packets sent meanwhile were seen already. */
static COLD int tracked_write_end(struct sock *sk, bool blocked)
{
	struct socket_state *st = bpf_sk_storage_get(&socket_states, sk, NULL, 0);
	struct exchange_record *x;
	struct connection *c;
	struct tcp_sock *tp;
	__u64 now;

	if (!st || !st->tracked)
		return 0;
	c = open_exchange_at(st);
	tp = bpf_skc_to_tcp_sock(sk);
	if (!c || !tp || !may_respond(c, tp))
		return 0;
	x = &c->x;
	now = bpf_ktime_get_ns();
	if (!x->far_response_first)
		x->far_response_first = x->response_first ? x->response_first : now;
	x->far_response_last = blocked || !x->response_last ? now : x->response_last;
	note_socket(c, st, tp);
	return 0;
}

static __always_inline bool is_tcp(const struct sock *sk)
{
	__u16 family = sk->__sk_common.skc_family;

	return sk->sk_protocol == IPPROTO_TCP && (family == AF_INET || family == AF_INET6);
}

/* sock_sendmsg_nosec, net/socket.c: at the end of each write. For kernels without a
 * tracepoint at its start: unsent data is waiting now. If the write itself had to wait
 * for buffer space, its end counts.
 */
SEC("tp_btf/sock_send_length")
int BPF_PROG(socket_wrote, struct sock *sk, int len)
{
	const struct tcp_sock *tp;
	bool blocked;

	if (len <= 0 || !is_tcp(sk) || !sk_in_target_cgroup(sk))
		return 0;
	tp = tcp_socket(sk);
	blocked = tp->snd_nxt != tp->write_seq;
	if (blocked)
		delayed_write(tp, 0);
	return may_be_tracked(sk) ? tracked_write_end(sk, blocked) : 0;
}

/* cgroup_mkdir, kernel/cgroup/cgroup.c: before a process can enter the cgroup. */
SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(cgroup_created, const struct cgroup *group)
{
	forget_cgroup(group);
	return 0;
}

/* A reader may leave so many bytes for good: the end of the last chunk, trailers. */
#define UNREAD_TAIL 64

/* tcp_rcv_space_adjust, net/ipv4/tcp_input.c: after bytes were copied to the
 * application, also by a peek.
 */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(socket_read, struct sock *sk)
{
	struct socket_state *st;
	struct connection *c;
	struct tcp_sock *tp;
	__u64 now;

	if (!may_be_tracked(sk))
		return 0;
	st = bpf_sk_storage_get(&socket_states, sk, NULL, 0);
	if (!st || !st->tracked)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp || tp->copied_seq == st->read)
		return 0;
	st->read = tp->copied_seq;
	c = open_exchange_at(st);
	if (!c)
		return 0;
	now = bpf_ktime_get_ns();
	if (c->client_is_a && c->phase == PHASE_RESPONSE) {
		extend_times(&c->x.far_response_first, &c->x.far_response_last, now);
		c->left_unread = before(tp->copied_seq + UNREAD_TAIL, c->server.next);
	} else if (!c->client_is_a && c->phase == PHASE_REQUEST) {
		extend_times(&c->x.far_request_first, &c->x.far_request_last, now);
	}
	if (st->queue.full_since)
		note_unblocked(&st->queue, tp, true, now);
	if (is_closed_window(tp))
		c->x.zero_windows++;
	note_socket(c, st, tp);
	return 0;
}

/* netns: of the interface, or 0 after TCP has detached the packet from it. */
static COLD int on_socket_drop(struct sock *sk, __u32 netns, __u32 reason)
{
	struct socket_state *st = bpf_sk_storage_get(&socket_states, sk, NULL, 0);
	struct connection *c;

	if (!st || !st->tracked || (netns && st->facts.netns != netns) || is_duplicate_data(reason))
		return 0;
	c = open_exchange_at(st);
	if (!c)
		return 0;
	note_drop(c, reason);
	return 0;
}

/* net/core/skbuff.c: within the socket's own network namespace, such as in the qdisc of
 * a pod's interface, or in TCP for lack of a reader.
 */
SEC("tp_btf/kfree_skb")
int socket_drop(__u64 *ctx)
{
	const struct sk_buff *skb = (const void *)ctx[0];
	const struct net_device *dev;
	struct sock *sk = skb->sk;
	__u32 reason = ctx[2];

	if (!is_drop_reason(reason))
		return 0;
	/* Not a typed argument, which is always loaded: older kernels reject that. */
	if (have_rx_sk && ctx[3])
		sk = (struct sock *)ctx[3];
	dev = skb->dev;
	if (!sk || !sk->sk_bpf_storage)
		return 0;
	return on_socket_drop(sk, dev ? dev->nd_net.net->ns.inum : 0, reason);
}
