//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* A network device that reads nothing but headers: which messages of connections with
 * layertrace's TCP option pass its interfaces, and when.
 *
 * No program here can read a byte after the TCP header. Packets are read by two helpers
 * only, whose lengths are those of header structures, or of the options as the TCP header
 * has it; device_test.go walks the instructions and runs the programs on packets whose
 * payload is not there.
 *
 * Without the payload, a message is a run: the bytes that one end sends without having
 * received any in between. A segment tells what its sender had received by its
 * acknowledgement number, and the option marks the first segment of a run
 * (sockops.bpf.c). In HTTP/1 the ends take turns, so a message is one run, or several
 * if data of the peer arrived in the middle of it.
 *
 * Entry point               functions
 * device_in, device_out     capture: parse -> on_segment
 *   (_l3: no Ethernet)
 * device_sock (_l3)         capture
 * on_segment                find_option; on_syn | on_data -> begin_run -> emit; on_reset
 * device_dequeue            dequeue_batch -> on_dequeue
 * device_walk               sweep_flow -> emit
 */
#include "include/dequeue.h"
#include "include/hooks.h"
#include "include/ip.h"
#include "include/iterator.h"
#include "include/walk_options.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Ports to watch, of either end, when filter_ports is set. */
const volatile bool filter_ports;
const volatile __u8 ports[PORT_BYTES];
/* Ring fill in bytes at which user space is woken. */
const volatile __u64 ring_wakeup_fill = 1 << 20;

/* Metric names and help texts: agent/internal/probe/device.go. */
enum device_counter {
	DEVICE_COUNTER_OPTION_READ,
	DEVICE_COUNTER_OPTION_UNTRUSTED,
	DEVICE_COUNTER_OPTION_CONFLICTING,
	DEVICE_COUNTER_EMITTED,
	DEVICE_COUNTER_UNMARKED,
	DEVICE_COUNTER_INCOMPLETE,
	DEVICE_COUNTER_RETRANSMITTED,
	DEVICE_COUNTER_OUT_OF_ORDER,
	DEVICE_COUNTER_LATE,
	DEVICE_COUNTER_RING_FULL,
	DEVICE_COUNTER_MAP_FULL,
	DEVICE_COUNTER_FRAGMENT,
	DEVICE_COUNTER_TRUNCATED,
	DEVICE_COUNTER_SCRATCH_BUSY,
	DEVICE_COUNTERS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DEVICE_COUNTERS);
	__type(key, enum device_counter);
	__type(value, __u64);
} device_counters SEC(".maps");

static __always_inline void count(enum device_counter which)
{
	increment(&device_counters, which);
}

/* One direction of a connection at an interface. The direction through the interface is
 * part of the key: a router may send a packet back where it came from.
 */
struct flow_key {
	__u32 ifindex;
	__u16 sport;
	__u16 dport;
	__u64 src[2];
	__u64 dst[2];
	__u32 direction; /* enum direction */
	__u32 pad;
};

/* A test compares these with the flags of the Go package observe. */
enum sighting_flag {
	SIGHTING_UNMARKED = 1 << 0,   /* the first segment of the run had no option */
	SIGHTING_INCOMPLETE = 1 << 1, /* some of its bytes did not pass */
	SIGHTING_OUT_OF_ORDER = 1 << 2,
	SIGHTING_FROM_OPENER = 1 << 3, /* its sender has sent the SYN */
	SIGHTING_BOTH_WAYS = 1 << 4,   /* the other direction of the connection passes too */
	SIGHTING_BYPASS = 1 << 5,      /* packets bypass the qdisc while it is empty */
	SIGHTING_TX_WHOLE = 1 << 6,    /* the last byte was seen at the qdisc */
	SIGHTING_TX_SKIPPED = 1 << 7,  /* some byte before it was not, without a bypass */
};

/* A run as user space reads it from the ring buffer. Times are in ns of CLOCK_MONOTONIC,
 * addresses IPv6 or IPv4-mapped, ports in host order.
 */
