// SPDX-License-Identifier: Apache-2.0

// Package clusterstatus reports the health of an installation in a cluster: its
// agents, the workloads of the mesh, and problems with their causes.
package clusterstatus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/layertrace/layertrace/agent/internal/install"
)

// Status is the health of an installation.
type Status struct {
	// Installed reports whether there is a DaemonSet.
	Installed bool `json:"installed"`
	// Reorder is the installed reordering method, one of install.Reorders.
	Reorder string `json:"reorder"`
	// Istio is its version, "" if unknown.
	Istio string `json:"istio,omitempty"`
	// Findings of the preflight checks that still apply.
	Findings []install.Finding `json:"findings"`
	// Agents by node name.
	Agents []Agent `json:"agents"`
	// Workloads whose pods have a sidecar or should have one.
	Workloads []Workload `json:"workloads"`
	// Problems, each with its cause and what to do.
	Problems []string `json:"problems"`
}

// Options of Collect.
type Options struct {
	IstioNamespace string
	// Window is the time for which traffic is counted; 0: since each agent started.
	Window time.Duration
}

// ErrNotInstalled means that the cluster has no agents.
var ErrNotInstalled = errors.New("layertrace is not installed: no DaemonSet has the label app.kubernetes.io/name=layertrace")

// Collect reads the status of an installation. It changes nothing.
func Collect(ctx context.Context, c *install.Cluster, o Options) (*Status, error) {
	mesh, err := c.ReadMesh(ctx, o.IstioNamespace)
	if err != nil {
		return nil, err
	}
	s := &Status{Istio: mesh.Version}
	if s.Reorder, err = c.InstalledReorder(ctx, o.IstioNamespace); err != nil {
		return nil, err
	}
	installed := install.Options{Reorder: s.Reorder, IstioNamespace: o.IstioNamespace}
	if s.Findings, err = c.CheckInstalled(ctx, &installed, mesh); err != nil {
		return nil, err
	}
	if s.Installed, s.Agents, err = readAgents(ctx, c, o.Window); err != nil {
		return nil, err
	}
	if s.Workloads, err = readWorkloads(ctx, c, o, mesh, s); err != nil {
		return nil, err
	}
	s.Problems = s.findProblems()
	return s, nil
}

// Healthy reports whether agents are installed and all of them are ready.
func (s *Status) Healthy() bool {
	for _, a := range s.Agents {
		if !a.Ready {
			return false
		}
	}
	return s.Installed && len(s.Agents) > 0
}

// sufficientShare is the share of contexts in the prefix window below which an
// agent has a problem.
const sufficientShare = 0.99

// findProblems returns what does not work, with its cause and what to do. It is
// never nil, as JSON readers expect a list.
func (s *Status) findProblems() []string {
	problems := []string{}
	if !s.Installed {
		return append(problems, ErrNotInstalled.Error()+"; see layertrace install --help")
	}
	if len(s.Agents) == 0 {
		return append(problems, "the DaemonSet has no pods: no node matches its selector, or the cluster has no nodes")
	}
	for _, a := range s.Agents {
		problems = append(problems, a.findProblems(s.Reorder)...)
		problems = append(problems, a.findBlocked()...)
	}
	traced := slices.ContainsFunc(s.Workloads, func(w Workload) bool { return w.Tracing.On })
	if len(s.Workloads) > 0 && !traced {
		problems = append(problems, "no workload is traced: install with --tracing-provider, or create a Telemetry resource")
	}
	if len(s.Workloads) == 0 {
		problems = append(problems, "no pod has a sidecar: label a namespace with istio-injection=enabled and restart its workloads")
	}
	return problems
}

func (a Agent) findProblems(reorder string) []string {
	var problems []string
	add := func(format string, args ...any) {
		problems = append(problems, fmt.Sprintf("agent on %s: ", a.Node)+fmt.Sprintf(format, args...))
	}
	if a.Problem != "" {
		add("%s", a.Problem)
	}
	if !a.Ready {
		if a.Problem == "" {
			add("not ready; see kubectl logs -n %s", a.Pod)
		}
		return problems
	}
	share, known := a.Share()
	switch {
	case a.Problem != "":
	case a.Requests == 0 && len(a.Unseen) > 0:
		add("it saw no HTTP/1 requests, but %s", a.Unseen[0])
	case a.Requests == 0:
		add("it saw no HTTP/1 requests: there was no traffic, or it is encrypted (mutual TLS) or HTTP/2")
	case !known:
		add("none of %.0f requests had a trace context: tracing is off, or they come from outside the mesh", a.Requests)
	case share < sufficientShare && reorder == install.ReorderNone:
		add("only %.1f %% of the contexts are in the prefix window: choose a --reorder other than none, or set deep: true in the agents' configuration", 100*share)
	case share < sufficientShare:
		add("only %.1f %% of the contexts are in the prefix window: this includes requests from before --reorder %s was installed (--window 30s counts from now on); see the workloads", 100*share, reorder)
	}
	if a.SpansLost > 0 {
		add("%.0f spans were lost: the receiver is slow, unreachable or refuses them; see kubectl logs -n %s", a.SpansLost, a.Pod)
	}
	return problems
}

// findBlocked returns the interfaces at which programs of others or a CNI may keep
// packets from the agent.
func (a Agent) findBlocked() (problems []string) {
	for _, s := range a.Unseen {
		if s.IsBlocked() {
			problems = append(problems, fmt.Sprintf("agent on %s: %s: %s", a.Node, s, s.Advice))
		}
	}
	return problems
}
