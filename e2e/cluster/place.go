// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// makePlace makes the directory, the cgroup and the network namespace in which
// the cluster lives, after removing those of an earlier run.
func (c *Cluster) makePlace(ctx context.Context) (err error) {
	if _, err := sandbox.RemoveGroup(ctx, c.Name()); err != nil {
		return fmt.Errorf("end the processes of an earlier cluster: %w", err)
	}
	if _, err := sandbox.DeleteNamespaces(c.spaceName("")); err != nil {
		return fmt.Errorf("remove the network of an earlier cluster: %w", err)
	}
	if c.options.Dir, err = filepath.Abs(c.options.Dir); err != nil {
		return fmt.Errorf("find the cluster's directory: %w", err)
	}
	if err := os.RemoveAll(c.options.Dir); err != nil {
		return fmt.Errorf("empty the cluster's directory: %w", err)
	}
	if err := os.MkdirAll(c.options.Dir, 0o755); err != nil {
		return fmt.Errorf("make the cluster's directory: %w", err)
	}
	if c.group, err = sandbox.NewGroup(c.Name()); err != nil {
		return err
	}
	if c.Space, err = sandbox.NewNamespace(c.spaceName("control")); err != nil {
		return err
	}
	return c.Space.AddBridge(Bridge, BridgeIP+"/24")
}

// spaceName is the name of one of the cluster's network namespaces.
func (c *Cluster) spaceName(of string) string { return "lt-cluster-" + c.options.Name + "-" + of }

// Close ends every process of the cluster and removes its cgroup and network
// namespaces. Its directory stays, for the logs. It can be called again.
func (c *Cluster) Close() error {
	if c.lock == nil {
		return nil
	}
	// A context of its own: the cluster must also go when its context is done.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var errs []error
	if c.entry != nil {
		errs = append(errs, c.entry.Close())
	}
	if c.group != nil {
		errs = append(errs, c.group.Remove(ctx))
	}
	for _, do := range c.after {
		errs = append(errs, do())
	}
	for _, space := range append(c.pods, c.Space) {
		if space != nil {
			errs = append(errs, space.Delete())
		}
	}
	errs = append(errs, c.lock.Close())
	c.lock = nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take the cluster down (the next run tries again): %w", err)
	}
	return nil
}
