// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// MemoryLimit bounds the memory of a group's processes as a container's limit in Kubernetes
// does: what they have resident, their page cache, and what the kernel has for them, BPF maps
// included. Beyond it the kernel reclaims, and then kills.
type MemoryLimit struct {
	// dir is the limited group: the group itself or, where version 1 has the memory
	// controller, one of the same name there.
	dir string
	v1  bool
}

// LimitMemory bounds the processes that Start starts with the limit, in bytes. The limit goes
// with the group.
func (g *Group) LimitMemory(bytes int64) (*MemoryLimit, error) {
	mount, mirror, err := g.mirror("memory")
	if err != nil {
		return nil, err
	}
	l := &MemoryLimit{dir: g.Path}
	// Containers have no swap.
	limits := []struct{ file, value string }{{"memory.max", strconv.FormatInt(bytes, 10)}, {"memory.swap.max", "0"}}
	if mount == "" {
		err = g.enable("memory")
	} else {
		l.dir, l.v1 = mirror, true
		limits[0].file = "memory.limit_in_bytes"
		limits[1] = struct{ file, value string }{"memory.memsw.limit_in_bytes", limits[0].value}
		err = os.MkdirAll(mirror, 0o755)
	}
	if err != nil {
		return nil, fmt.Errorf("limit memory (needs CONFIG_MEMCG): %w", err)
	}
	for i, limit := range limits {
		err := os.WriteFile(filepath.Join(l.dir, limit.file), []byte(limit.value), 0)
		if err != nil && (i == 0 || !errors.Is(err, os.ErrNotExist)) { // kernels without swap lack the second
			return nil, fmt.Errorf("limit memory: %w", err)
		}
	}
	return l, nil
}

// within returns fn with the children of the calling thread in the limited group.
func (l *MemoryLimit) within(fn func() error) func() error {
	if !l.v1 {
		return fn // the process starts in the group
	}
	return func() error {
		before, err := memoryGroup()
		if err == nil {
			err = moveThread(l.dir)
		}
		if err != nil {
			return fmt.Errorf("limit memory: %w", err)
		}
		err = fn()
		// The thread would count as this process there, and end with the group.
		if back := moveThread(before); back != nil {
			return errors.Join(err, fmt.Errorf("leave a memory limit: %w", back))
		}
		return err
	}
}

// memoryGroup returns the directory of the calling thread's group in version 1.
func memoryGroup() (string, error) {
	mount, err := findMount("cgroup", "memory")
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile("/proc/thread-self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		// HIERARCHY:CONTROLLERS:PATH
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) == 3 && slices.Contains(strings.Split(fields[1], ","), "memory") {
			return filepath.Join(mount, fields[2]), nil
		}
	}
	return "", errors.New("no memory group in /proc/thread-self/cgroup")
}

func moveThread(dir string) error {
	return os.WriteFile(filepath.Join(dir, "tasks"), []byte(strconv.Itoa(unix.Gettid())), 0)
}

// Peak returns the most memory that the group had, in bytes (version 2: from Linux 5.19 on).
func (l *MemoryLimit) Peak() (uint64, error) {
	file := "memory.peak"
	if l.v1 {
		file = "memory.max_usage_in_bytes"
	}
	text, err := os.ReadFile(filepath.Join(l.dir, file))
	if err != nil {
		return 0, fmt.Errorf("read the memory of a cgroup: %w", err)
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}

// Kills returns how many processes the kernel killed because the limit was reached.
func (l *MemoryLimit) Kills() (int, error) {
	file := "memory.events"
	if l.v1 {
		file = "memory.oom_control"
	}
	text, err := os.ReadFile(filepath.Join(l.dir, file))
	if err != nil {
		return 0, fmt.Errorf("read the memory events of a cgroup: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "oom_kill "); found {
			return strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return 0, errors.New("read the memory events of a cgroup: no oom_kill in " + file)
}
