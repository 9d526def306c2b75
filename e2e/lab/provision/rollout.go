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
	bin := filepath.Join(checkout, "bin")
	tools.Layertrace, tools.Wasm = filepath.Join(bin, "layertrace"), filepath.Join(bin, "layertrace.wasm")
	err = runGo(ctx, checkout, progress, "build", "-trimpath", "-o", tools.Layertrace, "./agent/cmd/layertrace")
	if err != nil {
		return rollout.Tools{}, err
	}
	return tools, Wasm(ctx, tools.Wasm, progress)
}
