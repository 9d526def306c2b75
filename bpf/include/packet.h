/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* From a packet to its TCP segment: Ethernet (or none), one VLAN tag, IPv4,
 * IPv6 with extension headers, TCP.
 */
#ifndef LAYERTRACE_PACKET_H
#define LAYERTRACE_PACKET_H

#include "counters.h"
#include "exchange.h"

#define IPPROTO_TCP 6
#define IP_MF_OR_OFFSET 0x3fff
/* Extension headers that a packet may have before TCP; more is not parsed. */
#define IPV6_EXTENSIONS_MAX 6

/* Ports to look at, one bit each, when ports_chosen is set. */
const volatile bool ports_chosen;
const volatile __u8 ports[65536 / 8];

struct ipv4_header {
	__u8 version_ihl;
	__u8 tos;
	__be16 total_len;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__be32 src;
	__be32 dst;
};

struct ipv6_header {
	__be32 version_class_flow;
	__be16 payload_len;
	__u8 next_header;
	__u8 hop_limit;
	__u64 src[2];
	__u64 dst[2];
};

struct tcp_header {
	__be16 src;
	__be16 dst;
	__be32 seq;
	__be32 ack;
	__u8 data_offset;
	__u8 flags;
	__be16 window;
	__be16 checksum;
	__be16 urgent;
};

/* A benchmark, which repeats one packet, makes each run a new segment. */
#ifndef SEQUENCE_NUMBER
#define SEQUENCE_NUMBER(tcp) bpf_ntohl((tcp).seq)
#endif

/* What a segment begins. */
struct beginning {
	__s8 outcome; /* of the walk over the request, or NO_REQUEST */
	__u8 request_line;
	__u8 malformed;
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
	struct beginning begins;
};

static __always_inline bool is_beginning(const struct segment *seg)
{
	return (seg->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

static __always_inline bool is_end(const struct segment *seg)
{
	return seg->flags & (TCP_FIN | TCP_RST);
}

enum access {
	ACCESS_DIRECT, /* packet pointers, as TCX and clsact may */
	ACCESS_LOAD,   /* only bpf_skb_load_bytes, as socket filters must */
};

/* Makes the verifier see that a length is from 1 to max, a power of 2, as it has
 * to be for a helper: that of 6.1 learns nothing from a comparison with 0.
 */
#define BOUND_LENGTH(len, max) \
	asm volatile("%0 += -1\n%0 &= %1\n%0 += 1" : "+r"(len) : "i"((max)-1))

#define COPY_ALIGNED(to, from, len, align)                    \
	__builtin_memcpy(__builtin_assume_aligned(to, align), \
			 __builtin_assume_aligned(from, align), len)

/* Copies by the widest words that len is a multiple of. Left alone the compiler
 * goes byte by byte through what may not be aligned; these machines need not.
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

/* Reads len bytes at off to memory that is aligned for their width. Direct
 * access is cheaper but sees only the linear part; what lies in fragments (GRO,
 * GSO) goes through the helper.
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
		/* The verifier of 6.18 follows the bytes back over the helper, which
		 * it does not know to be where they come from.
		 */
		__builtin_memset(to, 0, len);
	}
	return bpf_skb_load_bytes(skb, off, to, len) == 0;
}

/* IPv6 extension headers up to TCP; returns its offset, 0 when it is not a
 * whole TCP packet.
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
		case 51: /* authentication header, RFC 4302: in words of 4 bytes */
			if (!load(skb, off, &ext, sizeof(ext), access))
				return 0;
			off += (ext.len + 2) * 4;
			break;
		default:
			return 0;
		}
		next = ext.next;
	}
	return next == IPPROTO_TCP ? off : 0;
}

/* Puts the ends in their order: the key's addresses are the source's and the
 * destination's.
 */
