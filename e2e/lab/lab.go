// SPDX-License-Identifier: Apache-2.0

// Package lab is the paper's testbed on one machine: four nodes and seven
// Bookinfo pods with real Envoys, each in its own network namespace, an agent
// per node and a Jaeger. Up creates everything and Down removes it; the next Up of
// the same name removes what a killed lab left.
package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Options configure a lab.
type Options struct {
	// Name distinguishes labs that exist at the same time.
	Name string
	// Dir is a directory for configuration and logs. Up empties it.
	Dir   string
	Tools Tools
	// Plain adds the plain pods.
	Plain bool
	// Devices puts two routers with agents between the nodes.
	Devices bool
	// MaxTraces is how many traces Jaeger keeps in memory; default 20,000.
	MaxTraces int
	// Progress is called with one line per step; nil for silence.
	Progress func(format string, args ...any)
}

// Tools are the paths of the programs that the lab runs.
type Tools struct {
	Envoy, Jaeger, Agent, Bookinfo, Peer string
	// Wasm is the module that moves the trace headers to the start.
	Wasm string
}

// Lab is a testbed that is up: the network and Jaeger. Start starts a mesh in it.
type Lab struct {
	// Jaeger reads traces back.
	Jaeger *JaegerClient

	options Options
	pods    []Pod
	prefix  string
	lock    net.Listener
	network network
	group   *sandbox.Group
	groups  map[string]*sandbox.Group
	jaeger  *sandbox.Process
	waiting waiting
	runs    int
}

// nameForm has no `-`, so that no lab's namespaces begin with another's prefix.
var nameForm = regexp.MustCompile(`^[a-z0-9]{1,20}$`)

// CheckRoot returns an error unless the user is root.
func CheckRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("the lab makes network namespaces and loads BPF programs: run it as root")
	}
	return nil
}

// Up creates the network and starts Jaeger. When it fails or ctx ends, nothing
// remains. Call Down on the result.
func Up(ctx context.Context, options Options) (*Lab, error) {
	if err := CheckRoot(); err != nil {
		return nil, err
	}
	if !nameForm.MatchString(options.Name) {
		return nil, fmt.Errorf("lab name %q: want 1 to 20 lower-case letters and digits", options.Name)
	}
	if options.MaxTraces == 0 {
		options.MaxTraces = 20_000
	}
	if options.Progress == nil {
		options.Progress = func(string, ...any) {}
	}
	l := &Lab{options: options, prefix: "lt-" + options.Name + "-", groups: map[string]*sandbox.Group{}}
	l.pods = Pods
	if options.Plain {
		l.pods = slices.Concat(Pods, PlainPods)
	}
	var err error
	if l.lock, err = takeName(options.Name); err != nil {
		return nil, err
	}
	if err := l.up(ctx); err != nil {
		return nil, errors.Join(err, l.Down())
	}
	return l, nil
}

func (l *Lab) up(ctx context.Context) (err error) {
	if err := removeLeftovers(ctx, l.options.Name, l.prefix, l.options.Progress); err != nil {
		return err
	}
	if l.options.Dir, err = filepath.Abs(l.options.Dir); err != nil {
		return fmt.Errorf("find the lab's directory: %w", err)
	}
	if err := os.RemoveAll(l.options.Dir); err != nil {
		return fmt.Errorf("empty the lab's directory: %w", err)
	}
	if err := os.MkdirAll(l.options.Dir, 0o755); err != nil {
		return fmt.Errorf("create the lab's directory: %w", err)
	}
	l.options.Progress("creating %d nodes and %d pods as network namespaces %s*", len(Nodes), len(l.pods), l.prefix)
	if err := l.makeGroups(); err != nil {
		return err
	}
	if err := l.network.build(l.prefix, l.pods, l.options.Devices); err != nil {
		return err
	}
	l.options.Progress("starting Jaeger")
	return l.StartJaeger(ctx)
}

