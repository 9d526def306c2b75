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

/* A power of 2. What a cgroup's ID says stays, so nothing has to be forgotten. */
#define ANSWERS 64

/* ID << 1 | chosen of cgroups that were asked for, in one word each. */
struct answers {
	__u64 of[ANSWERS];
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

/* The same by the cgroup and those above it, cgroup_is_descendant in
 * include/linux/cgroup.h.
 */
static __noinline int look_up_cgroup(const struct cgroup *group, __u64 id, __u64 *answer)
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
	*(volatile __u64 *)answer = id << 1 | chosen;
	return chosen;
}

static __always_inline bool is_chosen_socket(const struct sock *sk)
{
	struct answers *known = bpf_map_lookup_elem(&known_cgroups, &(__u32){0});
	const struct cgroup *group = sk->sk_cgrp_data.cgroup;
	__u64 id = group->kn->id, *place, answer;

	if (!known)
		return false;
	place = &known->of[id & (ANSWERS - 1)];
	answer = *(volatile __u64 *)place;
	return answer >> 1 == id ? answer & 1 : look_up_cgroup(group, id, place);
}

#endif
