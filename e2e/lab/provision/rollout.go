// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"context"
	"path/filepath"

	"github.com/layertrace/layertrace/e2e/rollout"
)

// Rollout gets and builds all that the end-to-end run on Kubernetes needs.
func Rollout(ctx context.Context, progress Progress) (tools rollout.Tools, err error) {
	checkout, err := Checkout()
	if err != nil {
		return rollout.Tools{}, err
	}
	if tools.Cluster, err = Kubernetes(ctx, checkout, progress); err != nil {
		return rollout.Tools{}, err
	}
	if tools.Mesh, err = Istio(ctx, checkout, progress); err != nil {
		return rollout.Tools{}, err
	}
	if tools.Node, err = Node(ctx, checkout, progress); err != nil {
		return rollout.Tools{}, err
	}
	if tools.Jaeger, err = Jaeger(ctx, checkout, progress); err != nil {
		return rollout.Tools{}, err
	}
	bin := filepath.Join(checkout, "bin")
	for _, program := range []struct {
		path      *string
		name, pkg string
	}{
		{&tools.Layertrace, "layertrace", "./agent/cmd/layertrace"},
		{&tools.Bookinfo, "bookinfo", "./e2e/bookinfo"},
		{&tools.Pause, "pause", "./e2e/cluster/node/pause"},
	} {
		*program.path = filepath.Join(bin, program.name)
		if err := runGo(ctx, checkout, progress, "build", "-trimpath", "-o", *program.path, program.pkg); err != nil {
			return rollout.Tools{}, err
		}
	}
	tools.Wasm = filepath.Join(bin, "layertrace.wasm")
	return tools, Wasm(ctx, tools.Wasm, progress)
}
