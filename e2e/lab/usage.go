// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"time"

	"github.com/layertrace/layertrace/e2e/lab/process"
)

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
		memory, err := process.ReadMemory(agent.PID())
		if err != nil {
			return 0, 0, fmt.Errorf("memory of the agent of %s: %w", NodeName(node), err)
		}
		now, peak = max(now, memory.Resident), max(peak, memory.Peak)
	}
	return now, peak, nil
}
