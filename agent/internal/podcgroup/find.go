// SPDX-License-Identifier: Apache-2.0

// Package podcgroup finds the cgroup that a node's pods are in.
package podcgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Mounts are where the node's cgroups are looked for: where the DaemonSet mounts
// them, then where they are on the node itself; of both, also the place of
// version 2 beside version 1.
var Mounts = []string{
	"/host/sys/fs/cgroup", "/host/sys/fs/cgroup/unified",
	"/sys/fs/cgroup", "/sys/fs/cgroup/unified",
}

// names are the kubelet's: with systemd's driver, with cgroupfs's, and both with
// its cgroups below one of its own, as in kind.
var names = []string{
	"kubepods.slice", "kubepods",
	"kubelet.slice/kubelet-kubepods.slice", "kubelet/kubepods",
}

// Find returns the pods' cgroups below the first mount that has any.
func Find(mounts []string) ([]string, error) { return find(mounts, isCgroup2) }

func find(mounts []string, suitable func(string) bool) ([]string, error) {
	for _, mount := range mounts {
		var found []string
		for _, name := range names {
			dir := filepath.Join(mount, name)
			if info, err := os.Stat(dir); err == nil && info.IsDir() && suitable(dir) {
				found = append(found, dir)
			}
		}
		if len(found) > 0 {
			return found, nil
		}
	}
	return nil, fmt.Errorf("no cgroup (version 2) of pods, %s, in %s: name it with --socket-cgroup, and mount the node's /sys/fs/cgroup into the agent's container",
		strings.Join(names, " or "), strings.Join(mounts, ", "))
}

// isCgroup2 leaves out version 1, to which no program can be attached.
func isCgroup2(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}
