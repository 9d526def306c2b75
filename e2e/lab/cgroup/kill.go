// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

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