struct sighting_record {
	__u64 first; /* of its first byte to pass */
	__u64 last;  /* when its last byte had passed, and all before it */
	__u64 tx_first;
	__u64 tx_last;
	__u64 option_time; /* 0: unmarked */
	__u64 src[2];
	__u64 dst[2];
	__u8 connection_id[8];
	__u16 sport;
	__u16 dport;
	__u32 ifindex;
	__u32 start; /* sequence numbers: of the first byte, and of the one after the last */
	__u32 end;
	__u32 packets;
	__u32 retransmits;
	enum sighting_flag flags; /* set */
	__u8 direction;
	__u8 connection_id_len;
	__u8 ttl; /* of the first packet; each router on the way takes one */
	__u8 pad;
};

/* Bytes from start on and before end; empty if they are the same. */
struct hole {
	__u32 start;
	__u32 end;
};

#define HOLES 3

struct holes {
	struct hole some[HOLES];
	__u32 more; /* there were more at once */
};

struct flow {
	/* number of the run << 1 | emitted; see struct connection in connection.h */
	__u64 claim;
	__u64 touched; /* time of the last segment */
	__u64 first;
	__u64 last;
	__u64 tx_first;
	__u64 tx_last;
	__u64 option_time;
	__u8 id[8];
	__u32 start;
	__u32 next;	       /* highest sequence number seen, of all runs */
	__u32 ack;	       /* of the run's segments */
	__u32 floor;	       /* bytes between it and start may be of the run */
	struct holes holes;    /* in the run: these bytes did not pass so far */
	struct holes tx_holes; /* and these did not leave the qdisc */
	__u32 tx_next;
	__u32 packets;
	__u32 retransmits;
	enum sighting_flag flags;
	__u32 syn; /* sequence number of the SYN */
	__u8 id_len;
	__u8 opened; /* syn is set */
	__u8 valid;  /* next is set */
	__u8 ttl;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} sightings SEC(".maps");

/* Puts the type into the object, for the Go bindings. */
const struct sighting_record *unused_record __attribute__((unused));

/* Working memory: the verifier would follow each value of a position that is kept on the
 * stack.
 */
struct scratch {
	__u32 claimed;
	__u32 pad;
	struct options options;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

/* The benchmark repeats one packet and redefines these to make each run a new segment. */
#ifndef SEQUENCE_NUMBER
#define SEQUENCE_NUMBER(tcp) bpf_ntohl((tcp).seq)
#define ACKNOWLEDGEMENT(tcp) bpf_ntohl((tcp).ack)
#endif

struct headers {
	struct flow_key key;
	__u32 seq;
	__u32 ack;
	__u32 payload_len;
	__u32 option_off;
	__u32 option_len;
	__u32 flags;
	__u32 ttl;
};

/* The only function that reads a packet at an interface. len is the length of a header, or
 * of the options as the TCP header has it.
 */
static __noinline long load_header(struct __sk_buff *skb, __u32 off, void *to, __u32 len)
{
	if (len < 1 || len > OPTIONS_MAX)
		return -1;
	return bpf_skb_load_bytes(skb, off, to, len);
}

#define IPV6_EXTENSIONS_MAX 6

/* Skips IPv6 extension headers. Returns the offset of TCP, or 0. */
static __always_inline __u32 skip_extensions(struct __sk_buff *skb, __u32 off, __u8 next)
{
	for (int i = 0; i < IPV6_EXTENSIONS_MAX; i++) {
		struct {
			__u8 next;
			__u8 len;
		} ext = {};

		if (next == IPPROTO_TCP)
			return off;
		if (next == 44) { /* fragment header, RFC 8200 section 4.5 */
			count(DEVICE_COUNTER_FRAGMENT);
			return 0;
		}
		if (next != 0 && next != 43 && next != 60 && next != 51)
			return 0;
		if (load_header(skb, off, &ext, sizeof(ext)))
			return 0;
		/* RFC 4302: the authentication header's length is in 4-byte words. */
		off += next == 51 ? (ext.len + 2) * 4 : (ext.len + 1) * 8;
		next = ext.next;
	}
	return next == IPPROTO_TCP ? off : 0;
}

static __always_inline bool parse_tcp(struct __sk_buff *skb, __u32 off, __u32 end,
				      struct headers *h)
{
	struct tcp_header tcp = {};
	__u32 data_off;

