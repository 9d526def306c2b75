/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the capture programs pass over because they cannot read it, counted by kind, so
 * that the agent can say so: packets inside of other packets, and connections whose
 * first bytes are not of HTTP/1. Only packets that are not TCP, and payloads that are
 * neither a request nor a response, get here.
 */
#ifndef LAYERTRACE_BLIND_H
#define LAYERTRACE_BLIND_H

#include "kernel.h"

/* Metric names, kinds and help texts: agent/internal/probe/counters.go. */
enum unseen {
	UNSEEN_NONE,
	UNSEEN_TLS,
	UNSEEN_HTTP2,
	UNSEEN_VXLAN,
	UNSEEN_GENEVE,
	UNSEEN_GRE,
	UNSEEN_IPIP,
	UNSEEN_IP_IN_IP6,
	UNSEEN_MPLS,
	UNSEEN_PPPOE,
	UNSEEN_ESP,
	UNSEEN_WIREGUARD,
	UNSEEN_KINDS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, UNSEEN_KINDS);
	__type(key, enum unseen);
	__type(value, __u64);
} unseen_counters SEC(".maps");

static __always_inline void count_unseen(enum unseen kind)
{
	increment(&unseen_counters, kind);
}

/* First bytes of a payload, the first one lowest. A TLS connection begins with one
 * ClientHello: a handshake record (22) of version 3.x with a handshake message of type 1
 * (RFC 8446, sections 4 and 5.1).
 */
#define TLS_HELLO 0x010000000316ULL
#define TLS_HELLO_MASK 0xff000000ffffULL
/* "PRI * HT", the start of the preface of HTTP/2 (RFC 9113, section 3.4). */
#define HTTP2_PREFACE 0x5448202a20495250ULL

/* What a payload begins that is neither a request nor a response. */
static __always_inline enum unseen unreadable_start(__u64 head)
{
	if ((head & TLS_HELLO_MASK) == TLS_HELLO)
		return UNSEEN_TLS;
	return head == HTTP2_PREFACE ? UNSEEN_HTTP2 : UNSEEN_NONE;
}

/* Destination ports: RFC 7348 and Linux's default of before, RFC 8926, RFC 7510. */
#define PORT_VXLAN 4789
#define PORT_VXLAN_LINUX 8472
#define PORT_GENEVE 6081
#define PORT_MPLS 6635
/* WireGuard has no port of its own: its default, and those of flannel, Calico and
 * Cilium.
 */
#define PORT_WIREGUARD 51820
#define PORT_WIREGUARD_IPV6 51821
#define PORT_WIREGUARD_CILIUM 51871

static __always_inline bool is_wireguard_port(__u16 port)
{
	return port == PORT_WIREGUARD || port == PORT_WIREGUARD_IPV6 ||
	       port == PORT_WIREGUARD_CILIUM;
}

struct datagram {
	__be16 src;
	__be16 dst;
	__be16 len;
	__be16 checksum;
	__u8 payload[4];
};

/* Kind of a UDP datagram, by its ports and the first bytes of its payload. */
static __always_inline enum unseen datagram_kind(const struct datagram *udp)
{
	__u16 src, dst;

	src = bpf_ntohs(udp->src);
	dst = bpf_ntohs(udp->dst);
	switch (dst) {
	case PORT_VXLAN:
	case PORT_VXLAN_LINUX: /* with the flag of a valid network identifier */
		return udp->payload[0] & 8 ? UNSEEN_VXLAN : UNSEEN_NONE;
	case PORT_GENEVE: /* version 0 */
		return udp->payload[0] >> 6 ? UNSEEN_NONE : UNSEEN_GENEVE;
	case PORT_MPLS:
		return UNSEEN_MPLS;
	}
	/* a message type of 1 to 4 and three bytes of 0 */
	if ((is_wireguard_port(src) || is_wireguard_port(dst)) && udp->payload[0] - 1U < 4 &&
	    !(udp->payload[1] | udp->payload[2] | udp->payload[3]))
		return UNSEEN_WIREGUARD;
	return UNSEEN_NONE;
}

/* IP protocols: IANA, Protocol Numbers. */
#define PROTOCOL_IPV4 4
#define PROTOCOL_UDP 17
#define PROTOCOL_IPV6 41
#define PROTOCOL_GRE 47
#define PROTOCOL_ESP 50
#define PROTOCOL_MPLS 137

/* Kind of an IP packet by its protocol alone. */
static __always_inline enum unseen protocol_kind(__u32 protocol, bool in_ipv6)
{
	switch (protocol) {
	case PROTOCOL_IPV4:
		return in_ipv6 ? UNSEEN_IP_IN_IP6 : UNSEEN_IPIP;
	case PROTOCOL_IPV6:
		return UNSEEN_IP_IN_IP6;
	case PROTOCOL_GRE:
		return UNSEEN_GRE;
	case PROTOCOL_ESP:
		return UNSEEN_ESP;
	case PROTOCOL_MPLS:
		return UNSEEN_MPLS;
	}
	return UNSEEN_NONE;
}

static __always_inline enum unseen loaded_kind(struct __sk_buff *skb, __u32 off)
{
	struct datagram udp;

	return bpf_skb_load_bytes(skb, off, &udp, sizeof(udp)) ? UNSEEN_NONE : datagram_kind(&udp);
}

static __always_inline int count_kind(enum unseen kind)
{
	if (kind)
		count_unseen(kind);
	return kind;
}

/* Counts an IP packet whose payload, at off, is not TCP but may have a packet inside. */
VERIFIED_ALONE RARE int count_encapsulated(struct __sk_buff *skb, __u32 off, __u32 protocol,
					   __u32 in_ipv6)
{
	return count_kind(protocol == PROTOCOL_UDP ? loaded_kind(skb, off) :
						     protocol_kind(protocol, in_ipv6));
}

/* The same where packet pointers may be used. Most UDP is something else, and costs less
 * this way.
 */
VERIFIED_ALONE RARE int count_encapsulated_direct(struct __sk_buff *skb, __u32 off, __u32 protocol,
						  __u32 in_ipv6)
{
	const struct datagram *udp = (void *)(long)skb->data + (off & 255);

	if (protocol == PROTOCOL_UDP && off < 256 &&
	    (const void *)(udp + 1) <= (void *)(long)skb->data_end)
		return count_kind(datagram_kind(udp));
	return count_encapsulated(skb, off, protocol, in_ipv6);
}

/* EtherTypes: IANA, IEEE 802 Numbers. */
#define ETH_P_MPLS_UC 0x8847
#define ETH_P_MPLS_MC 0x8848
#define ETH_P_PPP_SES 0x8864

/* Counts a frame that is not of IP. */
static __always_inline void count_other_frame(__be16 protocol)
{
	if (protocol == bpf_htons(ETH_P_MPLS_UC) || protocol == bpf_htons(ETH_P_MPLS_MC))
		count_unseen(UNSEEN_MPLS);
	else if (protocol == bpf_htons(ETH_P_PPP_SES))
		count_unseen(UNSEEN_PPPOE);
}

#endif