// The containers of a pod.
const (
	application = "application"
	sidecar     = "sidecar"
)

// container returns the key of a pod's container in Lab.groups.
func container(pod, name string) string { return pod + "/" + name }

// makeGroups creates a cgroup for the infrastructure and one per node. A node's has
// one per pod with one per container, as in Kubernetes.
func (l *Lab) makeGroups() (err error) {
	if l.group, err = sandbox.NewGroup(groupName(l.options.Name)); err != nil {
		return err
	}
	if l.groups["infra"], err = l.group.Child("infra"); err != nil {
		return err
	}
	for _, node := range Nodes {
		name := NodeName(node)
		if l.groups[name], err = l.group.Child(name); err != nil {
			return err
		}
		// The agent is not in its node's group: programs attached to that
		// group are meant for the pods.
		if l.groups["agent-"+name], err = l.groups["infra"].Child("agent-" + name); err != nil {
			return err
		}
	}
	for _, pod := range l.pods {
		group, err := l.groups[NodeName(pod.Node)].Child(pod.Name)
		if err != nil {
			return err
		}
		for _, name := range []string{application, sidecar} {
			if l.groups[container(pod.Name, name)], err = group.Child(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// Pods returns the pods of the lab.
func (l *Lab) Pods() []Pod { return l.pods }

// NodeGroup returns the cgroup of a node's pods.
func (l *Lab) NodeGroup(node int) *sandbox.Group { return l.groups[NodeName(node)] }

// SidecarGroup returns the cgroup of a pod's Envoy.
func (l *Lab) SidecarGroup(pod string) *sandbox.Group { return l.groups[container(pod, sidecar)] }

// InfraGroup returns the cgroup of Jaeger and of programs beside it.
func (l *Lab) InfraGroup() *sandbox.Group { return l.groups["infra"] }

// NodeNamespace returns a node's network namespace.
func (l *Lab) NodeNamespace(node int) *sandbox.Namespace { return l.network.nodes[node] }

// PodNamespace returns a pod's network namespace.
func (l *Lab) PodNamespace(pod string) *sandbox.Namespace { return l.network.pods[pod] }

// InfraNamespace returns the network namespace of the switch and Jaeger.
func (l *Lab) InfraNamespace() *sandbox.Namespace { return l.network.infra }

// Down ends every process of the lab and removes its cgroups and network
// namespaces, and with them links, BPF programs and redirection rules. It works
// on a lab that is half up, and when called again.
func (l *Lab) Down() error {
	if l.lock == nil {
		return nil
	}
	// A context of its own: Down must also work after the lab's has ended.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var errs []error
	if l.Jaeger != nil {
		l.Jaeger.Close()
	}
	if l.group != nil {
		errs = append(errs, l.group.Remove(ctx))
	}
	errs = append(errs, l.network.delete(), l.lock.Close())
	l.lock = nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take the lab down (the next run tries again): %w", err)
	}
	return nil
}

// removeLeftovers removes what a killed lab of the same name left.
func removeLeftovers(ctx context.Context, name, prefix string, progress func(string, ...any)) error {
	found, err := sandbox.RemoveGroup(ctx, groupName(name))
	if err != nil {
		return fmt.Errorf("end the processes of an earlier lab: %w", err)
	}
	namespaces, err := sandbox.DeleteNamespaces(prefix)
	if err != nil {
		return fmt.Errorf("remove the network of an earlier lab: %w", err)
	}
	if found || namespaces > 0 {
		progress("removed what an earlier run left (%d network namespaces)", namespaces)
	}
	return nil
}

func groupName(lab string) string { return "layertrace-lab-" + lab }

// takeName ensures that no other lab of this name is up. The abstract socket ends
// with this process, however that ends.
func takeName(name string) (net.Listener, error) {
	lock, err := net.Listen("unix", "@"+groupName(name))
	if err != nil {
		return nil, fmt.Errorf("another lab named %q is up; end it first: %w", name, err)
	}
	return lock, nil
}
