/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Kernel interface: UAPI types, helpers, and what older headers lack. */
#ifndef LAYERTRACE_KERNEL_H
#define LAYERTRACE_KERNEL_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD
#define ETH_P_8021Q 0x8100
#define ETH_P_8021AD 0x88A8
#define ETH_HLEN 14
#define VLAN_HLEN 4
#define PACKET_OUTGOING 4

/* include/uapi/linux/bpf.h since 6.6: let the next program decide. */
#define TCX_NEXT_VERDICT (-1)

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* Multiplicative hashing, Knuth, The Art of Computer Programming 6.4. */
#define HASH_FACTOR 0x9e3779b97f4a7c15ULL

#endif
