//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Writes layertrace's TCP options in both directions: on the SYN of a connection to a
 * selected port and on the first segment of each message. The passive side learns the
 * connection ID from the SYN or the first request and puts it on its responses.
 */
#include "include/tcp_option.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile enum option_layout option_layout = OPTION_COMPACT;
/* Server ports whose connections get options, when filter_option_ports is set. */
const volatile bool filter_option_ports;
const volatile __u8 option_ports[PORT_BYTES];

/* Metric names and help texts: agent/internal/probe/counters.go. */
enum option_counter {
	OPTION_COUNTER_WRITTEN,
	OPTION_COUNTER_NO_ROOM,
	OPTION_COUNTER_LEARNED,
	OPTION_COUNTER_FAILED,
	OPTION_COUNTERS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OPTION_COUNTERS);
	__type(key, enum option_counter);
	__type(value, __u64);
} option_counters SEC(".maps");

struct option_socket {
	__u8 id[8];
	__u64 received; /* bytes_received at the start of the latest message */
	__u8 has_id;	/* id is set */
	__u8 sent_any;	/* a message was sent */
	__u8 pad[6];
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct option_socket);
} option_sockets SEC(".maps");

static __always_inline void count_option(enum option_counter which)
{
	increment(&option_counters, which);
}

static __always_inline struct option_socket *socket_of(struct bpf_sock_ops *ops, __u64 flags)
{
	struct bpf_sock *sk = ops->sk;

	return sk ? bpf_sk_storage_get(&option_sockets, sk, NULL, flags) : NULL;
}

static __always_inline void add_flags(struct bpf_sock_ops *ops, __u32 add, __u32 drop)
{
	if (bpf_sock_ops_cb_flags_set(ops, (ops->bpf_sock_ops_cb_flags & ~drop) | add))
		count_option(OPTION_COUNTER_FAILED);
}

/* Before the SYN of an active connection. */
static __always_inline void on_connect(struct bpf_sock_ops *ops)
{
	struct option_socket *s;

	if (filter_option_ports && !has_port(option_ports, bpf_ntohl(ops->remote_port)))
		return;
	s = socket_of(ops, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s) {
		count_option(OPTION_COUNTER_FAILED);
		return;
	}
	*(__u32 *)s->id = bpf_get_prandom_u32();
	*(__u32 *)(s->id + 4) = bpf_get_prandom_u32();
	s->has_id = 1;
	add_flags(ops, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG, 0);
}

static __always_inline bool find_compact(struct bpf_sock_ops *ops, __u8 *id)
{
	struct compact_option o = {
		.kind = OPTION_EXP2,
		.len = 4, /* match kind and ExID, RFC 6994 */
		.exid = bpf_htons(OPTION_EXID),
	};

	if (bpf_load_hdr_opt(ops, &o, sizeof(o), 0) != sizeof(o))
		return false;
	__builtin_memcpy(id, o.id, sizeof(o.id));
	return true;
}

/* bpf_load_hdr_opt() finds kind 253 only with an ExID, which the paper's option lacks.
 * The kernel writes BPF options after its own, at a multiple of 4.
 */
static __always_inline bool find_paper(struct bpf_sock_ops *ops, __u8 *id)
{
	__u8 *data = ops->skb_data, *end = ops->skb_data_end;

	for (int off = 20; off <= 60 - OPTIONS_SIZE; off += 4) {
		if (data + off + OPTIONS_SIZE > end)
			break;
		if (data[off] != OPTION_EXP1 || data[off + 1] != sizeof(struct paper_id_option) ||
		    data[off + 6] != OPTION_EXP2 ||
		    data[off + 7] != sizeof(struct paper_time_option))
			continue;
		__builtin_memcpy(id, data + off + 2, 4);
		return true;
	}
	return false;
}

/* A segment with an option unknown to the kernel, on a passive socket without an ID. */
static __always_inline void on_option(struct bpf_sock_ops *ops)
{
	struct option_socket *s;
	__u8 id[8] = {};

	if (option_layout == OPTION_COMPACT ? !find_compact(ops, id) : !find_paper(ops, id))
		return;
	s = socket_of(ops, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s) {
		count_option(OPTION_COUNTER_FAILED);
		return;
	}
	__builtin_memcpy(s->id, id, sizeof(s->id));
	s->has_id = 1;
	count_option(OPTION_COUNTER_LEARNED);
	add_flags(ops, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG,
		  BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG);
}

/* A message begins with the first data of all, and with data sent after data received:
 * in HTTP/1 the ends take turns.
 */
static __always_inline bool begins_message(struct bpf_sock_ops *ops, const struct option_socket *s)
{
	return ops->skb_len && (!s->sent_any || ops->bytes_received != s->received);
}

static __always_inline void on_length(struct bpf_sock_ops *ops)
{
	struct option_socket *s = socket_of(ops, 0);
	bool mss = ops->args[0] == BPF_WRITE_HDR_TCP_CURRENT_MSS;

	if (!s || !s->has_id)
		return;
	/* The MSS leaves room for the options of any data segment. */
	if (!mss && !(ops->skb_tcp_flags & 0x02) && !begins_message(ops, s))
		return;
	if (bpf_reserve_hdr_opt(ops, OPTIONS_SIZE, 0) && !mss)
		count_option(OPTION_COUNTER_NO_ROOM);
}

static __always_inline long store_compact(struct bpf_sock_ops *ops, const struct option_socket *s)
{
	struct compact_option o = {
		.kind = OPTION_EXP2,
		.len = sizeof(o),
		.exid = bpf_htons(OPTION_EXID),
		.time_us = bpf_htonl((__u32)(bpf_ktime_get_ns() / 1000)),
	};

	__builtin_memcpy(o.id, s->id, sizeof(o.id));
	return bpf_store_hdr_opt(ops, &o, sizeof(o), 0);
}

static __always_inline long store_paper(struct bpf_sock_ops *ops, const struct option_socket *s)
{
	struct paper_id_option id = {.kind = OPTION_EXP1, .len = sizeof(id)};
	struct paper_time_option time = {
		.kind = OPTION_EXP2,
		.len = sizeof(time),
		.time_ns = bpf_cpu_to_be64(bpf_ktime_get_ns()),
	};

	__builtin_memcpy(id.id, s->id, sizeof(id.id));
	return bpf_store_hdr_opt(ops, &id, sizeof(id), 0) ?:
		       bpf_store_hdr_opt(ops, &time, sizeof(time), 0);
}

static __always_inline void on_write(struct bpf_sock_ops *ops)
{
	struct option_socket *s = socket_of(ops, 0);
	long err;

	if (!s || !s->has_id)
		return;
	err = option_layout == OPTION_COMPACT ? store_compact(ops, s) : store_paper(ops, s);
	count_option(err ? OPTION_COUNTER_FAILED : OPTION_COUNTER_WRITTEN);
	if (!(ops->skb_tcp_flags & 0x02)) {
		s->sent_any = 1;
		s->received = ops->bytes_received;
	}
}

SEC("sockops")
int write_options(struct bpf_sock_ops *ops)
{
	switch (ops->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		on_connect(ops);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		add_flags(ops, BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG, 0);
		break;
	case BPF_SOCK_OPS_PARSE_HDR_OPT_CB:
		on_option(ops);
		break;
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
		on_length(ops);
		break;
	case BPF_SOCK_OPS_WRITE_HDR_OPT_CB:
		on_write(ops);
		break;
	}
	return 1;
}
