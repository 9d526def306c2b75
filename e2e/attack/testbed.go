// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Addresses of the testbed: a node with a bridge, and pods.
const (
	// NodeAddress is the node's, where the agent serves metrics.
	NodeAddress    = "10.77.0.1"
	metricsAddress = NodeAddress + ":9464"
	receiver       = "127.0.0.1:4318"
	receiverGRPC   = "127.0.0.1:4317"
	pods           = 3
)

// PodAddress is the address of pod n, from 1 on. Its interface at the node is veth<n>.
func PodAddress(n int) string { return "10.77.0.1" + strconv.Itoa(n) }

// agentMemory is the memory limit of the agent's container (istio/agent/daemonset.yaml), in
// bytes. The agent gives its heap half of it where it sees its container.
const agentMemory = 256 << 20

// Testbed is a node with three pods at a bridge, and a receiver of spans.
type Testbed struct {
	Node *sandbox.Namespace
	// Pods are pod 1 at index 0, and so on.
	Pods []*sandbox.Namespace
	// Agent is the one that StartAgent started.
	Agent *sandbox.Process
	// Memory is the agent's limit in bytes, for StartAgent.
	Memory int64
	// GRPC makes the agent export by gRPC.
	GRPC bool

	program, envoy, dir string
	group, agentGroup   *sandbox.Group
	limit               *sandbox.MemoryLimit
	servers             []*http.Server
	processes           []*sandbox.Process // other than the agent
	closers             []func()

	mu      sync.Mutex
	spans   map[string]int // received, by trace ID in hex
	first   map[string]time.Time
	short   map[string]time.Duration // the shortest of them
	respond func(http.ResponseWriter, int) bool
}

func newTestbed(program, envoy, dir string) (t *Testbed, err error) {
	t = &Testbed{
		program: program, envoy: envoy, dir: dir, Memory: agentMemory,
		spans: map[string]int{}, first: map[string]time.Time{}, short: map[string]time.Duration{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	const prefix = "layertrace-attack"
	const agentGroup = prefix + "-agent"
	if _, err = sandbox.DeleteNamespaces(prefix); err != nil { // of a run that was killed
		return t, err
	}
	for name, group := range map[string]**sandbox.Group{prefix: &t.group, agentGroup: &t.agentGroup} {
		if _, err = sandbox.RemoveGroup(context.Background(), name); err != nil {
			return t, err
		}
		if *group, err = sandbox.NewGroup(name); err != nil {
			return t, err
		}
	}
	if t.Node, err = sandbox.NewNamespace(prefix + "-node"); err != nil {
		return t, err
	}
	if err = t.Node.AddBridge("br0", NodeAddress+"/24"); err != nil {
		return t, err
	}
	for n := range pods {
		pod, err := sandbox.NewNamespace(fmt.Sprintf("%s-pod%d", prefix, n+1))
		if err != nil {
			return t, err
		}
		t.Pods = append(t.Pods, pod)
		if err := t.Node.AddPair("veth"+strconv.Itoa(n+1), "br0", pod, PodAddress(n+1)+"/24"); err != nil {
			return t, err
		}
	}
	return t, t.serve(t.Node, receiver, http.HandlerFunc(t.receive))
}

// StartAgent starts the agent on the node, with a container's memory limit, and waits until it
// captures at all pods.
func (t *Testbed) StartAgent(ctx context.Context, flags ...string) (err error) {
	if t.limit, err = t.agentGroup.LimitMemory(t.Memory); err != nil {
		return err
	}
	export := []string{"--export", "otlp-http", "--otlp-endpoint", "http://" + receiver}
	if t.GRPC {
		export = []string{"--export", "otlp-grpc", "--otlp-endpoint", receiverGRPC, "--otlp-insecure"}
	}
	t.Agent, err = sandbox.Start(sandbox.Spec{
		Name: "agent", Path: t.program,
		Args:      slices.Concat([]string{"agent", "--node", "attacked", "--vnic", "veth*", "--pnic", "", "--metrics-address", metricsAddress}, export, flags),
		Namespace: t.Node, Cgroup: t.agentGroup, Memory: t.limit, Stderr: t.agentLog(),
		// What the agent sets itself where it sees its limit as a container does.
		Env: []string{fmt.Sprintf("GOMEMLIMIT=%d", t.Memory/2)},
	})
	if err != nil {
		return err
	}
	return sandbox.AwaitReady(ctx, t.Agent, time.Minute, 20*time.Millisecond, func(ctx context.Context) error {
		attached, err := t.Metric(ctx, "layertrace_interfaces")
		if err == nil && attached != pods {
			err = fmt.Errorf("attached to %.0f of %d interfaces", attached, pods)
		}
		return err
	})
}

func (t *Testbed) agentLog() string { return filepath.Join(t.dir, "agent.log") }

// AgentMemory returns the most memory that the agent's cgroup had, in bytes, and how many
// processes the kernel killed there.
func (t *Testbed) AgentMemory() (peak uint64, kills int, err error) {
	peak, err = t.limit.Peak()
	if err == nil {
		kills, err = t.limit.Kills()
	}
	return peak, kills, err
}

// Ready returns the error of the agent's /readyz.
func (t *Testbed) Ready(ctx context.Context) error {
	_, err := t.Node.Get(ctx, "http://"+metricsAddress+"/readyz")
	return err
}

// Metric returns the sum of a metric of the agent over its labels.
func (t *Testbed) Metric(ctx context.Context, name string) (sum float64, err error) {
	text, err := t.Node.Get(ctx, "http://"+metricsAddress+"/metrics")
	if err != nil {
		return 0, err
	}
	found := false
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		fields := strings.Fields(rest)
		value, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			return 0, fmt.Errorf("read metric %s: %w", name, err)
		}
		sum, found = sum+value, true
	}
	if !found {
		return 0, fmt.Errorf("the agent has no metric %s", name)
	}
	return sum, nil
}

