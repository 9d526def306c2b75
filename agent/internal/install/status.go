// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Status is how an installation does.
type Status struct {
	// Installed: there is a DaemonSet.
	Installed bool `json:"installed"`
	// Reorder is the way that the objects say, one of Reorders.
	Reorder string `json:"reorder"`
	// Istio is its version, "" when nothing tells it.
	Istio string `json:"istio,omitempty"`
	// Findings are those of the checks that install makes too.
	Findings []Finding `json:"findings"`
	// Agents, one for each node, by node name.
	Agents []Agent `json:"agents"`
	// Workloads with a sidecar, or in a namespace where they should have one.
	Workloads []Workload `json:"workloads"`
	// Problems say what does not work, and what to do.
	Problems []string `json:"problems"`
}

// StatusOptions say what is looked at.
type StatusOptions struct {
	IstioNamespace string
	// Window is how long traffic is counted; 0: since each agent began.
	Window time.Duration
}

// ErrNotInstalled says that there are no agents.
var ErrNotInstalled = errors.New("layertrace is not installed: there is no DaemonSet with the label app.kubernetes.io/name=layertrace")

// Healthy reports whether agents are installed and all of them are ready.
func (s *Status) Healthy() bool {
	for _, a := range s.Agents {
		if !a.Ready {
			return false
		}
	}
	return s.Installed && len(s.Agents) > 0
}

// Status looks at an installation, and changes nothing.
func (c *Cluster) Status(ctx context.Context, o StatusOptions) (*Status, error) {
	m, err := c.readIstio(ctx, o.IstioNamespace)
	if err != nil {
		return nil, fmt.Errorf("look at the cluster: %w", err)
	}
	s := &Status{Istio: m.version, Agents: []Agent{}, Workloads: []Workload{}, Problems: []string{}}
	if s.Reorder, err = c.programmed(ctx, o.IstioNamespace); err != nil {
		return nil, err
	}
	if s.Findings, err = c.look(ctx, o, m, s.Reorder); err != nil {
		return nil, err
	}
	if s.Installed, s.Agents, err = c.agents(ctx, o.Window); err != nil {
		return nil, err
	}
	if s.Workloads, err = c.workloads(ctx, o, m, s); err != nil {
		return nil, err
	}
	s.Problems = append(s.Problems, s.explain()...)
	return s, nil
}

// look makes those checks of install that also tell about what is installed.
func (c *Cluster) look(ctx context.Context, o StatusOptions, m *mesh, reorder string) ([]Finding, error) {
	options := Options{Reorder: reorder, IstioNamespace: o.IstioNamespace}
	var all []Finding
	for _, check := range checks {
		switch check.name {
		case "mtls", "upstream-filters", "nodes": // tracing is told for each workload
		case "istio":
			if m.version == "" {
				continue
			}
		default:
			continue
		}
		findings, err := check.look(ctx, c, &options, m)
		if err != nil {
			return nil, fmt.Errorf("look at the cluster (%s): %w", check.name, err)
		}
		for _, f := range findings {
			f.Check = check.name
			if f.Level == Refusal {
				f.Level = Warning
			}
			all = append(all, f)
		}
	}
	return all, nil
}

// pods returns the pods with a label selector, in all namespaces.
func (c *Cluster) pods(ctx context.Context, selector string) ([]*corev1.Pod, error) {
	return list[corev1.Pod](ctx, c, kindPod, "", metav1.ListOptions{LabelSelector: selector})
}
