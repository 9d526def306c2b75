// SPDX-License-Identifier: Apache-2.0

// Package mesh runs Istio in a cluster without nodes: the real istiod, and per
// pod a network namespace with the real pilot-agent, Envoy and redirection.
// What kubelet and the injection webhook would do is done here.
package mesh

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Tools are paths of what a mesh is made of.
type Tools struct {
	Istiod, PilotAgent, Istioctl, Envoy string
	// Bootstrap is Istio's template of Envoy's bootstrap.
	Bootstrap string
}

// Mesh is an istiod that serves, and the pods added to it. All of it ends with
// the cluster.
type Mesh struct {
	cluster *cluster.Cluster
	tools   Tools
	istiod  *sandbox.Process
	hosts   string
	rootCA  string
}

// Namespace is where the pods are; RootNamespace where mesh-wide objects are.
const (
	Namespace     = "demo"
	RootNamespace = "istio-system"
)

//go:embed mesh.yaml
var manifests []byte

// Start applies the mesh's configuration and returns when istiod serves.
func Start(ctx context.Context, c *cluster.Cluster, tools Tools) (*Mesh, error) {
	m := &Mesh{cluster: c, tools: tools}
	if err := c.Apply(ctx, manifests); err != nil {
		return nil, fmt.Errorf("apply the mesh's configuration: %w", err)
	}
	if err := m.registerNode(ctx); err != nil {
		return nil, err
	}
	if err := c.AwaitServiceAccount(ctx, Namespace); err != nil {
		return nil, err
	}
	if err := m.startIstiod(ctx); err != nil {
		return nil, err
	}
	return m, m.writeShared(ctx)
}
