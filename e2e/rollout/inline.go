// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"context"
	"fmt"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/cluster/mesh"
)

// inline is the way in the connection manager. It works in pods that were
// started with the bootstrap that install adds to their namespace; the steps
// behind `restarted` look at such a pod.
var inline = way{
	reorder: "wasmplugin-inline-headers", module: true,
	flags: []string{"--tracer=opentelemetry", "--app-namespace=" + mesh.Namespace},
	// With the headers inline but no filter: the tracer writes the context
	// where the client put it, and otherwise last.
	without: orders{last, scattered},
}

func (w way) inlineSteps() []step {
	return []step{
		{w.reorder + ": istioctl finds nothing wrong in the manifests", false, w.validates},
		{w.reorder + ": installed under load, pods without the bootstrap go on", false, w.installedBeside},
		{w.reorder + ": pod with the bootstrap, trace headers in front", false, w.restarted},
		{w.reorder + ": module updated under load", false, w.updated},
		{w.reorder + ": module server sends garbage, no request fails", false, w.lost},
		{w.reorder + ": good module again", false, w.installed},
		{w.reorder + ": uninstalled under load, Envoy's own order again", false, w.uninstalled},
	}
}

// installedBeside installs while a pod runs that knows nothing of it.
func (w way) installedBeside(ctx context.Context, r *rollout) error {
	sum, err := r.putVariant(w.name("first"))
	if err != nil {
		return err
	}
	return r.underLoad(ctx, func(ctx context.Context) error {
		if err := w.install(ctx, r, "first"); err != nil {
			return err
		}
		return r.awaitModule(ctx, sum)
	})
}

// restarted makes a pod with the annotation sidecar.istio.io/bootstrapOverride,
// as the injector would: the ConfigMap's file is Envoy's.
func (w way) restarted(ctx context.Context, r *rollout) error {
	const name = "layertrace-bootstrap"
	bootstrap, err := r.cluster.Client.CoreV1().ConfigMaps(mesh.Namespace).Get(ctx, name, meta.GetOptions{})
	if err != nil {
		return fmt.Errorf("get the bootstrap: %w", err)
	}
	r.client, err = r.mesh.AddPod(ctx, mesh.PodSpec{
		Name: "inline", IP: inlineIP, Sidecar: true, BootstrapOverride: bootstrap.Data["custom_bootstrap.json"],
	})
	if err != nil {
		return err
	}
	if err := r.awaitOrder(ctx, inFront); err != nil {
		return err
	}
	return r.underLoad(ctx, func(ctx context.Context) error { return r.staysSo(ctx, inFront) })
}

// lost changes to a module that is none. In the connection manager Envoy takes
// what the agent sends in its place, a filter that lets everything pass.
func (w way) lost(ctx context.Context, r *rollout) error {
	r.modules.Put(w.name("garbage"), []byte("<html>It works!</html>"))
	return r.underLoad(ctx, func(ctx context.Context) error {
		if err := w.install(ctx, r, "garbage"); err != nil {
			return err
		}
		return r.awaitOrder(ctx, w.without)
	})
}
