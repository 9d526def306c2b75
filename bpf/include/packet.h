/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* From a packet to its TCP segment (Ethernet or none, one VLAN tag, IPv4, IPv6 with
 * extension headers, TCP), and the memory that a program works in.
 */
#ifndef LAYERTRACE_PACKET_H
#define LAYERTRACE_PACKET_H

#include "blind.h"
#include "connection.h"
#include "ip.h"
#include "walk_options.h"

/* Ports to capture, when filter_ports is set. */
const volatile bool filter_ports;
const volatile __u8 ports[PORT_BYTES];

/* One bit per interface, by the low bits of its index: it passes nothing on to others, so
 * that the kernel drops what is not for its own address. Ports of a bridge do.
 */
struct own_only {
	__u8 of[65536 / 8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct own_only);
} own_only_interfaces SEC(".maps");

static __always_inline bool is_own_only(__u32 ifindex)
{
	const struct own_only *own = bpf_map_lookup_elem(&own_only_interfaces, &(__u32){0});
	__u32 slot = ifindex & 0xffff;

	return own && own->of[slot >> 3] & (1 << (slot & 7));
}

/* Whether an arriving packet is for another host, and ends here. */
static __always_inline bool is_for_others(const struct __sk_buff *skb)
{
	return skb->pkt_type == PACKET_OTHERHOST && is_own_only(skb->ifindex);
}

/* Packets with more extension headers before TCP are not parsed. */
#define IPV6_EXTENSIONS_MAX 6

/* The benchmark repeats one packet and redefines these to make each run a new segment. */
#ifndef SEQUENCE_NUMBER
#define SEQUENCE_NUMBER(tcp) bpf_ntohl((tcp).seq)
#define ACKNOWLEDGEMENT(tcp) bpf_ntohl((tcp).ack)
#endif

/* What the payload of a segment starts with. */
struct payload_kind {
	__s8 outcome; /* of the walk over the request head, or NOT_A_REQUEST */
	__u8 request_line;
	__u8 marks; /* set of enum mark; NOT_A_REQUEST: an enum unseen */
	__u8 response;
};

struct segment {
	struct connection_key key;
	__u32 option_off;
	__u32 option_len;
	__u32 payload_off;
	__u32 payload_len;
	__u32 seq;
	__u32 ack;
	__u8 flags;
	bool from_a; /* sent by end a of the key */
	__u8 direction;
	__u8 pad;
	struct payload_kind kind;
	__u64 sender; /* source address and port in the packet, of IPv6 a hash */
};

