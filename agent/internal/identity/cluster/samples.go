// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"time"

	"github.com/layertrace/layertrace/agent/internal/status"
)

// Samples are the source's metrics.
func (s *Source) Samples() ([]status.Sample, error) {
	local, remote, nodes := s.index.count()
	gauge := func(name, help string, v float64, label ...string) status.Sample {
		sample := status.Sample{Name: name, Help: help, Gauge: true, Value: v}
		if len(label) == 2 {
			sample.Label, sample.LabelValue = label[0], label[1]
		}
		return sample
	}
	const podsHelp = "Pods that are known."
	samples := []status.Sample{
		gauge("identity_pods", podsHelp, float64(local), "where", "here"),
		gauge("identity_pods", podsHelp, float64(remote), "where", "elsewhere"),
		gauge("identity_nodes", "Nodes whose addresses are known.", float64(nodes)),
		gauge("identity_synced", "1 when the cluster's pods have been read once.", flag(s.synced())),
		gauge("identity_api_away_seconds", "How long the API server has not answered, 0 when it does.", s.away().Seconds()),
		{Name: "identity_api_failures", Help: "Requests to the API server that failed.", Value: float64(s.apiFailures())},
		{Name: "identity_netlink_failures", Help: "Looks behind interfaces that failed.", Value: float64(s.links.failures.Load())},
		{Name: "identity_by_traffic", Help: "Times that an interface's pod was told by the address in the packets alone.", Value: float64(s.links.byTraffic.Load())},
	}
	const interfacesHelp = "Virtual interfaces that are there, by how their pod was found."
	for by, n := range s.links.count() {
		samples = append(samples, gauge("identity_interfaces", interfacesHelp, float64(n), "by", by))
	}
	return samples, nil
}

// count returns the number of interfaces by finder; unknown: no pod was found.
func (l *links) count() map[string]int {
	counts := map[string]int{"unknown": 0, ambiguous: 0}
	for _, f := range l.finders {
		counts[f.Name] = 0
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, k := range l.known {
		switch {
		case k.gone:
		case k.by == "":
			counts["unknown"]++
		default:
			counts[k.by]++
		}
	}
	return counts
}

func (s *Source) away() (longest time.Duration) {
	for _, c := range []*contact{&s.here, &s.others} {
		if since, _, _ := c.trouble(); !since.IsZero() {
			longest = max(longest, time.Since(since))
		}
	}
	return longest
}

func (s *Source) apiFailures() (n uint64) {
	for _, c := range []*contact{&s.here, &s.others} {
		_, failures, _ := c.trouble()
		n += failures
	}
	return n
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
