// SPDX-License-Identifier: Apache-2.0

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

// Group is a cgroup of version 2. BPF programs can be attached to it, and its
// processes can be found and ended, even by a later run.
type Group struct {
	// Path is the group's directory.
	Path string
}

// NewGroup creates a cgroup directly below the mount point.
func NewGroup(name string) (*Group, error) {
	mount, err := CgroupMount()
	if err != nil {
		return nil, err
	}
	return (&Group{Path: mount}).Child(name)
}

// NewTestbed removes what an earlier testbed left: the processes of its group, the network
// namespaces with its prefix, and the files of its directory. It returns the group, and leaves
// the directory empty.
func NewTestbed(ctx context.Context, group, prefix, dir string) (*Group, error) {
	if _, err := RemoveGroup(ctx, group); err != nil {
		return nil, fmt.Errorf("end the processes of an earlier testbed: %w", err)
	}
	if _, err := DeleteNamespaces(prefix); err != nil {
		return nil, fmt.Errorf("remove the network of an earlier testbed: %w", err)
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return nil, fmt.Errorf("empty the testbed's directory: %w", err)
	}
	return NewGroup(group)
}

// Child creates a cgroup in g.
func (g *Group) Child(name string) (*Group, error) {
	path := filepath.Join(g.Path, name)
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, fmt.Errorf("create cgroup: %w", err)
	}
	return &Group{Path: path}, nil
}

// Remove kills every process in the group and its descendants, and removes them
// all. A group that does not exist is not an error.
func (g *Group) Remove(ctx context.Context) error {
	if _, err := os.Stat(g.Path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return Await(ctx, "removal of cgroup "+g.Path, 20*time.Second, 20*time.Millisecond,
		func(context.Context) error {
			// Killing is asynchronous: a group can only be removed after its
			// last process was reaped.
			return errors.Join(g.kill(), g.removeLimits(), removeDirectories(g.Path))
		})
}

// RemoveGroup removes the group that NewGroup(name) created, if there is one.
func RemoveGroup(ctx context.Context, name string) (found bool, err error) {
	mount, err := CgroupMount()
	if err != nil {
		return false, err
	}
	g := &Group{Path: filepath.Join(mount, name)}
	_, err = os.Stat(g.Path)
	return err == nil, g.Remove(ctx)
}

// removeDirectories removes the group at a path and its descendants.
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

// directories returns the group at a path and its descendants, parents first.
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

// kill sends SIGKILL to all processes in the group and its descendants: through
// cgroup.kill (kernel 5.14), else one by one.
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

// Processes returns the IDs of all processes in the group and its descendants.
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

// CPU returns the CPU time of all processes of the group and its descendants,
// including those that have ended. (cpu.stat exists without the cpu controller.)
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

// ProcessCPU returns the CPU time of all threads of a process. It reads the
// process's CPU clock (clock_getcpuclockid(3)), which includes the time since the
// last tick.
func ProcessCPU(pid int) (time.Duration, error) {
	const cpuclockSched = 2 // include/linux/posix-timers.h
	var now unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|cpuclockSched), &now); err != nil {
		return 0, fmt.Errorf("read the CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(now.Nano()), nil
}

// CgroupMount returns where cgroup2 is mounted: /sys/fs/cgroup, or a directory in
// it on hosts that also use version 1.
func CgroupMount() (string, error) {
	mount, err := findMount("cgroup2", "")
	if err == nil && mount == "" {
		err = errors.New("find the cgroup2 mount: none in /proc/self/mountinfo; mount one with `mount -t cgroup2 none DIR`")
	}
	return mount, err
}

// findMount returns where a file system of this type, with this option unless it
// is empty, is mounted; "" if nowhere.
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
