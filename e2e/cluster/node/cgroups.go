// SPDX-License-Identifier: Apache-2.0

package node

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

// podsGroup is the cgroup below which the runtime makes those of containers, in
// each hierarchy of version 1, and in version 2's.
func (n *Node) podsGroup() string { return n.cluster.Name() + "-" + n.options.Name }

// removeGroups removes them. The runtime was killed and leaves them behind, and
// the last of their processes may still be about to end.
func (n *Node) removeGroups() error {
	return await.Until(context.Background(), "removal of cgroups "+n.podsGroup(), 20*time.Second, pollEvery,
		func(context.Context) error { return n.tryRemoveGroups() })
}

func (n *Node) tryRemoveGroups() error {
	var errs []error
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		roots, err := filepath.Glob(pattern + n.podsGroup())
		errs = append(errs, err)
		for _, root := range roots {
			errs = append(errs, removeDirectories(root))
		}
	}
	return errors.Join(errs...)
}

// removeDirectories removes a cgroup and those in it, whose files cannot be.
func removeDirectories(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("list cgroups: %w", err)
	}
	for _, dir := range slices.Backward(dirs) {
		// A controller that is mounted twice, as cpu,cpuacct, is listed twice.
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
	return nil
}
