// SPDX-License-Identifier: Apache-2.0

// Package cluster runs a Kubernetes control plane on one machine: a real etcd,
// kube-apiserver and kube-controller-manager in a network namespace of their
// own, with Istio's custom resource definitions. It has no nodes: nothing
// schedules pods or runs them. Everything is made by Start and removed by
// Close; what a killed run left behind is removed by the next Start of the
// same name.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Options are what a cluster is made from.
type Options struct {
	// Name tells clusters apart that exist at the same time: 1 to 20
	// lower-case letters and digits.
	Name string
	// Dir is a directory for keys, logs and etcd's data; what is in it is lost.
	Dir string
	// Tools are the programs that the cluster runs.
	Tools Tools
	// Progress is called with one line per step; nil for silence.
	Progress func(format string, args ...any)
}

// Tools are paths of what a cluster is made of.
type Tools struct {
	Etcd, APIServer, ControllerManager string
	// IstioCRDs is a YAML file; without it the cluster knows no Istio.
	IstioCRDs string
}

// Cluster is a control plane that is up.
type Cluster struct {
	// Kubeconfig is the file with which a client becomes cluster admin.
	// KubeconfigInside is the same for programs in the cluster's namespaces.
	Kubeconfig, KubeconfigInside string
	// Config is the same for clients in this process.
	Config *rest.Config
	// Client and Dynamic are clients with it.
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	// Space is the control plane's network namespace, with Bridge in it.
	Space *sandbox.Namespace

	options   Options
	keys      keys
	lock      net.Listener
	group     *sandbox.Group
	entry     *entry
	apiServer *sandbox.Process
	pods      []*sandbox.Namespace
	after     []func() error
}

// Bridge is a bridge in the control plane's namespace, to which namespaces of
// pods can be connected. BridgeIP is its address, one of a /24.
const (
	Bridge   = "br0"
	BridgeIP = "10.77.0.1"
)

var nameForm = regexp.MustCompile(`^[a-z0-9]{1,20}$`)

// Start returns when the API server is ready and knows Istio's resources. When
// it fails, or ctx ends, nothing is left behind. Call Close on the result.
func Start(ctx context.Context, options Options) (*Cluster, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the cluster makes network namespaces and cgroups: run it as root")
	}
	if !nameForm.MatchString(options.Name) {
		return nil, fmt.Errorf("cluster name %q: want 1 to 20 lower-case letters and digits", options.Name)
	}
	if options.Progress == nil {
		options.Progress = func(string, ...any) {}
	}
	c := &Cluster{options: options}
	var err error
	// The abstract socket is gone when this process is, however it ends.
	if c.lock, err = net.Listen("unix", "@"+c.Name()); err != nil {
		return nil, fmt.Errorf("another cluster named %q is up; end it first: %w", options.Name, err)
	}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	if err := c.makePlace(ctx); err != nil {
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

// Name is the name of the cluster's cgroup and lock.
func (c *Cluster) Name() string { return "layertrace-cluster-" + c.options.Name }

func (c *Cluster) file(name string) string { return filepath.Join(c.options.Dir, name) }
