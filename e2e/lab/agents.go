// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// StartAgents starts the agents of all nodes and waits until they are ready.
// This is for a run that began without agents or after StopAgents.
func (r *Run) StartAgents(ctx context.Context) error {
	for _, node := range Nodes {
		if node == ClientNode {
			continue
		}
		if err := r.launchAgent(node); err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	for node := range r.agents {
		group.Go(func() error { return r.agentReady(ctx, node) })
	}
	return group.Wait()
}