static __always_inline bool is_syn(const struct segment *seg)
{
	return (seg->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

static __always_inline bool is_fin_or_rst(const struct segment *seg)
{
	return seg->flags & (TCP_FIN | TCP_RST);
}

/* Bytes of a request searched for a trace context: in its first segment, and with deep
 * in total. User space takes its limits from here; a test compares the defaults.
 */
enum window {
	WINDOW_MIN = 64,
	WINDOW_DEFAULT = 1024,
	WINDOW_MAX = 4096,
	DEEP_WINDOW_DEFAULT = 65536,
	DEEP_WINDOW_MAX = 1 << 24,
	DEEP_BUDGET_MIN = 1 << 16, /* bytes per second and CPU, as the next two */
	DEEP_BUDGET_DEFAULT = 16 << 20,
	DEEP_BUDGET_MAX = 1 << 30,
};

/* A power of two, so that a mask keeps offsets inside. */
#define TEXT_SIZE (2 * WINDOW_MAX)
#define TEXT_MASK (TEXT_SIZE - 1)
/* Room for reads of up to TEXT_PADDING bytes at any masked offset. */
#define TEXT_PADDING 128
/* Deep: size of a read. */
#define CHUNK_SIZE 1024

enum outcome {
	OUTCOME_INCOMPLETE, /* continues with the next bytes, if any */
	OUTCOME_FOUND,
	OUTCOME_UNSAMPLED,
	OUTCOME_NOT_FOUND,
	OUTCOME_TRUNCATED,
	OUTCOME_UNPARSABLE,
	OUTCOME_NOT_CAPTURED, /* user space has turned that off, see enum limit */
};

enum sampling {
	SAMPLING_DEFERRED,
	SAMPLING_DENIED,
	SAMPLING_ACCEPTED,
};

/* A trace context. offset: of its first line, from the start of the request. */
struct context {
	__u8 trace_id[16] __attribute__((aligned(8)));
	__u8 span_id[8];
	__u32 offset;
	__u8 format;
	__u8 sampling;
	__u8 have; /* set of enum part */
	__u8 pad;
};

enum part {
	PART_TRACE_ID = 1,
	PART_SPAN_ID = 2,
	PART_IDS = 3,
	PART_SAMPLING = 4,
	PART_TRACE_ID_HIGH = 8, /* Datadog's tag */
};

/* What else a walk reports. */
enum mark {
	MARK_MALFORMED = 1, /* a value is malformed */
	MARK_SEVERAL = 2,   /* contexts with different IDs */
	MARK_BEHIND = 4,    /* the context is beyond the prefix window */
};

/* State of a walk over a request head; deep keeps it between segments. */
struct walk {
	__u32 pos;  /* start of the current line in text */
	__u32 end;  /* length of text */
	__u32 base; /* offset of text[0] in the request */
	__u8 request_line;
	__u8 marks;	   /* set of enum mark */
	__u8 skip_line;	   /* the current line is too long to keep */
	__u8 traceparents; /* a traceparent line was read */
	__u8 seen;	   /* a complete context was: seen_trace_id and seen_span_id are set */
	__u8 accepted;	   /* an accepted context in one header was: see walk_is_settled() */
	__u8 in_line;	   /* unframed is not the start of a line */
	__u8 behind;	   /* the walk goes on beyond the prefix window */
	__u32 framing;	   /* offset of the first line that may be a framing header */
	__u32 head_end;	   /* offset after the empty line, if it was seen with every line before */
	__u32 unframed;	   /* no line that starts before this offset is such a line, or empty */
	__u64 preference;  /* of found, see preference(); 0: none yet */
	__u64 seen_trace_id; /* low half */
	__u64 seen_span_id;
	struct context found;	    /* the choice so far, the result at the end */
	struct context traceparent; /* have: valid and the only one */
	struct context b3;
	struct context datadog;
};

/* Start of a segment as another capture point on this node has read it; see
 * classify_payload(). Identified by its numbers, its length, who sent it, and when: an
 * entry is good for some ms. Where the destination is translated, all of that stays.
 */
struct cached_segment {
	__u64 seq_ack; /* sequence number << 32 | acknowledgement number */
	__u32 id;      /* see segment_id() */
	struct payload_kind kind;
};

/* Small enough to stay in L1: a segment passes all points of a node within
 * microseconds.
 */
#define SEGMENT_CACHE_BITS 3

/* Facts about the socket that a segment passes. */
struct socket_facts {
	__u64 cookie; /* 0: the point is an interface */
	__u64 cgroup; /* as in the record, and the next two */
	__u32 netns;
	__u32 uid;
	__u32 tgid;
	__u32 pad;
};

/* First and last write of the latest run without a read in between, in ns of
 * CLOCK_MONOTONIC. 0: unknown.
 */
struct write_times {
	__u64 first;
	__u64 last;
};

static __always_inline __u64 sender_ipv4(__be32 addr, __u16 port)
{
	return addr | (__u64)port << 32;
}

static __always_inline __u64 sender_ipv6(const __u64 *addr, __u16 port)
{
	return (addr[0] * HASH_FACTOR + addr[1]) * HASH_FACTOR + port;
}

/* log2 of the ticks of the kernel's clock (1 to 10 ms each) that share an ID. */
#define ID_TICKS 2

static __always_inline __u32 segment_id(__u64 sender, __u32 payload_len)
{
	__u64 when = bpf_jiffies64() >> ID_TICKS;

	return ((sender + when * HASH_FACTOR) * HASH_FACTOR + payload_len) * HASH_FACTOR >> 32;
}

/* What a scan over the head that begins at a sequence number has found, for later points
 * of the node.
 */
struct cached_head {
	__u64 seq_ack;
	__u64 length;
	__u32 id;	/* as in struct cached_segment */
	__u32 head_len; /* 0: it continues */
	__u32 unframed; /* 0: read; else as in struct walk, and the rest is not known yet */
	__u8 line;
	__u8 headers;
	__u8 unread; /* too long */
	__u8 pad[1];
};

struct scratch {
	__u32 claimed;
	__u32 slot;	  /* key of this element */
	__u64 unfinished; /* seq_ack of the segment whose unfinished walk was left here */
	__u64 resume;	  /* the same for the run that has claimed it */
	struct cached_segment segment_cache[1 << SEGMENT_CACHE_BITS];
	struct walk walk;
	struct segment segment; /* the segment being tracked */
	struct socket_facts socket;
	struct write_times write_times;
	struct context cached_contexts[1 << SEGMENT_CACHE_BITS]; /* for segment_cache */
	struct cached_head cached_heads[1 << SEGMENT_CACHE_BITS];
	__u8 text[TEXT_SIZE + TEXT_PADDING];
	struct options options;
	struct context id; /* scratch space of the readers of values */
	struct connection blank;
	struct queued_request queued;
	__u64 high; /* accumulators of the number readers */
	__u64 low;
};

/* Programs can nest on a CPU: a socket program runs in a sending process, which an
 * arriving packet may interrupt and another process preempt.
 */
#define SCRATCHES 4

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCHES);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

#define COPY_ALIGNED(to, from, len, align)                    \
	__builtin_memcpy(__builtin_assume_aligned(to, align), \
			 __builtin_assume_aligned(from, align), len)

/* Copies in the widest words that divide len. By default the compiler copies possibly
 * unaligned data bytewise, which these machines do not need.
 */
static __always_inline void copy_words(void *to, const void *from, const __u32 len)
{
	if (len % 8 == 0)
		COPY_ALIGNED(to, from, len, 8);
	else if (len % 4 == 0)
		COPY_ALIGNED(to, from, len, 4);
	else if (len % 2 == 0)
		COPY_ALIGNED(to, from, len, 2);
	else
		__builtin_memcpy(to, from, len);
}

/* Reads len bytes at off into memory aligned for their width. Direct access is cheaper
 * but sees only the linear part; fragments (GRO, GSO) go through the helper.
 */
static __always_inline bool load(struct __sk_buff *skb, __u32 off, void *to, const __u32 len,
				 const enum access access)
{
	if (access == ACCESS_DIRECT) {
		void *data = (void *)(long)skb->data;
		void *end = (void *)(long)skb->data_end;

		if (off <= 256 && data + off + len <= end) {
			copy_words(to, data + off, len);
			return true;
		}
		/* The verifier of 6.18 traces the origin of the bytes back through the helper
		 * call, where it loses them.
		 */
		__builtin_memset(to, 0, len);
	}
	return bpf_skb_load_bytes(skb, off, to, len) == 0;
}

static __always_inline void note_other_protocol(struct __sk_buff *skb, __u32 off, __u32 protocol,
						bool in_ipv6, const enum access access)
{
	if (access == ACCESS_DIRECT)
		count_encapsulated_direct(skb, off, protocol, in_ipv6);
	else
		count_encapsulated(skb, off, protocol, in_ipv6);
}

/* Skips IPv6 extension headers. Returns the offset of TCP, or 0 if this is not a
 * complete TCP packet.
 */
static __always_inline __u32 skip_extensions(struct __sk_buff *skb, __u32 off, __u8 next,
					     const enum access access)
{
	for (int i = 0; i < IPV6_EXTENSIONS_MAX; i++) {
		struct {
			__u8 next;
			__u8 len;
		} ext;

		switch (next) {
		case IPPROTO_TCP:
			return off;
		case 44: /* fragment header, RFC 8200 section 4.5 */
			count(COUNTER_FRAGMENT);
			return 0;
		case 0:	 /* hop-by-hop options */
		case 43: /* routing */
		case 60: /* destination options */
			if (!load(skb, off, &ext, sizeof(ext), access))
				return 0;
			off += (ext.len + 1) * 8;
			break;
		case 51: /* authentication header, RFC 4302: length in 4-byte words */
			if (!load(skb, off, &ext, sizeof(ext), access))
				return 0;
			off += (ext.len + 2) * 4;
			break;
		default:
			note_other_protocol(skb, off, next, true, access);
			return 0;
		}
		next = ext.next;
	}
	return next == IPPROTO_TCP ? off : 0;
}

/* Sorts the ends; on entry addr_a is the source and addr_b the destination. */
static __always_inline void set_ends(struct segment *s, __u16 sport, __u16 dport)
{
	struct connection_key *k = &s->key;
	bool src_is_a = sport < dport;
	__u32 ports;

	if (sport == dport)
		src_is_a = k->addr_a[0] != k->addr_b[0] ? k->addr_a[0] < k->addr_b[0] :
							  k->addr_a[1] < k->addr_b[1];
	s->from_a = src_is_a;
	/* one store, as the look-up reads both ports at once */
	ports = src_is_a ? sport | (__u32)dport << 16 : dport | (__u32)sport << 16;
	__builtin_memcpy(&k->port_a, &ports, sizeof(ports));
	for (int i = 0; i < 2; i++) {
		__u64 src = k->addr_a[i], dst = k->addr_b[i];

		k->addr_a[i] = src_is_a ? src : dst;
		k->addr_b[i] = src_is_a ? dst : src;
	}
}

/* Whether one of the ports passes the filter. */
static __always_inline bool ports_match(const struct segment *s)
{
	return !filter_ports || has_port(ports, s->key.port_a) || has_port(ports, s->key.port_b);
}

/* Whether a segment is more than a bare acknowledgement. */
static __always_inline bool is_more_than_ack(const struct segment *s)
{
	return s->payload_len || s->flags & (TCP_SYN | TCP_FIN | TCP_RST);
}

/* Fills s from a TCP packet; l2 is the length of the link-layer header. Returns false
 * for anything else, and for bare acknowledgements unless keep_acks.
 */
static __always_inline bool parse_segment(struct __sk_buff *skb, struct segment *s, __u32 l2,
					  const enum access access, bool keep_acks)
{
	__be16 protocol = skb->protocol;
	__u32 off = l2, end, data_off;
	struct {
		struct ipv4_header ip;
		struct tcp_header tcp;
	} both;
	bool has_tcp = false;

	if (unlikely(protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD))) {
		if (!load(skb, l2 + 2, &protocol, sizeof(protocol), access))
			return false;
		off += VLAN_HLEN;
	}
	if (protocol == bpf_htons(ETH_P_IP)) {
		/* With the helper, one call for both headers: options are rare. */
		if (access == ACCESS_LOAD && skb->len >= off + sizeof(both))
			has_tcp = load(skb, off, &both, sizeof(both), access);
		if (!has_tcp && !load(skb, off, &both.ip, sizeof(both.ip), access))
			return false;
		if (both.ip.protocol != IPPROTO_TCP) {
			if (!(both.ip.fragment & bpf_htons(IP_OFFSET)))
				note_other_protocol(skb, off + (both.ip.version_ihl & 15) * 4,
						    both.ip.protocol, false, access);
			return false;
		}
		if (unlikely(both.ip.fragment & bpf_htons(IP_MF_OR_OFFSET))) {
			count(COUNTER_FRAGMENT);
			return false;
		}
		/* 0: too long for the field (BIG TCP) */
		end = both.ip.total_len ? off + bpf_ntohs(both.ip.total_len) : skb->len;
		has_tcp = has_tcp && (both.ip.version_ihl & 15) == 5;
		off += (both.ip.version_ihl & 15) * 4;
		map_ipv4(s->key.addr_a, both.ip.src);
		map_ipv4(s->key.addr_b, both.ip.dst);
	} else if (protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6_header ip;

		if (!load(skb, off, &ip, sizeof(ip), access))
			return false;
		/* 0: jumbo payload, RFC 2675 */
		end = ip.payload_len ? off + sizeof(ip) + bpf_ntohs(ip.payload_len) : skb->len;
		off = skip_extensions(skb, off + sizeof(ip), ip.next_header, access);
		if (!off)
			return false;
		s->sender = sender_ipv6(ip.src, 0);
		__builtin_memcpy(s->key.addr_a, ip.src, sizeof(ip.src));
		__builtin_memcpy(s->key.addr_b, ip.dst, sizeof(ip.dst));
	} else {
		count_other_frame(protocol);
		return false;
	}
	if (!has_tcp && !load(skb, off, &both.tcp, sizeof(both.tcp), access)) {
		count(COUNTER_PACKET_TRUNCATED);
		return false;
	}
	data_off = off + (both.tcp.data_offset >> 4) * 4;
	s->pad = 0;
	s->flags = both.tcp.flags;
	s->payload_len = end > data_off ? end - data_off : 0;
	if (!keep_acks && !is_more_than_ack(s))
		return false;
	s->option_off = off + sizeof(both.tcp);
	s->option_len = data_off > s->option_off ? data_off - s->option_off : 0;
	s->payload_off = data_off;
	s->seq = SEQUENCE_NUMBER(both.tcp);
	s->ack = ACKNOWLEDGEMENT(both.tcp);
	s->key.ifindex = skb->ifindex;
	if (protocol == bpf_htons(ETH_P_IP))
		s->sender = sender_ipv4(both.ip.src, both.tcp.src);
	else
		s->sender += both.tcp.src;
	set_ends(s, bpf_ntohs(both.tcp.src), bpf_ntohs(both.tcp.dst));
	return true;
}

