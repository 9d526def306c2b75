// SPDX-License-Identifier: Apache-2.0

// Package rollout proves layertrace on a real control plane from end to end:
// what `layertrace install` applies goes through the API server, istiod and
// the sidecar's agent into a running Envoy, and is read back from the bytes
// that an upstream receives; and a kubelet runs the agent, whose spans are read
// back from Jaeger.
package rollout

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/cluster/mesh"
	"github.com/layertrace/layertrace/e2e/cluster/node"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/reorder/upstream"
)

// Options are what a run is made from.
type Options struct {
	// Name tells runs apart that exist at the same time.
	Name string
	// Dir is a directory for configuration and logs; what is in it is lost.
	Dir string
	// Tools are the programs.
	Tools Tools
	// Progress is called with one line per step.
	Progress func(format string, args ...any)
}

// Tools are paths of the programs.
type Tools struct {
	Cluster cluster.Tools
	Mesh    mesh.Tools
	// Layertrace is the program that is tested, Wasm the module.
	Layertrace, Wasm string
	// Jaeger, Bookinfo and Pause run on and beside the node.
	Jaeger, Bookinfo, Pause string
	Node                    node.Tools
}

// Step is the result of one step.
type Step struct {
	Name string `json:"name"`
	Pass bool   `json:"pass"`
	// Seconds is what the step took, in tenths.
	Seconds float64 `json:"seconds"`
}

// rollout is what the steps share.
type rollout struct {
	options Options
	cluster *cluster.Cluster
	mesh    *mesh.Mesh
	modules *mesh.Modules
	// upstream is the application of the pod server.
	upstream *upstream.Server
	// client's sidecar is what the steps configure.
	client *mesh.Pod
	// jaeger reads the agents' spans back.
	jaeger *lab.JaegerClient
}

// Run runs all steps and removes everything. A failed step does not keep the
// others from running, unless they need what it makes. The error tells of every
// failure.
func Run(ctx context.Context, options Options) ([]Step, error) {
	r := &rollout{options: options}
	results, err := r.run(ctx)
	options.Progress("taking the cluster down")
	return results, errors.Join(err, r.close())
}

func (r *rollout) run(ctx context.Context) (results []Step, err error) {
	var errs []error
	for _, step := range steps() {
		r.options.Progress("%s", step.name)
		start := time.Now()
		err := step.do(ctx, r)
		results = append(results, Step{step.name, err == nil, math.Round(time.Since(start).Seconds()*10) / 10})
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", step.name, err))
			r.options.Progress("FAILED: %v", err)
		}
		if err != nil && step.needed || ctx.Err() != nil {
			break
		}
	}
	return results, errors.Join(errs...)
}

func (r *rollout) close() error {
	var errs []error
	if r.jaeger != nil {
		r.jaeger.Close()
	}
	if r.upstream != nil {
		r.upstream.Close()
	}
	if r.modules != nil {
		errs = append(errs, r.modules.Close())
	}
	if r.cluster != nil {
		errs = append(errs, r.cluster.Close())
	}
	return errors.Join(errs...)
}
