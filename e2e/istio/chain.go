// SPDX-License-Identifier: Apache-2.0

// Package istio tests layertrace on a real control plane from end to end: what
// `layertrace install` applies goes through the API server, istiod and pilot-agent
// into a running Envoy, and is checked in the bytes that an upstream receives; and a
// kubelet runs the agent, whose spans are checked in Jaeger.
package istio

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"math"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/reorder"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Options configure a run.
type Options struct {
	// Name distinguishes runs that exist at the same time.
	Name string
	// Dir is a directory for configuration and logs. Run empties it.
	Dir   string
	Tools Tools
	// Groups of steps to run, of the variable of that name.
	Groups []string
	// Before is the git revision to upgrade from; empty: the latest release.
	Before string
	// Progress is called with one line per step.
	Progress func(format string, args ...any)
}

// Tools are the paths of the programs.
type Tools struct {
	Cluster cluster.Tools
	Mesh    cluster.MeshTools
	// Layertrace is the program under test, Wasm the module.
	Layertrace, Wasm string
	// Jaeger, Bookinfo and Pause run on the node or next to it.
	Jaeger, Bookinfo, Pause string
	// AgentImage is the archive of the agents' image, as a release has it.
	AgentImage string
	Node       cluster.NodeTools
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
	tools.AgentImage = filepath.Join(bin, "agent.tar")
	if err := provision.RunGo(ctx, checkout, progress, "run", "./release", "-images", "-o", bin); err != nil {
		return Tools{}, err
	}
	tools.Wasm = filepath.Join(bin, "layertrace.wasm")
	return tools, provision.Wasm(ctx, tools.Wasm, progress)
}

// Step is the result of one step.
type Step struct {
	Name string `json:"name"`
	Pass bool   `json:"pass"`
	// Seconds is the time of the step, rounded to tenths.
	Seconds float64 `json:"seconds"`
}

// chain is the state that the steps share.
type chain struct {
	options Options
	cluster *cluster.Cluster
	mesh    *cluster.Mesh
	modules *cluster.Modules
	// upstream is the application in the pod server.
	upstream *reorder.Upstream
	// client is the pod whose sidecar the steps configure, url where it sends requests.
	client *cluster.Pod
	url    string
	// encrypted is what the steps for mutual TLS add, limited those of limited installations.
	encrypted encrypted
	limited   limited
	// before is the version to upgrade from, upgraded the client of that.
	before   *version
	upgraded *cluster.Pod
	// jaeger reads the agents' spans.
	jaeger *lab.JaegerClient
}

// Run runs all steps and removes everything. After a failed step the others still
// run, unless they need it. The error has every failure.
func Run(ctx context.Context, options Options) ([]Step, error) {
	c := &chain{options: options, url: serviceURL}
	results, err := c.run(ctx)
	options.Progress("taking the cluster down")
	return results, errors.Join(err, c.close())
}

func (c *chain) run(ctx context.Context) (results []Step, err error) {
	var errs []error
	for _, step := range steps(c.options.Groups) {
		c.options.Progress("%s", step.name)
		start := time.Now()
		err := step.do(ctx, c)
		results = append(results, Step{step.name, err == nil, math.Round(time.Since(start).Seconds()*10) / 10})
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", step.name, err))
			c.options.Progress("FAILED: %v", err)
		}
		if err != nil && step.needed || ctx.Err() != nil {
			break
		}
	}
	return results, errors.Join(errs...)
}

func (c *chain) close() error {
	var errs []error
	if c.jaeger != nil {
		c.jaeger.Close()
	}
	for _, server := range []*reorder.Upstream{c.upstream, c.encrypted.app} {
		if server != nil {
			server.Close()
		}
	}
	if c.modules != nil {
		errs = append(errs, c.modules.Close())
	}
	if c.cluster != nil {
		errs = append(errs, c.cluster.Close())
	}
	return errors.Join(errs...)
}

type step struct {
	name string
	// needed is set when later steps make no sense after its failure.
	needed bool
	do     func(context.Context, *chain) error
}

// withClient runs steps with a client of their own, which they set, so that what a proxy had
// before does not matter to others.
func withClient(client func(*chain) **cluster.Pod, steps []step) []step {
	for i, s := range steps {
		steps[i].do = func(ctx context.Context, c *chain) error {
			others := c.client
			c.client = *client(c)
			defer func() { *client(c), c.client = c.client, others }()
			return s.do(ctx, c)
		}
	}
	return steps
}