// Spans returns how many spans of a trace the receiver has, and when the first came.
func (t *Testbed) Spans(traceID string) (n int, first time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.spans[traceID], t.first[traceID]
}

// Shortest returns the duration of the shortest span of a trace that the receiver has.
func (t *Testbed) Shortest(traceID string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.short[traceID]
}

// awaitSpans waits until the receiver has n spans of a trace.
func (t *Testbed) awaitSpans(ctx context.Context, traceID string, n int) error {
	return sandbox.Await(ctx, "the spans of a request", time.Minute, 20*time.Millisecond, func(context.Context) error {
		if has, _ := t.Spans(traceID); has < n {
			return fmt.Errorf("it has %d of %d", has, n)
		}
		return nil
	})
}

// Respond sets what the receiver does first, with the number of spans that a batch has: true,
// and the batch was responded to and is not kept.
func (t *Testbed) Respond(respond func(w http.ResponseWriter, spans int) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.respond = respond
}

// Received returns how many spans the receiver has kept.
func (t *Testbed) Received() (sum int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.spans {
		sum += n
	}
	return sum
}

// receive is the receiver of OTLP over HTTP.
func (t *Testbed) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var export coltracepb.ExportTraceServiceRequest
	if err != nil || proto.Unmarshal(body, &export) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	t.mu.Lock()
	respond := t.respond
	t.mu.Unlock()
	if respond == nil || !respond(w, count(&export)) {
		t.keep(&export)
	}
}

func count(export *coltracepb.ExportTraceServiceRequest) (n int) {
	for _, resource := range export.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			n += len(scope.Spans)
		}
	}
	return n
}

func (t *Testbed) keep(export *coltracepb.ExportTraceServiceRequest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, resource := range export.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				id := fmt.Sprintf("%x", s.TraceId)
				took := time.Duration(s.EndTimeUnixNano - s.StartTimeUnixNano)
				if t.spans[id]++; t.spans[id] == 1 {
					t.first[id], t.short[id] = time.Now(), took
				}
				t.short[id] = min(t.short[id], took)
			}
		}
	}
}

// serve serves HTTP in a namespace until the end.
func (t *Testbed) serve(in *sandbox.Namespace, address string, handler http.Handler) error {
	listener, err := in.Listen(address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	t.servers = append(t.servers, server)
	go func() { _ = server.Serve(listener) }() // ends with Close
	return nil
}

func (t *Testbed) close() (err error) {
	if t.Agent != nil {
		err = t.Agent.Kill()
	}
	for _, p := range t.processes {
		err = errors.Join(err, p.Kill())
	}
	for _, c := range t.closers {
		c()
	}
	for _, s := range t.servers {
		err = errors.Join(err, s.Close())
	}
	for _, n := range append(t.Pods, t.Node) {
		if n != nil {
			err = errors.Join(err, n.Delete())
		}
	}
	for _, g := range []*sandbox.Group{t.group, t.agentGroup} {
		if g != nil {
			err = errors.Join(err, g.Remove(context.Background()))
		}
	}
	return err
}