static __always_inline void set_ends(struct segment *s, __u16 sport, __u16 dport)
{
	struct connection_key *k = &s->key;
	bool src_is_a = sport < dport;
	__u32 ports;

	if (sport == dport)
		src_is_a = k->addr_a[0] != k->addr_b[0] ? k->addr_a[0] < k->addr_b[0] :
							  k->addr_a[1] < k->addr_b[1];
	s->from_a = src_is_a;
	/* one store, since the look-up reads both ports at once */
	ports = src_is_a ? sport | (__u32)dport << 16 : dport | (__u32)sport << 16;
	__builtin_memcpy(&k->port_a, &ports, sizeof(ports));
	for (int i = 0; i < 2; i++) {
		__u64 src = k->addr_a[i], dst = k->addr_b[i];

		k->addr_a[i] = src_is_a ? src : dst;
		k->addr_b[i] = src_is_a ? dst : src;
	}
}

static __always_inline bool port_is_chosen(__u16 port)
{
	return ports[port >> 3] & (1 << (port & 7));
}

/* Whether one of the segment's ports is chosen, or none has to be. */
static __always_inline bool is_chosen(const struct segment *s)
{
	return !ports_chosen || port_is_chosen(s->key.port_a) || port_is_chosen(s->key.port_b);
}

/* IPv4-mapped IPv6 address, RFC 4291 section 2.5.5.2: its second half, and the
 * whole.
 */
static __always_inline __u64 mapped_ipv4(__be32 addr)
{
	return (__u64)addr << 32 | bpf_htonl(0xffff);
}

static __always_inline void map_ipv4(__u64 *to, __be32 addr)
{
	to[0] = 0;
	to[1] = mapped_ipv4(addr);
}

/* Whether a segment does more than to acknowledge. */
static __always_inline bool matters(const struct segment *s)
{
	return s->payload_len || s->flags & (TCP_SYN | TCP_FIN | TCP_RST);
}

/* Fills s for a TCP segment. One that does not matter is left out, unless bare
 * acknowledgements are asked for. l2 is the length of the link-layer header.
 */
static __always_inline bool parse_segment(struct __sk_buff *skb, struct segment *s, __u32 l2,
					  const enum access access, const bool bare)
{
	__be16 protocol = skb->protocol;
	__u32 off = l2, end, data_off;
	struct {
		struct ipv4_header ip;
		struct tcp_header tcp;
	} both;
	bool has_tcp = false;

	if (protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD)) {
		if (!load(skb, l2 + 2, &protocol, sizeof(protocol), access))
			return false;
		off += VLAN_HLEN;
	}
	if (protocol == bpf_htons(ETH_P_IP)) {
		/* With the helper, one call for both headers; most have no options. */
		if (access == ACCESS_LOAD && skb->len >= off + sizeof(both))
			has_tcp = load(skb, off, &both, sizeof(both), access);
		if (!has_tcp && !load(skb, off, &both.ip, sizeof(both.ip), access))
			return false;
		if (both.ip.protocol != IPPROTO_TCP)
			return false;
		if (both.ip.fragment & bpf_htons(IP_MF_OR_OFFSET)) {
			count(COUNTER_FRAGMENT);
			return false;
		}
		/* 0: larger than the field can say (BIG TCP) */
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
		__builtin_memcpy(s->key.addr_a, ip.src, sizeof(ip.src));
		__builtin_memcpy(s->key.addr_b, ip.dst, sizeof(ip.dst));
	} else {
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
	if (!bare && !matters(s))
		return false;
	s->option_off = off + sizeof(both.tcp);
	s->option_len = data_off > s->option_off ? data_off - s->option_off : 0;
	s->payload_off = data_off;
	s->seq = SEQUENCE_NUMBER(both.tcp);
	s->ack = bpf_ntohl(both.tcp.ack);
	s->key.ifindex = skb->ifindex;
	set_ends(s, bpf_ntohs(both.tcp.src), bpf_ntohs(both.tcp.dst));
	return true;
}

#endif
