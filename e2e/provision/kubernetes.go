// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/layertrace/layertrace/e2e/cluster"
)

const kubernetesVersion = "1.36.3"

// Kubernetes gets the programs of a control plane, in the module versions of
// e2e/tools in the checkout.
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

const istioVersion = "1.31.1"

// Istio gets the programs of a mesh, in the module versions of e2e/tools/istio in
// the checkout.
func Istio(ctx context.Context, checkout string, progress Progress) (tools cluster.MeshTools, err error) {
	for _, program := range []struct {
		path               *string
		name, pkg, minutes string
	}{
		{&tools.Istiod, "istiod", "istio.io/istio/pilot/cmd/pilot-discovery", "9"},
		{&tools.PilotAgent, "pilot-agent", "istio.io/istio/pilot/cmd/pilot-agent", "1"},
		{&tools.Istioctl, "istioctl", "istio.io/istio/istioctl/cmd/istioctl", "1"},
	} {
		*program.path, err = module{
			name: program.name, version: istioVersion, tools: "istio", pkg: program.pkg, minutes: program.minutes,
		}.get(ctx, checkout, progress)
		if err != nil {
			return cluster.MeshTools{}, err
		}
	}
	if tools.Envoy, err = Envoy(ctx, progress); err != nil {
		return cluster.MeshTools{}, err
	}
	dir, err := moduleDir(ctx, checkout, "istio", "istio.io/istio")
	if err != nil {
		return cluster.MeshTools{}, fmt.Errorf("get Istio's bootstrap template: %w", err)
	}
	tools.Bootstrap = filepath.Join(dir, "tools", "packaging", "common", "envoy_bootstrap.json")
	return tools, nil
}

// IstioCRDs returns the path of Istio's custom resource definitions, a file of
// module istio.io/api in the version of e2e/tools/istio.
func IstioCRDs(ctx context.Context, checkout string) (string, error) {
	dir, err := moduleDir(ctx, checkout, "istio", "istio.io/api")
	if err != nil {
		return "", fmt.Errorf("get Istio's CRDs: %w", err)
	}
	return filepath.Join(dir, "kubernetes", "customresourcedefinitions.gen.yaml"), nil
}

// moduleDir returns the directory of a module in the version of the go.mod in
// e2e/tools/TOOLS. Go downloads the module when it is missing.
func moduleDir(ctx context.Context, checkout, tools, path string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", path)
	cmd.Dir = filepath.Join(checkout, "e2e", "tools", tools)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("download module %s: %w\n%s", path, err, out)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return "", fmt.Errorf("download module %s: %w", path, err)
	}
	return module.Dir, nil
}

const containerdVersion = "2.2.0"

// Node gets the programs of a node, in the module versions of e2e/tools in the
// checkout. runc and the CNI plugins are packages of the distribution.
func Node(ctx context.Context, checkout string, progress Progress) (tools cluster.NodeTools, err error) {
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
			return cluster.NodeTools{}, err
		}
	}
	return tools, nil
}
