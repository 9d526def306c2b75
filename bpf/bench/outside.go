// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/bpf"
)

// otherCgroup is the ID of a cgroup that no process is in: none has it.
const otherCgroup = 1 << 62

// chooseOther makes the programs of spec, where they ask, choose one cgroup and
// watch the network namespace that this process is in, as an agent's do.
func chooseOther(spec *ebpf.CollectionSpec) error {
	var self unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &self); err != nil {
		return fmt.Errorf("read the own network namespace: %w", err)
	}
	for name, value := range map[string]any{
		bpf.SocketVarTargetCgroups: bpf.SocketTargetCgroups{Len: 1, Ids: [16]uint64{otherCgroup}},
		bpf.DriverVarWatchedNetns:  uint32(self.Ino),
	} {
		if v := spec.Variables[name]; v != nil {
			if err := v.Set(value); err != nil {
				return fmt.Errorf("set %s: %w", name, err)
			}
		}
	}
	return nil
}
