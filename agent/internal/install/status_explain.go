// SPDX-License-Identifier: Apache-2.0

package install

import (
	"fmt"
	"slices"
)

// lowShare is the share of contexts in the first bytes from which on all is well.
const lowShare = 0.99

// explain says what does not work, and what to do about it.
func (s *Status) explain() []string {
	if !s.Installed {
		return []string{ErrNotInstalled.Error() + "; see layertrace install --help"}
	}
	if len(s.Agents) == 0 {
		return []string{"the DaemonSet has no pods: no node fits its selector, or there is none"}
	}
	var problems []string
	for _, a := range s.Agents {
		problems = append(problems, a.explain(s.Reorder)...)
	}
	traced := slices.ContainsFunc(s.Workloads, func(w Workload) bool { return w.Tracing.On })
	if len(s.Workloads) > 0 && !traced {
		problems = append(problems, "no workload traces: install with --tracing-provider, or make a Telemetry resource")
	}
	if len(s.Workloads) == 0 {
		problems = append(problems, "no pod has a sidecar: label a namespace with istio-injection=enabled and restart its workloads")
	}
	return problems
}

func (a Agent) explain(reorder string) []string {
	var problems []string
	add := func(format string, args ...any) {
		problems = append(problems, fmt.Sprintf("agent on %s: ", a.Node)+fmt.Sprintf(format, args...))
	}
	if a.Problem != "" {
		add("%s", a.Problem)
	}
	if !a.Ready {
		if a.Problem == "" {
			add("it is not ready; see kubectl logs -n %s", a.Pod)
		}
		return problems
	}
	share, told := a.Share()
	switch {
	case a.Problem != "":
	case a.Requests == 0:
		add("it saw no HTTP/1 request: there was no traffic, or it is encrypted (mutual TLS) or HTTP/2")
	case !told:
		add("none of %.0f requests had a trace context: tracing is off, or they come from outside the mesh", a.Requests)
	case share < lowShare && reorder == ReorderNone:
		add("%.1f %% of the contexts are in the first bytes: choose a --reorder other than none, or set deep: true in the agents' configuration", 100*share)
	case share < lowShare:
		add("%.1f %% of the contexts are in the first bytes: proxies that started before --reorder %s was installed count too (--window 30s counts from now on); see the workloads", 100*share, reorder)
	}
	if a.SpansLost > 0 {
		add("%.0f spans were lost: the receiver is slow, away or refuses them; see kubectl logs -n %s", a.SpansLost, a.Pod)
	}
	return problems
}