	if (load_header(skb, off, &tcp, sizeof(tcp))) {
		count(DEVICE_COUNTER_TRUNCATED);
		return false;
	}
	data_off = off + (tcp.data_offset >> 4) * 4;
	h->option_off = off + sizeof(tcp);
	/* Options beyond the packet's own length are none of its header. */
	if (data_off < h->option_off || end < data_off) {
		count(DEVICE_COUNTER_TRUNCATED);
		return false;
	}
	h->option_len = data_off - h->option_off;
	h->payload_len = end - data_off;
	h->flags = tcp.flags;
	h->seq = SEQUENCE_NUMBER(tcp);
	h->ack = ACKNOWLEDGEMENT(tcp);
	h->key.sport = bpf_ntohs(tcp.src);
	h->key.dport = bpf_ntohs(tcp.dst);
	return true;
}

/* Fills h from a TCP packet; l2 is the length of the link-layer header. */
static __always_inline bool parse(struct __sk_buff *skb, __u32 l2, struct headers *h)
{
	__be16 protocol = skb->protocol;
	__u32 off = l2;

	if (protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD)) {
		if (load_header(skb, l2 + 2, &protocol, sizeof(protocol)))
			return false;
		off += VLAN_HLEN;
	}
	if (protocol == bpf_htons(ETH_P_IP)) {
		struct ipv4_header ip = {};
		__u32 end;

		if (load_header(skb, off, &ip, sizeof(ip)) || ip.protocol != IPPROTO_TCP)
			return false;
		if (ip.fragment & bpf_htons(IP_MF_OR_OFFSET)) {
			count(DEVICE_COUNTER_FRAGMENT);
			return false;
		}
		/* 0: too long for the field (BIG TCP) */
		end = ip.total_len ? off + bpf_ntohs(ip.total_len) : skb->len;
		h->ttl = ip.ttl;
		map_ipv4(h->key.src, ip.src);
		map_ipv4(h->key.dst, ip.dst);
		return parse_tcp(skb, off + (ip.version_ihl & 15) * 4, end, h);
	}
	if (protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6_header ip = {};
		__u32 end;

		if (load_header(skb, off, &ip, sizeof(ip)))
			return false;
		/* 0: jumbo payload, RFC 2675 */
		end = ip.payload_len ? off + sizeof(ip) + bpf_ntohs(ip.payload_len) : skb->len;
		h->ttl = ip.hop_limit;
		__builtin_memcpy(h->key.src, ip.src, sizeof(ip.src));
		__builtin_memcpy(h->key.dst, ip.dst, sizeof(ip.dst));
		off = skip_extensions(skb, off + sizeof(ip), ip.next_header);
		return off && parse_tcp(skb, off, end, h);
	}
	return false;
}

static __always_inline bool is_trusted(const struct flow_key *key)
{
	struct prefix_key prefix = {.len = 128};

	prefix.addr[0] = key->src[0];
	prefix.addr[1] = key->src[1];
	return bpf_map_lookup_elem(&trusted_prefixes, &prefix) != NULL;
}

/* Usual options of a data segment: NOP, NOP, timestamps. */
#define TIMESTAMPS_LEN 12

/* Our option of a segment. */
struct option {
	__u64 time;
	__u8 id[8];
	__u32 id_len; /* 0: none */
	__u32 pad;
};

/* Reads the option of the segment, if it has one that is trusted. The time is 1 instead of
 * 0, which stands for none.
 */
static __noinline int find_option(struct __sk_buff *skb, const struct headers *h, struct option *o)
{
	struct scratch *s;
	__u32 len = h->option_len;

	if (len <= TIMESTAMPS_LEN || len > OPTIONS_MAX)
		return 0;
	s = bpf_map_lookup_elem(&scratches, &(__u32){0});
	if (!s)
		return 0;
	if (__sync_lock_test_and_set(&s->claimed, 1)) {
		count(DEVICE_COUNTER_SCRATCH_BUSY);
		return 0;
	}
	if (!load_header(skb, h->option_off, s->options.bytes, len) &&
	    walk_options(&s->options, len)) {
		o->id_len = s->options.id_len;
		o->time = s->options.time ?: 1;
		__builtin_memcpy(o->id, s->options.id, sizeof(o->id));
	}
	asm volatile("" ::: "memory");
	*(volatile __u32 *)&s->claimed = 0;
	if (!o->id_len)
		return 0;
	if (!is_trusted(&h->key)) {
		count(DEVICE_COUNTER_OPTION_UNTRUSTED);
		o->id_len = 0;
		return 0;
	}
	count(DEVICE_COUNTER_OPTION_READ);
	return 1;
}

