// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limit bounds the CPU time of a group's processes as a container's limit in
// Kubernetes does: in each period they run for a quota, and stand for the rest of
// it (Documentation/scheduler/sched-bwc.rst).
type CPULimit struct {
	// dir is the group that is limited: g itself or, where version 1 has the cpu
	// controller, one of the same name there. root is the hierarchy's own.
	dir, root string
	v1        bool
	period    time.Duration
}

// Limit makes a limit for the processes that are in the group now, which does not
// bound them yet. Its periods last 1 s or less. It is gone with the group.
func (g *Group) LimitCPU(period time.Duration) (*CPULimit, error) {
	root, err := CgroupMount()
	if err != nil {
		return nil, err
	}
	mount, mirror, err := g.mirror()
	if err != nil {
		return nil, err
	}
	if mount == "" {
		l := &CPULimit{dir: g.Path, root: root, period: period}
		if err := g.enableCPU(); err != nil {
			return nil, err
		}
		return l, l.Lift()
	}
	if err := os.MkdirAll(mirror, 0o755); err != nil {
		return nil, fmt.Errorf("create cgroup: %w", err)
	}
	l := &CPULimit{dir: mirror, root: mount, v1: true, period: period}
	if err := errors.Join(l.write(mirror, "cpu.cfs_period_us", microseconds(period)), l.Lift()); err != nil {
		return nil, err
	}
	pids, err := g.Processes()
	for _, pid := range pids {
		err = errors.Join(err, l.Add(pid))
	}
	return l, err
}

// mirror is the group's path in version 1's hierarchy of the cpu controller, and
// where that is mounted; "" where version 2 has the controller.
func (g *Group) mirror() (mount, path string, err error) {
	mount, err = findMount("cgroup", "cpu")
	if err != nil || mount == "" {
		return "", "", err
	}
	name, err := g.name()
	return mount, filepath.Join(mount, name), err
}

// name is the group's path below the mount point.
func (g *Group) name() (string, error) {
	root, err := CgroupMount()
	if err != nil {
		return "", err
	}
	return filepath.Rel(root, g.Path)
}

// enableCPU gives the group the controller: each one above has to pass it on.
func (g *Group) enableCPU() error {
	name, err := g.name()
	if err != nil {
		return err
	}
	dir := strings.TrimSuffix(g.Path, name)
	for part := range strings.SplitSeq(name, string(filepath.Separator)) {
		path := filepath.Join(dir, "cgroup.subtree_control")
		passed, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("enable the cpu controller: %w", err)
		}
		if !slices.Contains(strings.Fields(string(passed)), "cpu") {
			if err := os.WriteFile(path, []byte("+cpu"), 0); err != nil {
				return fmt.Errorf("enable the cpu controller (needs CONFIG_CFS_BANDWIDTH): %w", err)
			}
		}
		dir = filepath.Join(dir, part)
	}
	return nil
}

// Add puts a process into the group.
func (l *CPULimit) Add(pid int) error {
	return l.write(l.dir, "cgroup.procs", strconv.Itoa(pid))
}

// Release takes a process out of it, to where nothing is limited.
func (l *CPULimit) Release(pid int) error {
	return l.write(l.root, "cgroup.procs", strconv.Itoa(pid))
}

// Set lets the processes run for a quota, 1 ms or more, from now on and again when
// a period begins.
func (l *CPULimit) Set(quota time.Duration) error {
	if l.v1 {
		return l.write(l.dir, "cpu.cfs_quota_us", microseconds(quota))
	}
	return l.write(l.dir, "cpu.max", microseconds(quota)+" "+microseconds(l.period))
}

// Lift lets processes that stand go on at once, and as long as they like. It sets
// a quota that many CPUs could not spend: to take away the last limit of all
// groups would patch the kernel's code (cfs_bandwidth_usage_dec in
// kernel/sched/fair.c), for which all CPUs have to stop.
func (l *CPULimit) Lift() error { return l.Set(1000 * l.period) }

func microseconds(d time.Duration) string { return strconv.FormatInt(d.Microseconds(), 10) }

// CPU returns the CPU time that the processes in the group have taken until now,
// each since it began.
func (l *CPULimit) CPU() (sum time.Duration, err error) {
	pids, err := (&Group{Path: l.dir}).Processes()
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		took, err := processCPU(pid)
		if err != nil {
			return 0, err
		}
		sum += took
	}
	return sum, nil
}

func (l *CPULimit) write(dir, file, value string) error {
	if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0); err != nil {
		return fmt.Errorf("limit CPU time: %w", err)
	}
	return nil
}

// removeLimits removes what version 1 has for the group and those below, with the
// processes that were added only there.
func (g *Group) removeLimits() error {
	_, mirror, err := g.mirror()
	if err != nil || mirror == "" {
		return err
	}
	if _, err := os.Stat(mirror); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join((&Group{Path: mirror}).kill(), removeDirectories(mirror))
}