// Groups of steps that can be chosen; those before them always run.
const (
	// StepsReorder are those of the methods to move the trace context.
	StepsReorder = "reorder"
	// StepsLimited are those of installations for one namespace.
	StepsLimited = "limited"
	// StepsNode are those of a node with a kubelet.
	StepsNode = "node"
	// StepsUpgrade are those of an upgrade and a rollback on that node.
	StepsUpgrade = "upgrade"
	// StepsMTLS are those of encrypted traffic.
	StepsMTLS = "mtls"
)

// Groups are all groups of steps.
var Groups = []string{StepsLimited, StepsReorder, StepsNode, StepsUpgrade, StepsMTLS}

// steps returns the steps of these groups in their order.
func steps(groups []string) []step {
	all := []step{
		{"API server with Istio's resources", true, startCluster},
		{"istiod", true, startMesh},
		{"sidecar", true, startPods},
		{"stock order without layertrace", true, showsStockOrder},
		{"Jaeger", true, startJaeger},
	}
	if slices.Contains(groups, StepsLimited) {
		all = append(all, withClient(func(c *chain) **cluster.Pod { return &c.limited.client }, limitedSteps())...)
	}
	if slices.Contains(groups, StepsReorder) {
		for _, m := range methods {
			all = append(all, m.steps()...)
		}
		all = append(all, inlineMethod.inlineSteps()...)
	}
	upgrade := slices.Contains(groups, StepsUpgrade)
	if upgrade {
		all = append(all, step{"the version before, built from its revision", true, buildBefore})
	}
	if upgrade || slices.Contains(groups, StepsNode) {
		all = append(all, step{"node with kubelet, containerd and CNI", true, startNode})
	}
	if slices.Contains(groups, StepsNode) {
		all = append(all,
			step{"agent's pod from the project's image, ready", true, agentRuns},
			step{"agent confined as its manifest says", false, agentIsConfined},
			step{"pod that starts later is named in its spans in Jaeger", false, laterPodIsNamed},
			step{"agent uninstalled, its pod removed", false, agentGoes})
		all = append(all, trySteps()...)
	}
	if upgrade {
		all = append(all, withClient(func(c *chain) **cluster.Pod { return &c.upgraded }, upgradeSteps())...)
	}
	if slices.Contains(groups, StepsMTLS) {
		all = append(all, mtlsSteps()...)
	}
	return all
}

func startCluster(ctx context.Context, c *chain) (err error) {
	c.cluster, err = cluster.Start(ctx, cluster.Options{
		Name: c.options.Name, Dir: c.options.Dir, Tools: c.options.Tools.Cluster, Progress: c.options.Progress,
	})
	return err
}

func startMesh(ctx context.Context, c *chain) (err error) {
	if c.mesh, err = cluster.StartMesh(ctx, c.cluster, c.options.Tools.Mesh); err != nil {
		return err
	}
	c.modules, err = cluster.ServeModules(c.cluster)
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

// startPods adds a server that records request heads, without a sidecar that would
// change them, and a client with a sidecar.
func startPods(ctx context.Context, c *chain) error {
	if err := c.cluster.Apply(ctx, serverManifest); err != nil {
		return err
	}
	server, err := c.mesh.AddPod(ctx, cluster.PodSpec{Name: "server", IP: serverIP})
	if err != nil {
		return err
	}
	listener, err := server.Namespace.Listen(serverIP + ":8000")
	if err != nil {
		return fmt.Errorf("serve in pod server: %w", err)
	}
	c.upstream = reorder.ServeUpstream(listener)
	c.client, err = c.mesh.AddPod(ctx, cluster.PodSpec{Name: "client", IP: clientIP, Sidecar: true})
	return err
}

// layertrace runs layertrace against the cluster and returns its output, which is
// also part of the error.
func (c *chain) layertrace(ctx context.Context, args ...string) (string, error) {
	return c.runProgram(ctx, c.options.Tools.Layertrace, args...)
}

// runProgram runs a build of layertrace against the cluster.
func (c *chain) runProgram(ctx context.Context, program string, args ...string) (string, error) {
	args = append(args, "--kubeconfig="+c.cluster.Kubeconfig)
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("layertrace %v: %w\n%s", args, err, out)
	}
	return string(out), err
}

func (c *chain) uninstall(ctx context.Context) error {
	_, err := c.layertrace(ctx, "uninstall", "--yes")
	return err
}

// awaitGone waits until the agents' namespace is gone: nothing can be installed into
// it while it terminates.
func (c *chain) awaitGone(ctx context.Context) error {
	return sandbox.Await(ctx, "the end of namespace "+agentNamespace, configLimit, 100*time.Millisecond, func(ctx context.Context) error {
		_, err := c.cluster.Client.CoreV1().Namespaces().Get(ctx, agentNamespace, meta.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it still exists"), err)
	})
}