/* The key of the other direction of the connection at the interface. */
static __always_inline struct flow_key other_direction(const struct flow_key *key)
{
	struct flow_key other = {
		.ifindex = key->ifindex,
		.sport = key->dport,
		.dport = key->sport,
		.direction = DIRECTION_INGRESS + DIRECTION_EGRESS - key->direction,
	};

	for (int i = 0; i < 2; i++) {
		other.src[i] = key->dst[i];
		other.dst[i] = key->src[i];
	}
	return other;
}

static __always_inline bool has_holes(const struct holes *holes)
{
	bool has = holes->more;

	for (int i = 0; i < HOLES; i++)
		has |= holes->some[i].start != holes->some[i].end;
	return has;
}

static COLD int open_hole(struct holes *holes, __u32 start, __u32 end)
{
	for (int i = 0; i < HOLES; i++) {
		struct hole *hole = &holes->some[i];

		if (hole->start != hole->end)
			continue;
		hole->start = start;
		hole->end = end;
		return 0;
	}
	holes->more = 1;
	return 0;
}

/* Reports whether any of these bytes was missing. */
static COLD int fill_holes(struct holes *holes, __u32 start, __u32 end)
{
	struct hole rest = {};
	bool filled = false;

	for (int i = 0; i < HOLES; i++) {
		struct hole *hole = &holes->some[i];

		if (hole->start == hole->end || !before(start, hole->end) ||
		    !before(hole->start, end))
			continue;
		filled = true;
		if (before(hole->start, start) && before(end, hole->end))
			rest = (struct hole){end, hole->end};
		if (before(hole->start, start))
			hole->end = start;
		else
			hole->start = before(end, hole->end) ? end : hole->end;
	}
	if (rest.start != rest.end)
		open_hole(holes, rest.start, rest.end);
	return filled;
}

/* Emits the run unless that was done. */
static __noinline int emit(const struct flow_key *key, struct flow *f, __u64 claim)
{
	struct flow_key other = other_direction(key);
	struct sighting_record *r;
	__u32 flags = f->flags;
	struct flow *peer;

	if (claim & 1 || __sync_val_compare_and_swap(&f->claim, claim, claim | 1) != claim)
		return 0;
	if (flags & SIGHTING_UNMARKED)
		count(DEVICE_COUNTER_UNMARKED);
	if (has_holes(&f->holes)) {
		flags |= SIGHTING_INCOMPLETE;
		count(DEVICE_COUNTER_INCOMPLETE);
	}
	if (f->tx_next == f->next)
		flags |= SIGHTING_TX_WHOLE;
	if (has_holes(&f->tx_holes))
		flags |= SIGHTING_TX_SKIPPED;
	peer = bpf_map_lookup_elem(&flows, &other);
	if (peer && *(__u64 *)peer->id == *(__u64 *)f->id)
		flags |= SIGHTING_BOTH_WAYS;
	r = bpf_ringbuf_reserve(&sightings, sizeof(*r), 0);
	if (!r) {
		count(DEVICE_COUNTER_RING_FULL);
		return 0;
	}
	r->first = f->first;
	r->last = f->last;
	r->tx_first = f->tx_first;
	r->tx_last = f->tx_last;
	r->option_time = f->option_time;
	for (int i = 0; i < 2; i++) {
		r->src[i] = key->src[i];
		r->dst[i] = key->dst[i];
	}
	__builtin_memcpy(r->connection_id, f->id, sizeof(r->connection_id));
	r->sport = key->sport;
	r->dport = key->dport;
	r->ifindex = key->ifindex;
	r->start = f->start;
	r->end = f->next;
	r->packets = f->packets;
	r->retransmits = f->retransmits;
	r->flags = flags;
	r->direction = key->direction;
	r->connection_id_len = f->id_len;
	r->ttl = f->ttl;
	r->pad = 0;
	bpf_ringbuf_submit(r, bpf_ringbuf_query(&sightings, BPF_RB_AVAIL_DATA) >= ring_wakeup_fill ?
				      BPF_RB_FORCE_WAKEUP :
				      BPF_RB_NO_WAKEUP);
	count(DEVICE_COUNTER_EMITTED);
	return 0;
}

