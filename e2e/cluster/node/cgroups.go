// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// removeGroups removes the cgroups of containers that the node ran at its end:
// in each hierarchy of version 1, and in version 2's. The runtime was killed
// and leaves them behind, and the last of their processes may still be about
// to end.
func (n *Node) removeGroups() error {
	// The runtime's state has a directory per container.
	containers, err := filepath.Glob(filepath.Join(n.dir, "run", "io.containerd.runtime.v2.task", "k8s.io", "*"))
	if err != nil {
		return err
	}
	return sandbox.Await(context.Background(), "removal of the containers' cgroups", 20*time.Second, pollEvery,
		func(context.Context) error {
			var errs []error
			for _, container := range containers {
				errs = append(errs, removeGroup("k8s.io/"+filepath.Base(container)))
			}
			err := removeGroup("k8s.io")
			if errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.ENOTEMPTY) {
				err = nil // it is another runtime's, too
			}
			return errors.Join(append(errs, err)...)
		})
}

// removeGroup removes a cgroup without children from all hierarchies.
func removeGroup(name string) error {
	var errs []error
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		paths, err := filepath.Glob(filepath.Join(mount, name))
		errs = append(errs, err)
		for _, path := range paths {
			// A controller that is mounted by two names is found twice.
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("remove cgroup: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}
