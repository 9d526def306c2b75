// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/yaml"

	"github.com/layertrace/layertrace/e2e/sandbox"
	"github.com/layertrace/layertrace/internal/observe"
)

// AgentMetricsAddress is where an agent serves metrics and readiness, in its
// node's network namespace.
const AgentMetricsAddress = "127.0.0.1:9464"

// StartAgent starts a node's agent again after KillAgent, and waits until it is
// ready.
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
		"--vnic", r.vnic(), "--pnic", r.pnic(node),
		"--export", cmp.Or(r.setup.Export, "otlp-grpc,stdout"),
		"--otlp-endpoint", fmt.Sprintf("%s:%d", r.setup.collectorIP(), r.otlpPort()), "--otlp-insecure",
		"--queue-size", "65536",
		"--metrics-address", AgentMetricsAddress,
	}
	if r.setup.TLS != nil {
		args = append(args, "--mtls", "--access-log-address", fmt.Sprintf(":%d", AccessLogPort))
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

// otlpPort is that of join in a lab with devices, else of Jaeger.
func (r *Run) otlpPort() int {
	if r.joins != nil {
		return JoinOTLPPort
	}
	return JaegerOTLPPort
}

// agentReady waits until an agent is ready and attached to the interfaces of all
// pods and the physical one.
func (r *Run) agentReady(ctx context.Context, node int) error {
	want := 1
	if r.setup.NoPNIC[node] {
		want = 0
	}
	for _, pod := range r.lab.pods {
		if pod.Node == node && !r.setup.OptionOnly {
			want++
		}
	}
	return r.lab.ready(ctx, r.agents[node], func(ctx context.Context) error {
		_, err := r.lab.network.nodes[node].Get(ctx, "http://"+AgentMetricsAddress+"/readyz")
		if err != nil {
			return err
		}
		attached, err := r.lab.attached(ctx, node)
		if err == nil && attached != want {
			err = fmt.Errorf("attached to %d of %d interfaces", attached, want)
		}
		return err
	})
}

// vnic returns the pattern of the pods' interfaces.
func (r *Run) vnic() string {
	if r.setup.OptionOnly {
		return ""
	}
	return "veth*"
}

// pnic returns the pattern of a node's physical interface, empty to skip it.
func (r *Run) pnic(node int) string {
	switch {
	case r.setup.OptionOnly:
		return "lo"
	case r.setup.NoPNIC[node]:
		return ""
	}
	return PNIC
}

// Agent returns a node's agent process.
func (r *Run) Agent(node int) *sandbox.Process { return r.agents[node] }

// KillAgent kills a node's agent (SIGKILL).
func (r *Run) KillAgent(node int) error {
	agent, files := r.agents[node], r.agentFiles[node]
	delete(r.agents, node)
	files[len(files)-1].Killed = true
	return agent.Kill()
}

type identity struct {
	Node       string                      `json:"node"`
	Interfaces map[string]observe.Workload `json:"interfaces"`
	Addresses  map[string]observe.Workload `json:"addresses"`
}

// writeIdentity writes the identity file of a node's agent: the pods of its
// interfaces, and those of all addresses in the cluster.
func (r *Run) writeIdentity(node int) (path string, err error) {
	id := identity{Node: NodeName(node), Interfaces: map[string]observe.Workload{}, Addresses: map[string]observe.Workload{}}
	for _, pod := range r.lab.pods {
		w := observe.Workload{Service: pod.Service, Namespace: "default", Pod: pod.Name}
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

// StartAgents starts the agents of all nodes, in a run that began without them or
// after StopAgents, and waits until they are ready.
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

// UseAgents makes the agents that StartAgents starts from now on those of another
// setup. The mesh stays as it was started.
func (r *Run) UseAgents(setup Setup) { r.setup = setup }

// AgentMetrics reads the metrics of a node's agent: values by name, with labels
// where there are any, as in `name{label="value"}`.
func (l *Lab) AgentMetrics(ctx context.Context, node int) (map[string]float64, error) {
	body, err := l.network.nodes[node].Get(ctx, "http://"+AgentMetricsAddress+"/metrics")
	if err != nil {
		return nil, err
	}
	return ParseMetrics(body)
}

// ParseMetrics parses what an agent serves: values by name, with labels where there are
// any, as in `name{label="value"}`.
func ParseMetrics(body []byte) (map[string]float64, error) {
	metrics := map[string]float64{}
	for line := range strings.Lines(string(body)) {
		line = strings.TrimSpace(line)
		space := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || space < 0 {
			continue
		}
		value, err := strconv.ParseFloat(line[space+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("read an agent's metrics: %q: %w", line, err)
		}
		metrics[line[:space]] = value
	}
	return metrics, nil
}

// attached returns how many interfaces a node's agent is attached to.
func (l *Lab) attached(ctx context.Context, node int) (int, error) {
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

// ExportedSpans returns how many spans the running agents have delivered.
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

// Usage is the CPU time of parts of the lab since it came up, including that of
// processes that have ended.
type Usage struct {
	// Agents are all agents' processes, without their BPF programs: those run
	// where packets are processed, so in Mesh and elsewhere.
	Agents time.Duration
	// Jaeger stores the spans of Envoys and agents.
	Jaeger time.Duration
	// Mesh is applications and Envoys, and the packets that they send.
	Mesh time.Duration
}

// Minus returns the time since an earlier reading.
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

// AgentMemory returns the memory of the largest agent in bytes: resident now, and
// its peak. It is 0 without agents.
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

// Memory is the memory of an agent in bytes: of its process, resident now and at its peak, and
// of the BPF maps and programs that it has open, which is the kernel's.
type Memory struct {
	Resident uint64 `json:"resident"`
	Peak     uint64 `json:"peak"`
	BPF      uint64 `json:"bpf"`
}

// AgentsMemory returns the memory of the running agents by the name of their node.
func (r *Run) AgentsMemory() (map[string]Memory, error) {
	all := map[string]Memory{}
	for node, agent := range r.agents {
		process, err := sandbox.ReadMemory(agent.PID())
		if err != nil {
			return nil, fmt.Errorf("memory of the agent of %s: %w", NodeName(node), err)
		}
		kernel, err := sandbox.ReadBPFMemory(agent.PID())
		if err != nil {
			return nil, fmt.Errorf("memory of the agent of %s: %w", NodeName(node), err)
		}
		all[NodeName(node)] = Memory{Resident: process.Resident, Peak: process.Peak, BPF: kernel}
	}
	return all, nil
}

// Layertrace runs a layertrace command in Jaeger's network namespace and returns
// its standard output.
func (l *Lab) Layertrace(ctx context.Context, args ...string) ([]byte, error) {
	name := "layertrace " + args[0]
	out := filepath.Join(l.options.Dir, args[0]+".out")
	command, err := sandbox.Start(sandbox.Spec{
		Name: name, Path: l.options.Tools.Agent, Args: args,
		Namespace: l.network.infra, Cgroup: l.groups["infra"],
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
		return nil, fmt.Errorf("read the output of %s: %w", name, err)
	}
	return text, nil
}

// JaegerURL returns the URL of Jaeger's query API in the lab's network.
func JaegerURL() string { return fmt.Sprintf("http://%s:%d", InfraIP, JaegerQueryPort) }
