/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Which sockets are of the chosen cgroups: those whose packets the programs of
 * these cgroups see. Every write of the machine may ask, so the answer is kept,
 * and getting it makes no call.
 */
#ifndef LAYERTRACE_CHOSEN_H
#define LAYERTRACE_CHOSEN_H

#include "kernel_types.h"

#define CHOSEN_CGROUPS_MAX 16
/* A chosen cgroup that is nested deeper is not found. */
#define CGROUP_LEVELS_MAX 32

/* The chosen cgroups' IDs: inode numbers of their directories. */
const volatile __u32 chosen_cgroups_len;
const volatile __u64 chosen_cgroups[CHOSEN_CGROUPS_MAX];

#define ANSWERS_BITS 6

/* Of cgroups that were asked for, each in one word: which one, and in the lowest
 * bit whether it is chosen.
 */
struct answers {
	__u64 of[1 << ANSWERS_BITS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct answers);
} known_cgroups SEC(".maps");

static __always_inline bool is_chosen_id(__u64 id)
{
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < CHOSEN_CGROUPS_MAX; i++) {
		if (i >= chosen_cgroups_len)
			return false;
		if (chosen_cgroups[i] == id)
			return true;
	}
	return false;
}

/* A cgroup's number in this table, with a lowest bit of 0: its address, from the
 * table's. The verifier lets two pointers be subtracted, but none be a number.
 */
static __always_inline __u64 number_of_cgroup(const struct cgroup *group,
					      const struct answers *known)
{
	__u64 number = (__u64)group;

	asm volatile("%0 -= %1" : "+r"(number) : "r"(known));
	return number;
}

static __always_inline __u64 *place_of_answer(struct answers *known, __u64 number)
{
	return &known->of[number * HASH_FACTOR >> (64 - ANSWERS_BITS)];
}

/* Whether the cgroup or one above it is chosen, as cgroup_is_descendant in
 * include/linux/cgroup.h.
 */
static __noinline int look_up_cgroup(const struct cgroup *group, __u64 number, __u64 *answer)
{
	__u32 level = BPF_CORE_READ(group, level);
	__u64 chosen = 0;

	if (!answer)
		return 0;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < CGROUP_LEVELS_MAX && i <= level; i++) {
		struct cgroup *above = NULL;

		bpf_core_read(&above, sizeof(above), &group->ancestors[i]);
		if (is_chosen_id(BPF_CORE_READ(above, kn, id))) {
			chosen = 1;
			break;
		}
	}
	*(volatile __u64 *)answer = number | chosen;
	return chosen;
}

static __always_inline bool is_chosen_socket(const struct sock *sk)
{
	struct answers *known = bpf_map_lookup_elem(&known_cgroups, &(__u32){0});
	const struct cgroup *group = sk->sk_cgrp_data.cgroup;
	__u64 number, *place, answer;

	if (!known)
		return false;
	number = number_of_cgroup(group, known);
	place = place_of_answer(known, number);
	answer = *(volatile __u64 *)place;
	return (answer & ~1ULL) == number ? answer & 1 : look_up_cgroup(group, number, place);
}

/* A cgroup is made: an answer for one that was there before it is not its own. */
static __always_inline void forget_answer(const struct cgroup *group)
{
	struct answers *known = bpf_map_lookup_elem(&known_cgroups, &(__u32){0});

	if (known)
		*(volatile __u64 *)place_of_answer(known, number_of_cgroup(group, known)) = 0;
}

#endif