/* Exclusive working memory until release_scratch(); NULL if this CPU has none left. */
static __always_inline struct scratch *claim_scratch(void)
{
#pragma unroll
	for (__u32 i = 0; i < SCRATCHES; i++) {
		__u32 key = i;
		struct scratch *s = bpf_map_lookup_elem(&scratches, &key);

		if (s && !__sync_lock_test_and_set(&s->claimed, 1)) {
			s->slot = i;
			s->resume = s->unfinished;
			s->unfinished = 0;
			return s;
		}
	}
	count(COUNTER_SCRATCH_BUSY);
	return NULL;
}

/* The same memory as a map value. In a global function it is plain memory to the
 * verifier, which the one in 6.1 accepts neither as a map key nor as a value.
 */
static __always_inline struct scratch *scratch_as_map_value(const struct scratch *s)
{
	__u32 slot = s->slot;

	return bpf_map_lookup_elem(&scratches, &slot);
}

static __always_inline void release_scratch(struct scratch *s)
{
	asm volatile("" ::: "memory");
	*(volatile __u32 *)&s->claimed = 0;
}

static __always_inline __u64 text64(const struct scratch *s, __u32 off)
{
	return *(const __u64 *)(s->text + (off & TEXT_MASK));
}

/* TEXT_PADDING readable bytes from off on, for a single bounds check. */
static __always_inline const __u8 *text_at(const struct scratch *s, __u32 off)
{
	return s->text + (off & TEXT_MASK);
}

