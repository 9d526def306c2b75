// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// NodeTools are the paths of a node's programs.
type NodeTools struct {
	Kubelet, Containerd, Shim, Ctr string
}

// path returns a search path with all of them.
func (t NodeTools) path() string {
	path := os.Getenv("PATH")
	for _, program := range []string{t.Kubelet, t.Containerd, t.Shim, t.Ctr} {
		path = filepath.Dir(program) + ":" + path
	}
	return path
}

// NodeOptions configure a node.
type NodeOptions struct {
	// Name is the node's name, IP an address in BridgeIP's network.
	Name, IP string
	// PodCIDR is a /24 for its pods, such as 10.244.1.0/24.
	PodCIDR string
	// Images are archives of the images of all containers and of PauseImage.
	Images []string
	Tools  NodeTools
}

// PauseImage is the image that holds a pod's namespaces.
const PauseImage = "layertrace/pause:test"

// Node is a worker node of a cluster on this machine: the real containerd and kubelet
// with the CNI plugins, in network, PID and mount namespaces of their own. Everything
// that they start, pods included, ends with the PID namespace.
type Node struct {
	// Namespace is the node's network namespace.
	Namespace *sandbox.Namespace
	options   NodeOptions
	cluster   *Cluster
	dir       string
}

const nodePollEvery = 200 * time.Millisecond

// StartNode starts a node and waits until it is Ready. It ends with the cluster.
func StartNode(ctx context.Context, c *Cluster, options NodeOptions) (*Node, error) {
	n := &Node{options: options, cluster: c}
	var err error
	if n.dir, err = c.Dir(options.Name); err != nil {
		return nil, err
	}
	if n.Namespace, err = c.AddPodNamespace(options.Name, options.IP); err != nil {
		return nil, err
	}
	err = n.Namespace.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
	})
	if err != nil {
		return nil, fmt.Errorf("make %s a router: %w", options.Name, err)
	}
	if err := c.Namespace.AddRoute(options.PodCIDR, options.IP); err != nil {
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

// run starts containerd, imports the images and starts the kubelet, all as children
// of PID 1 of their namespace.
func (n *Node) run(ctx context.Context) error {
	p, err := n.cluster.Run(sandbox.Spec{
		Name: n.options.Name, Path: "unshare", Namespace: n.Namespace, Stderr: filepath.Join(n.dir, "log"),
		Env: []string{"PATH=" + n.options.Tools.path()},
		Args: append([]string{"--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--propagation=slave",
			"sh", "-euc", nodeScript, "sh", n.dir, n.options.Name, n.options.IP, n.cluster.KubeconfigInside},
			n.options.Images...),
	})
	if err != nil {
		return err
	}
	return AwaitReady(ctx, p, func(ctx context.Context) error {
		node, err := n.cluster.Client.CoreV1().Nodes().Get(ctx, n.options.Name, meta.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range node.Status.Conditions {
			if c.Type == core.NodeReady && c.Status == core.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("not ready: %v", node.Status.Conditions)
	})
}

// nodeScript is PID 1 of the node. The node has a /run/netns of its own, so that the
// names of the pods' network namespaces end with it.
const nodeScript = `
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

// writeFiles writes the configuration of containerd, the CNI plugins and the kubelet.
func (n *Node) writeFiles() error {
	for name, text := range map[string]string{
		"containerd.toml": fmt.Sprintf(containerdConfig, n.dir, PauseImage),
		"cni/10.conflist": fmt.Sprintf(cniConfig, n.options.PodCIDR),
		"kubelet.yaml":    fmt.Sprintf(kubeletConfig, n.dir),
	} {
		path := filepath.Join(n.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// restrict_oom_score_adj: lowering a container's OOM score needs CAP_SYS_RESOURCE.
const containerdConfig = `version = 3
root = "%[1]s/containerd"
state = "%[1]s/run"
[grpc]
  address = "%[1]s/c.sock"
[plugins."io.containerd.cri.v1.images"]
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "docker.io/%[2]s"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "%[1]s/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
`

const cniConfig = `{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [{
    "type": "bridge",
    "bridge": "cni0",
    "isGateway": true,
    "ipam": {
      "type": "host-local",
      "ranges": [[{"subnet": "%s"}]],
      "routes": [{"dst": "0.0.0.0/0"}]
    }
  }]
}
`

// No cgroups per QoS class and no eviction: the node is a guest on its machine.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://%[1]s/c.sock
authentication:
  anonymous: {enabled: true}
  webhook: {enabled: false}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
localStorageCapacityIsolation: false
resolvConf: ""
podLogsDir: %[1]s/pod-logs
volumePluginDir: %[1]s/volume-plugins
evictionHard:
  memory.available: "0%%"
  nodefs.available: "0%%"
  nodefs.inodesFree: "0%%"
  imagefs.available: "0%%"
`

// serviceRules do what kube-proxy would do for the only service that pods need, the
// API server's: for pods in the node's network and for others.
const serviceRules = `table ip services {
	chain output {
		type nat hook output priority -100;
		ip daddr ` + ServiceIP + ` tcp dport 443 dnat to ` + BridgeIP + `:6443
	}
	chain prerouting {
		type nat hook prerouting priority -100;
		ip daddr ` + ServiceIP + ` tcp dport 443 dnat to ` + BridgeIP + `:6443
	}
}
`

// translate translates the address of the API server's service.
func (n *Node) translate(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(serviceRules)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := n.Namespace.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("translate the API server's address (needs nft): %w\n%s", err, out.String())
	}
	return nil
}

// removeGroups removes the cgroups of the containers that ran when the node ended, in
// all hierarchies of version 1 and in version 2's. The killed runtime leaves them, and
// the last of their processes may still be ending.
func (n *Node) removeGroups() error {
	// The runtime's state has a directory per container.
	containers, err := filepath.Glob(filepath.Join(n.dir, "run", "io.containerd.runtime.v2.task", "k8s.io", "*"))
	if err != nil {
		return err
	}
	return sandbox.Await(context.Background(), "removal of the containers' cgroups", 20*time.Second, nodePollEvery,
		func(context.Context) error {
			var errs []error
			for _, container := range containers {
				errs = append(errs, removeCgroup("k8s.io/"+filepath.Base(container)))
			}
			err := removeCgroup("k8s.io")
			if errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.ENOTEMPTY) {
				err = nil // another runtime uses it too
			}
			return errors.Join(append(errs, err)...)
		})
}

// removeCgroup removes a cgroup without children from all hierarchies.
func removeCgroup(name string) error {
	var errs []error
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		paths, err := filepath.Glob(filepath.Join(mount, name))
		errs = append(errs, err)
		for _, path := range paths {
			// A controller that is mounted under two names is found twice.
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("remove cgroup: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// WriteImage writes an archive of an image that has one static program and starts it:
// for programs of the tests. The agent's image is the one that is released.
func WriteImage(path, reference, program string, command ...string) error {
	tag, err := name.NewTag(reference)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	if err := w.WriteHeader(&tar.Header{Name: "program", Mode: 0o755, Size: int64(len(data))}); err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(files.Bytes())), nil
	})
	if err != nil {
		return err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config = v1.Config{Entrypoint: []string{"/program"}, Cmd: command}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return err
	}
	if err := tarball.WriteToFile(path, tag, image); err != nil {
		return fmt.Errorf("write image %s: %w", reference, err)
	}
	return nil
}
