// SPDX-License-Identifier: Apache-2.0

// Package node runs a worker node of a cluster on this machine: the real
// containerd and kubelet with the CNI plugins, in network, PID and mount
// namespaces of their own. With the PID namespace everything ends that they
// have started, pods too.
package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Tools are paths of what a node is made of.
type Tools struct {
	Kubelet, Containerd, Shim, Ctr string
}

// path is a search path with all of them.
func (t Tools) path() string {
	path := os.Getenv("PATH")
	for _, program := range []string{t.Kubelet, t.Containerd, t.Shim, t.Ctr} {
		path = filepath.Dir(program) + ":" + path
	}
	return path
}

// Options say what a node is like.
type Options struct {
	// Name is the node's, IP an address of cluster.BridgeIP's network.
	Name, IP string
	// PodCIDR is a /24 for its pods, as 10.244.1.0/24.
	PodCIDR string
	// Images are archives with the images of all containers, and of Pause.
	Images []string
	Tools  Tools
}

// Pause is the image that holds a pod's namespaces.
const Pause = "layertrace/pause:test"

// Node is a node that is ready.
type Node struct {
	// Space is the node's network namespace.
	Space   *sandbox.Namespace
	options Options
	cluster *cluster.Cluster
	dir     string
}

const pollEvery = 200 * time.Millisecond

// Start returns when the node is Ready. It ends with the cluster.
func Start(ctx context.Context, c *cluster.Cluster, options Options) (*Node, error) {
	n := &Node{options: options, cluster: c}
	var err error
	if n.dir, err = c.Dir(options.Name); err != nil {
		return nil, err
	}
	if n.Space, err = c.AddPodSpace(options.Name, options.IP); err != nil {
		return nil, err
	}
	err = n.Space.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
	})
	if err != nil {
		return nil, fmt.Errorf("make %s a router: %w", options.Name, err)
	}
	if err := c.Space.AddRoute(options.PodCIDR, options.IP); err != nil {
		return nil, err
	}
	if err := n.translate(ctx); err != nil {
		return nil, err
	}
	if err := n.writeFiles(); err != nil {
		return nil, err
	}
	c.AfterProcesses(n.removeGroups)
	return n, n.run(ctx)
}

// run starts containerd, gives it the images, and starts the kubelet, all below
// one process that is PID 1 of their namespace.
func (n *Node) run(ctx context.Context) error {
	p, err := n.cluster.Run(sandbox.Spec{
		Name: n.options.Name, Path: "unshare", Namespace: n.Space, Stderr: filepath.Join(n.dir, "log"),
		Env: []string{"PATH=" + n.options.Tools.path()},
		Args: append([]string{"--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--propagation=slave",
			"sh", "-euc", script, "sh", n.dir, n.options.Name, n.options.IP, n.cluster.KubeconfigInside},
			n.options.Images...),
	})
	if err != nil {
		return err
	}
	return cluster.AwaitReady(ctx, p, func(ctx context.Context) error {
		node, err := n.cluster.Client.CoreV1().Nodes().Get(ctx, n.options.Name, meta.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range node.Status.Conditions {
			if c.Type == core.NodeReady && c.Status == core.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("it is not ready: %v", node.Status.Conditions)
	})
}

// script is PID 1 of the node. The names of the pods' network namespaces are
// files in /run/netns, so that has to be the node's own to go with it.
const script = `
dir=$1 name=$2 ip=$3 kubeconfig=$4
shift 4
mount --make-rshared /
mount -t tmpfs netns /run/netns
containerd --config "$dir/containerd.toml" >"$dir/containerd.log" 2>&1 &
export CONTAINERD_ADDRESS=$dir/c.sock CONTAINERD_NAMESPACE=k8s.io
until ctr version >/dev/null 2>&1; do sleep 0.1; done
for image; do ctr images import "$image"; done
kubelet --config="$dir/kubelet.yaml" --kubeconfig="$kubeconfig" --root-dir="$dir/kubelet" \
	--cert-dir="$dir/pki" --hostname-override="$name" --node-ip="$ip"
`
