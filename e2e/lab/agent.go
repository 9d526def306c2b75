// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/yaml"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// AgentMetricsAddress is where an agent serves metrics and readiness, inside
// its node's network namespace.
const AgentMetricsAddress = "127.0.0.1:9464"

// StartAgent starts a node's agent and waits until it is ready. Start has done
// so already; this is for starting one again after KillAgent.
func (r *Run) StartAgent(ctx context.Context, node int) error {
	if err := r.launchAgent(node); err != nil {
		return err
	}
	return r.agentReady(ctx, node)
}

func (r *Run) launchAgent(node int) error {
	name := NodeName(node)
	identity, err := r.writeIdentity(node)
	if err != nil {
		return err
	}
	generation := name
	if earlier := len(r.agentFiles[node]); earlier > 0 {
		generation = fmt.Sprintf("%s.%d", name, earlier+1)
	}
	exchanges := r.file("exchanges", generation)
	args := []string{
		"agent", "--node", name, "--identity", identity,
		"--vnic", "veth*", "--pnic", r.pnic(node),
		"--export", cmp.Or(r.setup.Export, "otlp-grpc,stdout"),
		"--otlp-endpoint", fmt.Sprintf("%s:%d", InfraIP, JaegerOTLPPort), "--otlp-insecure",
		"--queue-size", "65536",
		"--metrics-address", AgentMetricsAddress,
	}
	if r.setup.TCPOption != "" {
		args = append(args, "--tcp-option", r.setup.TCPOption, "--tcp-option-cgroup", r.lab.NodeGroup(node).Path)
	}
	agent, err := sandbox.Start(sandbox.Spec{
		Name: "agent of " + name, Path: r.lab.options.Tools.Agent, Args: slices.Concat(args, r.setup.AgentFlags, r.setup.NodeFlags[node]),
		Namespace: r.lab.network.nodes[node], Cgroup: r.lab.groups["agent-"+name], ClockOffset: r.setup.ClockOffset[node],
		Stdout: exchanges, Stderr: r.file("agent", generation+".log"),
	})
	if err != nil {
		return err
	}
	r.agents[node] = agent
	r.agentFiles[node] = append(r.agentFiles[node], AgentFile{Path: exchanges})
	return nil
}

// agentReady waits until an agent says it is ready and watches every pod's
// interface and the physical one.
func (r *Run) agentReady(ctx context.Context, node int) error {
	want := 1
	if r.setup.NoPNIC[node] {
		want = 0
	}
	for _, pod := range Pods {
		if pod.Node == node {
			want++
		}
	}
	return r.lab.ready(ctx, r.agents[node], func(ctx context.Context) error {
		_, err := get(ctx, r.lab.network.nodes[node], "http://"+AgentMetricsAddress+"/readyz")
		if err != nil {
			return err
		}
		watched, err := r.lab.watched(ctx, node)
		if err == nil && watched != want {
			err = fmt.Errorf("%d of %d interfaces watched", watched, want)
		}
		return err
	})
}

// pnic is the pattern of a node's physical interface, empty to leave it out.
func (r *Run) pnic(node int) string {
	if r.setup.NoPNIC[node] {
		return ""
	}
	return PNIC
}

// Agent returns a node's agent process.
func (r *Run) Agent(node int) *sandbox.Process { return r.agents[node] }

// KillAgent ends a node's agent by SIGKILL.
func (r *Run) KillAgent(node int) error {
	agent, files := r.agents[node], r.agentFiles[node]
	delete(r.agents, node)
	files[len(files)-1].Killed = true
	return agent.Kill()
}

type identity struct {
	Node       string              `json:"node"`
	Interfaces map[string]workload `json:"interfaces"`
	Addresses  map[string]workload `json:"addresses"`
}

type workload struct {
	Service   string `json:"service"`
	Namespace string `json:"namespace,omitempty"`
	Pod       string `json:"pod,omitempty"`
	Node      string `json:"node,omitempty"`
}

// writeIdentity tells a node's agent what is behind its interfaces, and who
// has which address in the whole cluster.
func (r *Run) writeIdentity(node int) (path string, err error) {
	id := identity{Node: NodeName(node), Interfaces: map[string]workload{}, Addresses: map[string]workload{}}
	for _, pod := range Pods {
		w := workload{Service: pod.Service, Namespace: "default", Pod: pod.Name}
		if pod.Node == node {
			id.Interfaces[pod.VNIC] = w
		}
		w.Node = NodeName(pod.Node)
		id.Addresses[pod.IP] = w
	}
	data, err := yaml.Marshal(id)
	if err != nil {
		return "", fmt.Errorf("write the identity file: %w", err)
	}
	path = r.file("identity", NodeName(node)+".yaml")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return "", fmt.Errorf("write the identity file: %w", err)
	}
	return path, nil
}

