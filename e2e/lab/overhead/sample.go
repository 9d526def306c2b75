// SPDX-License-Identifier: Apache-2.0

package overhead

import (
	"context"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/lab/traffic"
)

const (
	// leadIn is how long a load runs before it counts.
	leadIn = time.Second
	// settling is the same when the agents have just begun or ended: what they read
	// they keep for five seconds, until a trace is complete, and then send; at the
	// end they send all at once, and Jaeger has to store it.
	settling = 8 * time.Second
)

// Sample is what one load showed.
type Sample struct {
	Requests  int
	PerSecond float64
	// P50 and P99 are latencies, counted from when a request should have begun.
	P50, P99 time.Duration
	// Usage is the CPU time taken while the load ran.
	Usage lab.Usage
	// Spans are those that the agents delivered while the load ran.
	Spans int
	// Resident and Peak are the memory of the largest agent, in bytes.
	Resident, Peak uint64
}

// sample sends the load of a case. What the agents and Envoys have put off in
// the lead-in falls into the sample, as what they put off in it falls behind.
func (m *meter) sample(ctx context.Context, c Case) (s Sample, err error) {
	rate := c.Rate
	if rate == 0 {
		rate = m.limit
	}
	load := traffic.Load{Rate: c.Rate, Connections: c.Connections}
	lead := leadIn
	if m.fresh {
		lead, m.fresh = settling, false
	}
	load.Requests = max(1, int(rate*lead.Seconds()))
	if _, err := m.lab.Send(ctx, load); err != nil {
		return s, err
	}
	spansBefore, err := m.run.ExportedSpans(ctx)
	if err != nil {
		return s, err
	}
	before, err := m.lab.Usage()
	if err != nil {
		return s, err
	}
	load.Requests = max(1, int(rate*m.Duration.Seconds()))
	result, err := m.lab.Send(ctx, load)
	if err != nil {
		return s, err
	}
	after, err := m.lab.Usage()
	if err != nil {
		return s, err
	}
	spansAfter, err := m.run.ExportedSpans(ctx)
	if err != nil {
		return s, err
	}
	s = Sample{
		Requests: load.Requests, PerSecond: result.PerSecond(),
		P50: result.Quantile(0.5), P99: result.Quantile(0.99), Usage: after.Minus(before),
		Spans: spansAfter - spansBefore,
	}
	s.Resident, s.Peak, err = m.run.AgentMemory()
	return s, err
}
