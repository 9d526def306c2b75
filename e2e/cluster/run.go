// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Run starts a program that ends with the cluster. What spec leaves out is
// filled in: the control plane's namespace, the cluster's cgroup, and a log
// file in the directory of this name, in which the program is started.
func (c *Cluster) Run(spec sandbox.Spec) (*sandbox.Process, error) {
	if spec.Namespace == nil {
		spec.Namespace = c.Space
	}
	spec.Cgroup = c.group
	if spec.Stderr == "" {
		dir, err := c.Dir(spec.Name)
		if err != nil {
			return nil, err
		}
		spec.Stderr = filepath.Join(dir, "log")
	}
	return sandbox.Start(spec)
}

// Dir makes a directory for files of a program or pod.
func (c *Cluster) Dir(name string) (string, error) {
	dir := c.file(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make directory of %s: %w", name, err)
	}
	return dir, nil
}

// AddPodSpace makes a pod's network namespace, which ends with the cluster:
// eth0 with an address of BridgeIP's network, and a route to everything else
// through the control plane's namespace.
func (c *Cluster) AddPodSpace(name, ip string) (*sandbox.Namespace, error) {
	space, err := sandbox.NewNamespace(c.spaceName(name))
	if err != nil {
		return nil, err
	}
	c.pods = append(c.pods, space)
	if err := c.Space.AddPair("veth-"+name, Bridge, space, ip+"/24"); err != nil {
		return nil, err
	}
	return space, space.AddRoute("0.0.0.0/0", BridgeIP)
}

// AfterProcesses lets Close call do when all processes have ended.
func (c *Cluster) AfterProcesses(do func() error) { c.after = append(c.after, do) }