/* Stores a flow with an ID and without a run. */
static __always_inline struct flow *new_flow(const struct flow_key *key, const __u8 *id,
					     __u32 id_len)
{
	struct flow f = {.claim = 1, .id_len = id_len};

	__builtin_memcpy(f.id, id, sizeof(f.id));
	if (bpf_map_update_elem(&flows, key, &f, BPF_ANY)) {
		count(DEVICE_COUNTER_MAP_FULL);
		return NULL;
	}
	return bpf_map_lookup_elem(&flows, key);
}

static __always_inline void on_syn(const struct headers *h, struct flow *f, const struct option *o,
				   __u64 now)
{
	struct flow_key other;
	struct flow *peer;

	if (f && f->opened && f->syn == h->seq)
		return; /* a copy */
	/* What is known of these addresses and ports is of an earlier connection. */
	if (f) {
		emit(&h->key, f, f->claim);
		bpf_map_delete_elem(&flows, &h->key);
	}
	other = other_direction(&h->key);
	peer = bpf_map_lookup_elem(&flows, &other);
	if (peer) {
		emit(&other, peer, peer->claim);
		bpf_map_delete_elem(&flows, &other);
	}
	if (!o->id_len)
		return;
	f = new_flow(&h->key, o->id, o->id_len);
	if (!f)
		return;
	f->opened = 1;
	f->syn = h->seq;
	f->next = h->seq + 1;
	f->valid = 1;
	f->touched = now;
}

/* Begins a run at a sequence number. */
static __always_inline void begin_run(const struct headers *h, struct flow *f, __u32 start,
				      const struct option *o, __u64 now)
{
	__u64 claim = f->claim;

	emit(&h->key, f, claim);
	f->first = now;
	f->last = now;
	f->tx_first = 0;
	f->tx_last = 0;
	f->option_time = o->time;
	f->ttl = h->ttl;
	f->start = start;
	f->tx_next = start;
	f->ack = h->ack;
	f->floor = f->valid ? f->next : start;
	__builtin_memset(&f->holes, 0, sizeof(f->holes));
	__builtin_memset(&f->tx_holes, 0, sizeof(f->tx_holes));
	f->packets = 0;
	f->retransmits = 0;
	f->flags = (f->opened ? SIGHTING_FROM_OPENER : 0) | (o->id_len ? 0 : SIGHTING_UNMARKED);
	asm volatile("" ::: "memory");
	*(volatile __u64 *)&f->claim = (claim | 1) + 1;
}

/* A segment, or the rest of one, without a byte after next. */
static COLD int on_old_bytes(const struct headers *h, struct flow *f, const struct option *o,
			     __u64 now)
{
	__u32 end = h->seq + h->payload_len;

	if (f->claim & 1) {
		count(DEVICE_COUNTER_LATE);
		return 0;
	}
	if (h->ack == f->ack && before(h->seq, f->start) && !before(f->start, end) &&
	    !before(h->seq, f->floor)) {
		/* The start of the run, later than what follows. */
		if (end != f->start)
			open_hole(&f->holes, end, f->start);
		open_hole(&f->tx_holes, h->seq, f->start);
		f->start = h->seq;
		f->last = now;
		f->packets++;
		f->flags |= SIGHTING_OUT_OF_ORDER;
		if (o->id_len) {
			f->option_time = o->time;
			f->flags &= ~SIGHTING_UNMARKED;
		}
		count(DEVICE_COUNTER_OUT_OF_ORDER);
		return 0;
	}
	if (fill_holes(&f->holes, h->seq, end)) {
		f->last = now;
		f->packets++;
		f->flags |= SIGHTING_OUT_OF_ORDER;
		count(DEVICE_COUNTER_OUT_OF_ORDER);
		return 0;
	}
	f->retransmits++;
	count(DEVICE_COUNTER_RETRANSMITTED);
	return 0;
}

