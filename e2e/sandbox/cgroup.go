// SPDX-License-Identifier: Apache-2.0

// Package cgroup keeps the lab's processes in cgroups of version 2, so that
// BPF programs can be attached to a node's processes and all of them can be
// found and ended, also by a later run.
package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Group is one cgroup.
type Group struct {
	// Path is the group's directory.
	Path string
}

// Create makes a cgroup right below the mount point.
func NewGroup(name string) (*Group, error) {
	mount, err := CgroupMount()
	if err != nil {
		return nil, err
	}
	return (&Group{Path: mount}).Child(name)
}

// Child makes a cgroup in g.
func (g *Group) Child(name string) (*Group, error) {
	path := filepath.Join(g.Path, name)
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, fmt.Errorf("create cgroup: %w", err)
	}
	return &Group{Path: path}, nil
}

// Remove kills every process in the group and in those below, and removes them
// all. A group that does not exist is no error.
func (g *Group) Remove(ctx context.Context) error {
	if _, err := os.Stat(g.Path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return Await(ctx, "removal of cgroup "+g.Path, 20*time.Second, 20*time.Millisecond,
		func(context.Context) error {
			// Killing is asynchronous: a group can be removed only when its
			// last process has been reaped.
			return errors.Join(g.kill(), g.removeLimits(), removeDirectories(g.Path))
		})
}

// RemoveNamed removes the group that Create(name) made, if there is one.
func RemoveGroup(ctx context.Context, name string) (found bool, err error) {
	mount, err := CgroupMount()
	if err != nil {
		return false, err
	}
	g := &Group{Path: filepath.Join(mount, name)}
	_, err = os.Stat(g.Path)
	return err == nil, g.Remove(ctx)
}

// removeDirectories removes the groups at and below a path.
func removeDirectories(path string) error {
	dirs, err := directories(path)
	if err != nil {
		return err
	}
	slices.Reverse(dirs)
	for _, dir := range dirs {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
	return nil
}

// directories returns the groups at and below a path, parents first.
func directories(root string) (dirs []string, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	return dirs, err
}

// kill sends SIGKILL to all processes in the group and below: by cgroup.kill
// (kernel 5.14), else one by one.
func (g *Group) kill() error {
	err := os.WriteFile(filepath.Join(g.Path, "cgroup.kill"), []byte("1"), 0)
	if err == nil {
		return nil
	}
	if _, statErr := os.Stat(g.Path); errors.Is(statErr, fs.ErrNotExist) {
		return nil
	}
	pids, err := g.Processes()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill process %d of cgroup %s: %w", pid, g.Path, err)
		}
	}
	return nil
}

// Processes returns the IDs of all processes in the group and below.
func (g *Group) Processes() ([]int, error) {
	dirs, err := directories(g.Path)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, dir := range dirs {
		data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENODEV) {
			return nil, fmt.Errorf("list processes of cgroup: %w", err)
		}
		for _, field := range strings.Fields(string(data)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return nil, fmt.Errorf("list processes of cgroup %s: %w", dir, err)
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// CPU returns the CPU time that the processes of the group and of those below
// have taken, also those that have ended (cpu.stat, which is there without the
// cpu controller, too).
func (g *Group) CPU() (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join(g.Path, "cpu.stat"))
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		value, found := strings.CutPrefix(line, "usage_usec ")
		if !found {
			continue
		}
		microseconds, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read CPU time of cgroup %s: %w", g.Path, err)
		}
		return time.Duration(microseconds) * time.Microsecond, nil
	}
	return 0, fmt.Errorf("read CPU time of cgroup %s: no usage_usec in cpu.stat", g.Path)
}

// processCPU returns the CPU time that a process has taken until now: by its CPU
// clock (clock_getcpuclockid(3)), which knows of the time since the last tick.
func processCPU(pid int) (time.Duration, error) {
	const cpuclockSched = 2 // include/linux/posix-timers.h
	var now unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|cpuclockSched), &now); err != nil {
		return 0, fmt.Errorf("read the CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(now.Nano()), nil
}

// Mount returns where cgroup2 is mounted: /sys/fs/cgroup, or a directory in it
// on hosts that use version 1 as well.
func CgroupMount() (string, error) {
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
