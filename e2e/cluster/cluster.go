// SPDX-License-Identifier: Apache-2.0

// Package cluster runs Kubernetes and Istio on one machine, each part in a network
// namespace: a real etcd, kube-apiserver and kube-controller-manager (Cluster), a
// real istiod with pods of pilot-agent and Envoy (Mesh), and a node with containerd
// and kubelet (Node). No scheduler runs: tests bind pods to nodes.
//
// Start creates everything and Close removes it; the next Start of the same name
// removes what a killed run left.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Options configure a cluster.
type Options struct {
	// Name distinguishes clusters that exist at the same time: 1 to 20 lower-case
	// letters and digits.
	Name string
	// Dir is a directory for keys, logs and etcd's data. Start empties it.
	Dir   string
	Tools Tools
	// Progress is called with one line per step; nil for silence.
	Progress func(format string, args ...any)
}

// Tools are the paths of a control plane's programs.
type Tools struct {
	Etcd, APIServer, ControllerManager string
	// IstioCRDs is a YAML file; empty for a cluster without Istio's resources.
	IstioCRDs string
}

// Cluster is a running control plane: nodes and a mesh can be added.
type Cluster struct {
	// Kubeconfig is the file of the cluster's admin, KubeconfigInside the same for
	// programs in the cluster's namespaces.
	Kubeconfig, KubeconfigInside string
	// Config is the same for clients in this process.
	Config *rest.Config
	// Client and Dynamic are clients with Config.
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	// Namespace is the control plane's network namespace, with Bridge in it.
	Namespace *sandbox.Namespace

	options   Options
	keys      keys
	lock      net.Listener
	group     *sandbox.Group
	forward   *sandbox.PortForward
	apiServer *sandbox.Process
	pods      []*sandbox.Namespace
	after     []func() error
}

// Bridge is a bridge in the control plane's namespace, to which pods and nodes are
// connected. BridgeIP is its address, in a /24.
const (
	Bridge   = "br0"
	BridgeIP = "10.77.0.1"
)

var nameForm = regexp.MustCompile(`^[a-z0-9]{1,20}$`)

// Start starts a control plane and waits until the API server is ready and serves
// Istio's resources. When it fails or ctx ends, nothing remains. Call Close on the
// result.
func Start(ctx context.Context, options Options) (*Cluster, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the cluster creates network namespaces and cgroups: run it as root")
	}
	if !nameForm.MatchString(options.Name) {
		return nil, fmt.Errorf("cluster name %q: want 1 to 20 lower-case letters and digits", options.Name)
	}
	if options.Progress == nil {
		options.Progress = func(string, ...any) {}
	}
	c := &Cluster{options: options}
	var err error
	// The abstract socket ends with this process, however that ends.
	if c.lock, err = net.Listen("unix", "@"+c.Name()); err != nil {
		return nil, fmt.Errorf("another cluster named %q is up; end it first: %w", options.Name, err)
	}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	if err := c.makeSandbox(ctx); err != nil {
		return err
	}
	if err := c.makeKeys(); err != nil {
		return err
	}
	c.options.Progress("starting etcd and the API server")
	if err := c.startEtcd(ctx); err != nil {
		return err
	}
	if err := c.StartAPIServer(ctx); err != nil {
		return err
	}
	if err := c.startControllerManager(); err != nil {
		return err
	}
	if c.options.Tools.IstioCRDs == "" {
		return nil
	}
	return c.addIstio(ctx)
}

// Name returns the name of the cluster's cgroup and lock.
func (c *Cluster) Name() string { return "layertrace-cluster-" + c.options.Name }

func (c *Cluster) file(name string) string { return filepath.Join(c.options.Dir, name) }

// makeSandbox creates the cluster's directory, cgroup and network namespace, after
// removing those of an earlier run.
func (c *Cluster) makeSandbox(ctx context.Context) (err error) {
	if _, err := sandbox.RemoveGroup(ctx, c.Name()); err != nil {
		return fmt.Errorf("end the processes of an earlier cluster: %w", err)
	}
	if _, err := sandbox.DeleteNamespaces(c.namespaceName("")); err != nil {
		return fmt.Errorf("remove the network of an earlier cluster: %w", err)
	}
	if c.options.Dir, err = filepath.Abs(c.options.Dir); err != nil {
		return fmt.Errorf("find the cluster's directory: %w", err)
	}
	if err := os.RemoveAll(c.options.Dir); err != nil {
		return fmt.Errorf("empty the cluster's directory: %w", err)
	}
	if err := os.MkdirAll(c.options.Dir, 0o755); err != nil {
		return fmt.Errorf("create the cluster's directory: %w", err)
	}
	if c.group, err = sandbox.NewGroup(c.Name()); err != nil {
		return err
	}
	if c.Namespace, err = sandbox.NewNamespace(c.namespaceName("control")); err != nil {
		return err
	}
	return c.Namespace.AddBridge(Bridge, BridgeIP+"/24")
}

// namespaceName returns the name of one of the cluster's network namespaces.
func (c *Cluster) namespaceName(of string) string { return "lt-cluster-" + c.options.Name + "-" + of }

// Close ends every process of the cluster and removes its cgroup and network
// namespaces. The directory with the logs stays. Close can be called again.
func (c *Cluster) Close() error {
	if c.lock == nil {
		return nil
	}
	// A context of its own: Close must also work after the cluster's has ended.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var errs []error
	if c.forward != nil {
		errs = append(errs, c.forward.Close())
	}
	if c.group != nil {
		errs = append(errs, c.group.Remove(ctx))
	}
	for _, do := range c.after {
		errs = append(errs, do())
	}
	for _, namespace := range append(c.pods, c.Namespace) {
		if namespace != nil {
			errs = append(errs, namespace.Delete())
		}
	}
	errs = append(errs, c.lock.Close())
	c.lock = nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take the cluster down (the next run tries again): %w", err)
	}
	return nil
}

// Run starts a program that ends with the cluster, in the cluster's cgroup. By
// default it is in the control plane's namespace, and its log in a directory of the
// program's name, which is also its working directory.
func (c *Cluster) Run(spec sandbox.Spec) (*sandbox.Process, error) {
	if spec.Namespace == nil {
		spec.Namespace = c.Namespace
	}
	spec.Cgroup = c.group
	if spec.Stderr == "" {
		dir, err := c.Dir(spec.Name)
		if err != nil {
			return nil, err
		}
		spec.Stderr = filepath.Join(dir, "log")
	}
	return sandbox.Start(spec)
}

// Dir creates a directory for the files of a program or pod.
func (c *Cluster) Dir(name string) (string, error) {
	dir := c.file(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("create the directory of %s: %w", name, err)
	}
	return dir, nil
}

// AddPodNamespace creates the network namespace of a pod or node, which ends with
// the cluster: eth0 has an address in BridgeIP's network, and the default route goes
// through the control plane's namespace.
func (c *Cluster) AddPodNamespace(name, ip string) (*sandbox.Namespace, error) {
	namespace, err := sandbox.NewNamespace(c.namespaceName(name))
	if err != nil {
		return nil, err
	}
	c.pods = append(c.pods, namespace)
	if err := c.Namespace.AddPair("veth-"+name, Bridge, namespace, ip+"/24"); err != nil {
		return nil, err
	}
	return namespace, namespace.AddRoute("0.0.0.0/0", BridgeIP)
}

// AfterProcesses makes Close call do after all processes have ended.
func (c *Cluster) AfterProcesses(do func() error) { c.after = append(c.after, do) }
