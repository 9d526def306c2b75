// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"context"

	"github.com/layertrace/layertrace/e2e/cluster/node"
)

const containerdVersion = "2.2.0"

// Node gets the programs of a node. Those that are not in the cache are built
// with the module versions of e2e/tools in the checkout. runc and the CNI
// plugins are packages of the distribution.
func Node(ctx context.Context, checkout string, progress Progress) (tools node.Tools, err error) {
	const containerd = "github.com/containerd/containerd/v2/cmd/"
	for _, program := range []struct {
		path *string
		module
	}{
		{&tools.Kubelet, module{name: "kubelet", version: kubernetesVersion, tools: "kubernetes", pkg: "k8s.io/kubernetes/cmd/kubelet"}},
		{&tools.Containerd, module{name: "containerd", version: containerdVersion, tools: "containerd", pkg: containerd + "containerd"}},
		{&tools.Shim, module{name: "containerd-shim-runc-v2", version: containerdVersion, tools: "containerd", pkg: containerd + "containerd-shim-runc-v2"}},
		{&tools.Ctr, module{name: "ctr", version: containerdVersion, tools: "containerd", pkg: containerd + "ctr"}},
	} {
		program.minutes = "1"
		if *program.path, err = program.get(ctx, checkout, progress); err != nil {
			return node.Tools{}, err
		}
	}
	return tools, nil
}
