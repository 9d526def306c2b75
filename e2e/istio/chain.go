// SPDX-License-Identifier: Apache-2.0

// Package rollout proves layertrace on a real control plane from end to end:
// what `layertrace install` applies goes through the API server, istiod and
// the sidecar's agent into a running Envoy, and is read back from the bytes
// that an upstream receives; and a kubelet runs the agent, whose spans are read
// back from Jaeger.
package istio

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"math"
	"net"
	"os/exec"
	"path/filepath"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/reorder"
	"github.com/layertrace/layertrace/e2e/sandbox"
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
	Mesh    cluster.MeshTools
	// Layertrace is the program that is tested, Wasm the module.
	Layertrace, Wasm string
	// Jaeger, Bookinfo and Pause run on and beside the node.
	Jaeger, Bookinfo, Pause string
	Node                    cluster.NodeTools
}

// ProvisionTools gets and builds every program of a run.
func ProvisionTools(ctx context.Context, progress provision.Progress) (tools Tools, err error) {
	checkout, err := provision.Checkout()
	if err != nil {
		return Tools{}, err
	}
	if tools.Cluster, err = provision.Kubernetes(ctx, checkout, progress); err != nil {
		return Tools{}, err
	}
	if tools.Mesh, err = provision.Istio(ctx, checkout, progress); err != nil {
		return Tools{}, err
	}
	if tools.Node, err = provision.Node(ctx, checkout, progress); err != nil {
		return Tools{}, err
	}
	if tools.Jaeger, err = provision.Jaeger(ctx, checkout, progress); err != nil {
		return Tools{}, err
	}
	bin := filepath.Join(checkout, "bin")
	for _, program := range []struct {
		path      *string
		name, pkg string
	}{
		{&tools.Layertrace, "layertrace", "./agent/cmd/layertrace"},
		{&tools.Bookinfo, "bookinfo", "./e2e/bookinfo"},
		{&tools.Pause, "pause", "./e2e/cluster/pause"},
	} {
		*program.path = filepath.Join(bin, program.name)
		if err := provision.RunGo(ctx, checkout, progress, "build", "-trimpath", "-o", *program.path, program.pkg); err != nil {
			return Tools{}, err
		}
	}
	tools.Wasm = filepath.Join(bin, "layertrace.wasm")
	return tools, provision.Wasm(ctx, tools.Wasm, progress)
}

// Step is the result of one step.
type Step struct {
	Name string `json:"name"`
	Pass bool   `json:"pass"`
	// Seconds is what the step took, in tenths.
	Seconds float64 `json:"seconds"`
}

// rollout is what the steps share.
type chain struct {
	options Options
	cluster *cluster.Cluster
	mesh    *cluster.Mesh
	modules *cluster.Modules
	// upstream is the application of the pod server.
	upstream *reorder.Upstream
	// client's sidecar is what the steps configure.
	client *cluster.Pod
	// jaeger reads the agents' spans back.
	jaeger *lab.JaegerClient
}

// Run runs all steps and removes everything. A failed step does not keep the
// others from running, unless they need what it makes. The error tells of every
// failure.
func Run(ctx context.Context, options Options) ([]Step, error) {
	r := &chain{options: options}
	results, err := r.run(ctx)
	options.Progress("taking the cluster down")
	return results, errors.Join(err, r.close())
}

func (r *chain) run(ctx context.Context) (results []Step, err error) {
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

func (r *chain) close() error {
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

type step struct {
	name string
	// needed: without it nothing that follows makes sense.
	needed bool
	do     func(context.Context, *chain) error
}

// steps returns all steps in their order.
func steps() []step {
	all := []step{
		{"API server with Istio's resources", true, startCluster},
		{"istiod", true, startMesh},
		{"sidecar", true, startPods},
		{"stock order without layertrace", true, showsStockOrder},
	}
	for _, way := range methods {
		all = append(all, way.steps()...)
	}
	all = append(all, inlineMethod.inlineSteps()...)
	return append(all,
		step{"node with kubelet, containerd and CNI", true, startNode},
		step{"Jaeger", true, startJaeger},
		step{"agent's pod from the project's image, ready", true, agentRuns},
		step{"pod that starts later: its spans name it in Jaeger", false, laterPodIsNamed},
		step{"agent uninstalled, its pod gone", false, agentGoes})
}

func startCluster(ctx context.Context, r *chain) (err error) {
	r.cluster, err = cluster.Start(ctx, cluster.Options{
		Name: r.options.Name, Dir: r.options.Dir, Tools: r.options.Tools.Cluster, Progress: r.options.Progress,
	})
	return err
}

func startMesh(ctx context.Context, r *chain) (err error) {
	if r.mesh, err = cluster.StartMesh(ctx, r.cluster, r.options.Tools.Mesh); err != nil {
		return err
	}
	r.modules, err = cluster.ServeModules(r.cluster)
	return err
}

const (
	clientIP = "10.77.0.10"
	inlineIP = "10.77.0.11"
	serverIP = "10.77.0.20"
	// serviceURL is the address of server.yaml's service.
	serviceURL = "http://10.96.0.10:8000/"
)

//go:embed server.yaml
var serverManifest []byte

// startPods makes a server that keeps request heads, without a sidecar that
// would change them, and a client with one.
func startPods(ctx context.Context, r *chain) error {
	if err := r.cluster.Apply(ctx, serverManifest); err != nil {
		return err
	}
	server, err := r.mesh.AddPod(ctx, cluster.PodSpec{Name: "server", IP: serverIP})
	if err != nil {
		return err
	}
	err = server.Namespace.Do(func() error {
		listener, err := net.Listen("tcp4", serverIP+":8000")
		if err == nil {
			r.upstream = reorder.ServeUpstream(listener)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("serve in pod server: %w", err)
	}
	r.client, err = r.mesh.AddPod(ctx, cluster.PodSpec{Name: "client", IP: clientIP, Sidecar: true})
	return err
}

// layertrace runs the program against the cluster; what it prints is part of
// the error and the result.
func (r *chain) layertrace(ctx context.Context, args ...string) (string, error) {
	args = append(args, "--kubeconfig="+r.cluster.Kubeconfig)
	out, err := exec.CommandContext(ctx, r.options.Tools.Layertrace, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("layertrace %v: %w\n%s", args, err, out)
	}
	return string(out), err
}

func (r *chain) uninstall(ctx context.Context) error {
	_, err := r.layertrace(ctx, "uninstall", "--yes")
	return err
}

// awaitGone returns when the agents' namespace has gone: while it goes nothing
// can be installed into it.
func (r *chain) awaitGone(ctx context.Context) error {
	const namespace = "layertrace-system"
	return sandbox.Await(ctx, "end of namespace "+namespace, configLimit, 100*time.Millisecond, func(ctx context.Context) error {
		_, err := r.cluster.Client.CoreV1().Namespaces().Get(ctx, namespace, meta.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is still there"), err)
	})
}