static __always_inline void on_data(const struct headers *h, struct flow *f, const struct option *o,
				    __u64 now)
{
	__u32 end = h->seq + h->payload_len, start = h->seq;
	bool begins;

	f->touched = now;
	if (f->valid && !before(f->next, end)) {
		on_old_bytes(h, f, o, now);
		return;
	}
	if (f->valid && before(start, f->next)) {
		start = f->next; /* the rest was seen */
		f->retransmits++;
	}
	/* With sending offload, all segments of a send have the option of the first. */
	begins = f->claim & 1 || h->ack != f->ack || (o->id_len && o->time != f->option_time);
	if (begins) {
		begin_run(h, f, start, o, now);
	} else if (before(f->next, start)) {
		open_hole(&f->holes, f->next, start);
		f->flags |= SIGHTING_OUT_OF_ORDER;
	}
	f->next = end;
	f->valid = 1;
	f->last = now;
	f->packets++;
}

/* Windows above this are not in use. */
#define CONNECTION_DISTANCE (64U << 20)

/* A segment with data, SYN or RST. */
static __always_inline void on_segment(struct __sk_buff *skb, struct headers *h)
{
	struct option o = {};
	struct flow_key other;
	struct flow *f, *peer;
	__u64 now = bpf_ktime_get_ns();

	find_option(skb, h, &o);
	f = bpf_map_lookup_elem(&flows, &h->key);
	if ((h->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN) {
		on_syn(h, f, &o, now);
		return;
	}
	if (h->flags & TCP_RST) {
		if (f)
			emit(&h->key, f, f->claim);
		return;
	}
	if (!h->payload_len)
		return;
	if (!f && o.id_len) {
		f = new_flow(&h->key, o.id, o.id_len);
	} else if (!f) {
		other = other_direction(&h->key);
		peer = bpf_map_lookup_elem(&flows, &other);
		if (peer)
			f = new_flow(&h->key, peer->id, peer->id_len);
	}
	if (!f)
		return;
	if (o.id_len && (o.id_len != f->id_len || *(__u64 *)o.id != *(__u64 *)f->id)) {
		/* Another ID inside the connection is forged. Far from it, another connection
		 * has the same addresses and ports, and its SYN did not pass here.
		 */
		if (f->next - h->seq + CONNECTION_DISTANCE > 2 * CONNECTION_DISTANCE) {
			emit(&h->key, f, f->claim);
			bpf_map_delete_elem(&flows, &h->key);
			f = new_flow(&h->key, o.id, o.id_len);
			if (!f)
				return;
		} else {
			count(DEVICE_COUNTER_OPTION_CONFLICTING);
			o.id_len = 0;
			o.time = 0;
		}
	}
	on_data(h, f, &o, now);
}

/* Body of the programs at interfaces. Both kinds of access use the same helper here. */
static __always_inline void capture(struct __sk_buff *skb, __u32 l2, enum direction direction,
				    const enum access access)
{
	struct headers h = {};

	if (!parse(skb, l2, &h))
		return;
	if (!h.payload_len && !(h.flags & (TCP_SYN | TCP_RST)))
		return;
	if (filter_ports && !has_port(ports, h.key.sport) && !has_port(ports, h.key.dport))
		return;
	h.key.ifindex = skb->ifindex;
	h.key.direction = direction;
	on_segment(skb, &h);
}

CAPTURE_PROGRAMS(device)

/* The only function that reads a packet at a qdisc. len is the length of a header. */
static __noinline long read_header(void *to, __u32 len, const void *from)
{
	if (len < 1 || len > sizeof(struct ipv6_header))
		return -1;
	return bpf_probe_read_kernel(to, len, from);
}

static __always_inline bool read_tcp(const struct sk_buff *skb, __u32 off, __u32 ip_len,
				     struct headers *h)
{
	struct tcp_header tcp = {};
	__u32 header;

	if (read_header(&tcp, sizeof(tcp), skb->head + off))
		return false;
	header = (tcp.data_offset >> 4) * 4;
	if (ip_len <= header)
		return false;
	h->payload_len = ip_len - header;
	h->seq = bpf_ntohl(tcp.seq);
	h->key.sport = bpf_ntohs(tcp.src);
	h->key.dport = bpf_ntohs(tcp.dst);
	return true;
}

/* TCP with payload: IPv4, or IPv6 without extension headers. */
static __always_inline bool read_headers(const struct sk_buff *skb, struct headers *h)
{
	__u32 off = skb->network_header;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct ipv4_header ip = {};
		__u32 len, header;

		if (read_header(&ip, sizeof(ip), skb->head + off) || ip.protocol != IPPROTO_TCP ||
		    ip.fragment & bpf_htons(IP_MF_OR_OFFSET))
			return false;
		header = (ip.version_ihl & 15) * 4;
		len = ip.total_len ? bpf_ntohs(ip.total_len) : skb->len;
		map_ipv4(h->key.src, ip.src);
		map_ipv4(h->key.dst, ip.dst);
		return len > header && read_tcp(skb, off + header, len - header, h);
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6_header ip = {};
		__u32 len;

		if (read_header(&ip, sizeof(ip), skb->head + off) || ip.next_header != IPPROTO_TCP)
			return false;
		len = ip.payload_len ? bpf_ntohs(ip.payload_len) : skb->len;
		__builtin_memcpy(h->key.src, ip.src, sizeof(ip.src));
		__builtin_memcpy(h->key.dst, ip.dst, sizeof(ip.dst));
		return read_tcp(skb, off + sizeof(ip), len, h);
	}
	return false;
}

