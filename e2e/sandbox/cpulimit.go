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

// CPULimit bounds the CPU time of a group's processes as a container's limit in
// Kubernetes does: in each period they run for a quota and are throttled for the
// rest (Documentation/scheduler/sched-bwc.rst).
type CPULimit struct {
	// dir is the limited group: the group itself or, where version 1 has the cpu
	// controller, one of the same name there. root is that hierarchy's root.
	dir, root string
	v1        bool
	period    time.Duration
}

// LimitCPU returns a limit for the processes that are in the group now; it does
// not bound them yet. A period is at most 1 s. The limit goes with the group.
func (g *Group) LimitCPU(period time.Duration) (*CPULimit, error) {
	root, err := CgroupMount()
	if err != nil {
		return nil, err
	}
	mount, mirror, err := g.mirror("cpu")
	if err != nil {
		return nil, err
	}
	if mount == "" {
		l := &CPULimit{dir: g.Path, root: root, period: period}
		if err := g.enable("cpu"); err != nil {
			return nil, fmt.Errorf("limit CPU time (needs CONFIG_CFS_BANDWIDTH): %w", err)
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

// mirror returns where version 1's hierarchy of a controller is mounted, and the
// group's path there; "" where version 2 has the controller.
func (g *Group) mirror(controller string) (mount, path string, err error) {
	mount, err = findMount("cgroup", controller)
	if err != nil || mount == "" {
		return "", "", err
	}
	name, err := g.name()
	return mount, filepath.Join(mount, name), err
}

// name returns the group's path below the mount point.
func (g *Group) name() (string, error) {
	root, err := CgroupMount()
	if err != nil {
		return "", err
	}
	return filepath.Rel(root, g.Path)
}

// enable gives the group a controller: each ancestor has to delegate it.
func (g *Group) enable(controller string) error {
	name, err := g.name()
	if err != nil {
		return err
	}
	dir := strings.TrimSuffix(g.Path, name)
	for part := range strings.SplitSeq(name, string(filepath.Separator)) {
		path := filepath.Join(dir, "cgroup.subtree_control")
		passed, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("enable the %s controller: %w", controller, err)
		}
		if !slices.Contains(strings.Fields(string(passed)), controller) {
			if err := os.WriteFile(path, []byte("+"+controller), 0); err != nil {
				return fmt.Errorf("enable the %s controller: %w", controller, err)
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

// Release moves a process out of the group to where nothing is limited.
func (l *CPULimit) Release(pid int) error {
	return l.write(l.root, "cgroup.procs", strconv.Itoa(pid))
}

// Set lets the processes run for a quota, 1 ms or more, now and in every later
// period.
func (l *CPULimit) Set(quota time.Duration) error {
	if l.v1 {
		return l.write(l.dir, "cpu.cfs_quota_us", microseconds(quota))
	}
	return l.write(l.dir, "cpu.max", microseconds(quota)+" "+microseconds(l.period))
}

// Lift lets throttled processes continue at once, without a limit. It sets a quota
// that no number of CPUs can spend: removing the last limit of all groups would
// patch kernel code (cfs_bandwidth_usage_dec in kernel/sched/fair.c), which stops
// all CPUs.
func (l *CPULimit) Lift() error { return l.Set(1000 * l.period) }

func microseconds(d time.Duration) string { return strconv.FormatInt(d.Microseconds(), 10) }

// CPU returns the CPU time of the processes that are in the group now.
func (l *CPULimit) CPU() (sum time.Duration, err error) {
	pids, err := (&Group{Path: l.dir}).Processes()
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		took, err := ProcessCPU(pid)
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

// removeLimits removes the mirrors in version 1 of the group and its descendants,
// with the processes that were added only there.
func (g *Group) removeLimits() error {
	var errs []error
	for _, controller := range []string{"cpu", "memory"} {
		_, mirror, err := g.mirror(controller)
		if err == nil && mirror != "" {
			if _, err = os.Stat(mirror); errors.Is(err, fs.ErrNotExist) {
				continue
			}
			err = errors.Join(err, (&Group{Path: mirror}).kill(), removeDirectories(mirror))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