static __always_inline __u8 text8(const struct scratch *s, __u32 off)
{
	return s->text[off & TEXT_MASK];
}

/* Usual options of a data segment: NOP, NOP, timestamps. */
#define TIMESTAMPS_ONLY 0x0101080a
#define TIMESTAMPS_LEN 12

static __always_inline bool is_trusted(const struct segment *seg)
{
	struct prefix_key key = {.len = 128};

	key.addr[0] = seg->from_a ? seg->key.addr_a[0] : seg->key.addr_b[0];
	key.addr[1] = seg->from_a ? seg->key.addr_a[1] : seg->key.addr_b[1];
	return bpf_map_lookup_elem(&trusted_prefixes, &key) != NULL;
}

/* Reads our option from the segment; false if there is none or it is not trusted. */
static __always_inline bool read_options(struct __sk_buff *skb, const struct segment *seg,
					 struct scratch *s)
{
	__u32 len = seg->option_len;

	s->options.id_len = 0;
	s->options.time = 0;
	if (!len || len > OPTIONS_MAX)
		return false;
	if (len == TIMESTAMPS_LEN) {
		__be32 first;

		if (!load(skb, seg->option_off, &first, sizeof(first), ACCESS_LOAD) ||
		    first == bpf_htonl(TIMESTAMPS_ONLY))
			return false;
	}
	BOUND_LENGTH(len, OPTIONS_BOUND);
	if (bpf_skb_load_bytes(skb, seg->option_off, s->options.bytes, len) ||
	    !walk_options(&s->options, len))
		return false;
	if (!is_trusted(seg)) {
		count(COUNTER_OPTION_UNTRUSTED);
		s->options.id_len = 0;
		s->options.time = 0;
		return false;
	}
	count(COUNTER_OPTION_READ);
	return true;
}

#endif
