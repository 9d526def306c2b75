// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"

	"sigs.k8s.io/yaml"

	"github.com/layertrace/layertrace/e2e/lab/jaeger"
	"github.com/layertrace/layertrace/e2e/lab/process"
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
		"--otlp-endpoint", fmt.Sprintf("%s:%d", InfraIP, jaeger.OTLPPort), "--otlp-insecure",
		"--queue-size", "65536",
		"--metrics-address", AgentMetricsAddress,
	}
	if r.setup.TCPOption != "" {
		args = append(args, "--tcp-option", r.setup.TCPOption, "--tcp-option-cgroup", r.lab.NodeGroup(node).Path)
	}
	agent, err := process.Start(process.Spec{
		Name: "agent of " + name, Path: r.lab.options.Tools.Agent, Args: slices.Concat(args, r.setup.AgentFlags, r.setup.NodeFlags[node]),
		Space: r.lab.network.nodes[node], Cgroup: r.lab.groups["agent-"+name], ClockOffset: r.setup.ClockOffset[node],
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
func (r *Run) Agent(node int) *process.Process { return r.agents[node] }

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
