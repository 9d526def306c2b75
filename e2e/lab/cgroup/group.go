// SPDX-License-Identifier: Apache-2.0

// Package cgroup keeps the lab's processes in cgroups of version 2, so that
// BPF programs can be attached to a node's processes and all of them can be
// found and ended, also by a later run.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/layertrace/layertrace/e2e/lab/await"
)

// Group is one cgroup.
type Group struct {
	// Path is the group's directory.
	Path string
}

// Create makes a cgroup right below the mount point.
func Create(name string) (*Group, error) {
	mount, err := Mount()
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
	return await.Until(ctx, "removal of cgroup "+g.Path, 20*time.Second, 20*time.Millisecond,
		func(context.Context) error {
			// Killing is asynchronous: a group can be removed only when its
			// last process has been reaped.
			return errors.Join(g.kill(), g.removeLimits(), removeDirectories(g.Path))
		})
}

// RemoveNamed removes the group that Create(name) made, if there is one.
func RemoveNamed(ctx context.Context, name string) (found bool, err error) {
	mount, err := Mount()
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