// StartAgents starts the agents of all nodes and waits until they are ready.
// This is for a run that began without agents or after StopAgents.
func (r *Run) StartAgents(ctx context.Context) error {
	for _, node := range Nodes {
		if node == ClientNode {
			continue
		}
		if err := r.launchAgent(node); err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	for node := range r.agents {
		group.Go(func() error { return r.agentReady(ctx, node) })
	}
	return group.Wait()
}

// AgentMetrics reads the metrics of a node's agent: values by name, with the
// labels where there are any, as in `name{label="value"}`.
func (l *Lab) AgentMetrics(ctx context.Context, node int) (map[string]float64, error) {
	body, err := get(ctx, l.network.nodes[node], "http://"+AgentMetricsAddress+"/metrics")
	if err != nil {
		return nil, err
	}
	metrics := map[string]float64{}
	for line := range strings.Lines(string(body)) {
		line = strings.TrimSpace(line)
		space := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || space < 0 {
			continue
		}
		value, err := strconv.ParseFloat(line[space+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("read metrics of the agent of %s: %q: %w", NodeName(node), line, err)
		}
		metrics[line[:space]] = value
	}
	return metrics, nil
}

// watched is how many interfaces a node's agent is attached to.
func (l *Lab) watched(ctx context.Context, node int) (int, error) {
	metrics, err := l.AgentMetrics(ctx, node)
	if err != nil {
		return 0, err
	}
	total := 0.0
	for name, value := range metrics {
		if strings.HasPrefix(name, "layertrace_interfaces{") {
			total += value
		}
	}
	return int(total), nil
}

// ExportedSpans is how many spans the agents that run have delivered.
func (r *Run) ExportedSpans(ctx context.Context) (int, error) {
	total := 0.0
	for node := range r.agents {
		metrics, err := r.lab.AgentMetrics(ctx, node)
		if err != nil {
			return 0, err
		}
		total += metrics["layertrace_spans_exported_total"]
	}
	return int(total), nil
}

// get asks for a URL from inside a namespace and wants status 200.
func get(ctx context.Context, space *sandbox.Namespace, url string) ([]byte, error) {
	transport := &http.Transport{DialContext: space.DialContext, DisableKeepAlives: true}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s: %s", url, response.Status, body)
	}
	return body, nil
}

// Usage is the CPU time that parts of the lab have taken since it came up,
// also that of processes which have ended.
type Usage struct {
	// Agents are all agents' processes. What their BPF programs take is not in
	// it: they run wherever the packets are handled, so in Mesh and elsewhere.
	Agents time.Duration
	// Jaeger has the Envoys' and the agents' spans to store.
	Jaeger time.Duration
	// Mesh are applications and Envoys, and the packets that they send.
	Mesh time.Duration
}

// Minus returns what was taken since an earlier reading.
func (u Usage) Minus(earlier Usage) Usage {
	return Usage{Agents: u.Agents - earlier.Agents, Jaeger: u.Jaeger - earlier.Jaeger, Mesh: u.Mesh - earlier.Mesh}
}

// Usage reads the CPU time of the lab's cgroups.
func (l *Lab) Usage() (u Usage, err error) {
	var errs []error
	read := func(group string) time.Duration {
		cpu, err := l.groups[group].CPU()
		errs = append(errs, err)
		return cpu
	}
	for _, node := range Nodes {
		u.Agents += read("agent-" + NodeName(node))
		u.Mesh += read(NodeName(node))
	}
	// The agents' groups are below this one.
	u.Jaeger = read("infra") - u.Agents
	return u, errors.Join(errs...)
}

// AgentMemory returns the memory of the agent that has most of it: resident
// now, and at most since it began, in bytes. It is 0 without agents.
func (r *Run) AgentMemory() (now, peak uint64, err error) {
	for node, agent := range r.agents {
		memory, err := sandbox.ReadMemory(agent.PID())
		if err != nil {
			return 0, 0, fmt.Errorf("memory of the agent of %s: %w", NodeName(node), err)
		}
		now, peak = max(now, memory.Resident), max(peak, memory.Peak)
	}
	return now, peak, nil
}

// Layertrace runs a command of layertrace beside Jaeger and returns what it
// wrote to its standard output.
func (l *Lab) Layertrace(ctx context.Context, args ...string) ([]byte, error) {
	name := "layertrace " + args[0]
	out := filepath.Join(l.options.Dir, args[0]+".out")
	command, err := sandbox.Start(sandbox.Spec{
		Name: name, Path: l.options.Tools.Agent, Args: args,
		Namespace: l.network.sw, Cgroup: l.groups["infra"],
		Stdout: out, Stderr: filepath.Join(l.options.Dir, args[0]+".log"),
	})
	if err != nil {
		return nil, err
	}
	if err := command.Wait(ctx); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(out)
	if err != nil {
		return nil, fmt.Errorf("read what %s wrote: %w", name, err)
	}
	return text, nil
}

// JaegerURL is where Jaeger's query API is, from the nodes and beside it.
func JaegerURL() string { return fmt.Sprintf("http://%s:%d", InfraIP, JaegerQueryPort) }