/* A watched interface's qdisc releases a packet. */
static __always_inline void on_dequeue(const struct sk_buff *skb, __u32 ifindex, bool bypass)
{
	struct headers h = {.key = {.ifindex = ifindex, .direction = DIRECTION_EGRESS}};
	struct flow *f;
	__u32 end;
	__u64 now;

	if (!read_headers(skb, &h))
		return;
	f = bpf_map_lookup_elem(&flows, &h.key);
	end = h.seq + h.payload_len;
	if (!f || f->claim & 1 || before(h.seq, f->start) || before(f->next, end))
		return;
	now = bpf_ktime_get_ns();
	if (!before(f->tx_next, end)) {
		/* Old bytes: what was dropped before, or what copies have overtaken. */
		if (fill_holes(&f->tx_holes, h.seq, end))
			f->tx_last = now;
		return;
	}
	if (bypass)
		f->flags |= SIGHTING_BYPASS;
	else if (before(f->tx_next, h.seq))
		open_hole(&f->tx_holes, f->tx_next, h.seq);
	if (!f->tx_first)
		f->tx_first = now;
	f->tx_last = now;
	f->tx_next = end;
}

/* dequeue_skb, net/sched/sch_generic.c: root qdiscs of interfaces, not nested ones. */
SEC("tp_btf/qdisc_dequeue")
int BPF_PROG(device_dequeue, const struct Qdisc *queue, const struct netdev_queue *to, int packets,
	     const struct sk_buff *skb)
{
	return dequeue_batch_from(queue, to, skb, &ctx[3]);
}

/* Times in ns: a run is emitted when no segment of its flow has passed for idle, and the
 * flow forgotten after forget. Results: left, flows; deferred, those whose run stays for the
 * next sweep because the ring has no room. User space sets it before the walk, and
 * reads it afterwards. Sweeps do not overlap.
 */
struct device_sweep {
	__u64 now;
	__u64 idle;
	__u64 forget;
	__u64 left;
	__u64 deferred;
} device_sweeping;

static __always_inline bool sweep_flow(const struct flow_key *key, struct flow *f)
{
	struct device_sweep *s = &device_sweeping;
	/* Read the claim first: a run that begins in between changes it. */
	__u64 claim = *(volatile __u64 *)&f->claim;
	__u64 touched = *(volatile __u64 *)&f->touched;
	__u64 idle = s->now > touched ? s->now - touched : 0;

	if (idle >= s->idle && !(claim & 1)) {
		if (!ring_has_room(&sightings)) {
			s->left++;
			s->deferred++;
			return true;
		}
		emit(key, f, claim);
	}
	if (idle >= s->forget)
		bpf_map_delete_elem(&flows, key);
	else
		s->left++;
	return true;
}

/* The next sweep visits what a slice skipped. The last one forgets nothing (device.go), but can
 * skip a flow if a packet deletes another one of the bucket in which a slice ends.
 */
WALK_PROGRAM(device_walk, flows, sweep_flow)
