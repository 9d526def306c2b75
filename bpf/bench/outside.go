// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/bpf"
)

// chooseOther makes the programs of spec, where they ask, choose one cgroup and
// watch the network namespace that this process is in, as an agent's do. What
// was chosen is known when the maps are: see putOther.
func chooseOther(spec *ebpf.CollectionSpec) error {
	var self unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &self); err != nil {
		return fmt.Errorf("read the own network namespace: %w", err)
	}
	for name, value := range map[string]uint32{
		bpf.SocketVarChosenCgroupsLen: 1,
		bpf.DriverVarWatchedNetns:     uint32(self.Ino),
	} {
		if v := spec.Variables[name]; v != nil {
			if err := v.Set(value); err != nil {
				return fmt.Errorf("set %s: %w", name, err)
			}
		}
	}
	return nil
}

// putOther puts a cgroup that no process is in where programs look for those
// chosen. The map keeps it when its directory is gone.
func putOther(maps map[string]*ebpf.Map) (err error) {
	chosen := maps[bpf.SocketMapChosenCgroups]
	if chosen == nil {
		return nil
	}
	for _, mount := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(mount, "cgroup.controllers")); err != nil {
			continue
		}
		dir, err := os.MkdirTemp(mount, "layertrace-bench-")
		if err != nil {
			return fmt.Errorf("make a cgroup: %w", err)
		}
		group, err := os.Open(dir)
		if err != nil {
			return errors.Join(fmt.Errorf("open a cgroup: %w", err), os.Remove(dir))
		}
		err = chosen.Put(uint32(0), uint32(group.Fd()))
		return errors.Join(err, group.Close(), os.Remove(dir))
	}
	return errors.New("no cgroup2 mount to make a cgroup in")
}
