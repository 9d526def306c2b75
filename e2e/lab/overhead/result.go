// SPDX-License-Identifier: Apache-2.0

package overhead

import (
	"slices"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/internal/stats"
)

// Result is a case and its measured pairs.
type Result struct {
	Case  Case
	Pairs []Pair
}

// Pair is a case measured without and with agents, one right after the other.
type Pair struct{ Off, On Sample }

// Summary is the median of each figure over the samples of a case.
type Summary struct {
	PerSecond float64
	P50, P99  time.Duration
	// AgentsCPU, JaegerCPU and MeshCPU are seconds per 1,000 requests.
	AgentsCPU, JaegerCPU, MeshCPU float64
	// Spans are those of the agents per request.
	Spans float64
	// Resident and Peak are the memory of the largest agent, in bytes.
	Resident, Peak uint64
}

// Summary returns the medians with or without agents.
func (r Result) Summary(on bool) Summary {
	var samples []Sample
	for _, pair := range r.Pairs {
		if on {
			samples = append(samples, pair.On)
		} else {
			samples = append(samples, pair.Off)
		}
	}
	return Summary{
		PerSecond: stats.MedianOf(samples, func(s Sample) float64 { return s.PerSecond }),
		P50:       stats.MedianOf(samples, func(s Sample) time.Duration { return s.P50 }),
		P99:       stats.MedianOf(samples, func(s Sample) time.Duration { return s.P99 }),
		AgentsCPU: stats.MedianOf(samples, perThousand(func(u lab.Usage) time.Duration { return u.Agents })),
		JaegerCPU: stats.MedianOf(samples, perThousand(func(u lab.Usage) time.Duration { return u.Jaeger })),
		MeshCPU:   stats.MedianOf(samples, perThousand(func(u lab.Usage) time.Duration { return u.Mesh })),
		Spans:     stats.MedianOf(samples, func(s Sample) float64 { return float64(s.Spans) / float64(s.Requests) }),
		Resident:  stats.MedianOf(samples, func(s Sample) uint64 { return s.Resident }),
		Peak:      stats.MedianOf(samples, func(s Sample) uint64 { return s.Peak }),
	}
}

// perThousand returns the seconds of CPU that a part took per 1,000 requests.
func perThousand(part func(lab.Usage) time.Duration) func(Sample) float64 {
	return func(s Sample) float64 { return part(s.Usage).Seconds() * 1000 / float64(s.Requests) }
}

// Ratio is a figure with agents divided by the same without, over the pairs.
type Ratio struct{ Lowest, Median, Highest float64 }

// Ratio compares a figure within each pair.
func (r Result) Ratio(figure func(Sample) float64) Ratio {
	ratios := make([]float64, len(r.Pairs))
	for i, pair := range r.Pairs {
		ratios[i] = figure(pair.On) / figure(pair.Off)
	}
	return Ratio{Lowest: slices.Min(ratios), Median: stats.Median(ratios), Highest: slices.Max(ratios)}
}

// Figures to compare.
var (
	PerSecond = func(s Sample) float64 { return s.PerSecond }
	P50       = func(s Sample) float64 { return s.P50.Seconds() }
	P99       = func(s Sample) float64 { return s.P99.Seconds() }
	MeshCPU   = perThousand(func(u lab.Usage) time.Duration { return u.Mesh })
)
