// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Mount returns where cgroup2 is mounted: /sys/fs/cgroup, or a directory in it
// on hosts that use version 1 as well.
func Mount() (string, error) {
	mount, err := findMount("cgroup2", "")
	if err == nil && mount == "" {
		err = errors.New("find the cgroup2 mount: none in /proc/self/mountinfo; mount one with `mount -t cgroup2 none DIR`")
	}
	return mount, err
}

// findMount returns where a file system of this type is mounted, with this among
// its options unless option is empty; "" for nowhere.
func findMount(kind, option string) (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find the %s mount: %w", kind, err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// 36 35 98:0 ROOT MOUNTPOINT OPTIONS [OPTIONAL...] - TYPE SOURCE SUPER
		before, after, _ := strings.Cut(lines.Text(), " - ")
		mount, super := strings.Fields(before), strings.Fields(after)
		if len(mount) < 5 || len(super) < 3 || super[0] != kind {
			continue
		}
		if option == "" || slices.Contains(strings.Split(super[2], ","), option) {
			return mount[4], nil
		}
	}
	return "", lines.Err()
}
