// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"context"

	"github.com/layertrace/layertrace/e2e/cluster"
)

const kubernetesVersion = "1.36.3"

// Kubernetes gets the programs of a control plane. Those that are not in the
// cache are built with the module versions of e2e/tools in the checkout.
func Kubernetes(ctx context.Context, checkout string, progress Progress) (tools cluster.Tools, err error) {
	get := func(path *string, m module) {
		if err == nil {
			*path, err = m.get(ctx, checkout, progress)
		}
	}
	get(&tools.Etcd, module{
		name: "etcd", version: "3.6.6", tools: "etcd", minutes: "1",
		pkg: "go.etcd.io/etcd/server/v3",
	})
	get(&tools.APIServer, module{
		name: "kube-apiserver", version: kubernetesVersion, tools: "kubernetes", minutes: "4",
		pkg: "k8s.io/kubernetes/cmd/kube-apiserver",
	})
	get(&tools.ControllerManager, module{
		name: "kube-controller-manager", version: kubernetesVersion, tools: "kubernetes", minutes: "1",
		pkg: "k8s.io/kubernetes/cmd/kube-controller-manager",
	})
	if err == nil {
		tools.IstioCRDs, err = IstioCRDs(ctx, checkout)
	}
	return tools, err
}
