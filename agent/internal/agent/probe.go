// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"github.com/layertrace/layertrace/agent/internal/status"
	"github.com/layertrace/layertrace/internal/observe"
)

// Probe is the kernel side as the agent needs it.
type Probe interface {
	// Attach and Detach start and end the capture at an interface. Attach
	// works once Run does or before.
	Attach(ifindex int) error
	Detach(ifindex int) error
	// Run reads until the context is done, then flushes and closes Observations.
	Run(context.Context) error
	Observations() <-chan observe.Observation
	// Counters are monotonic.
	Counters() ([]Counter, error)
	// Close takes everything out of the kernel.
	Close() error
}

// Counter is one of the probe's counters.
type Counter struct {
	Name, Help string
	Value      uint64
}

func probeSource(p Probe) status.Source {
	return func() ([]status.Sample, error) {
		counters, err := p.Counters()
		if err != nil {
			return nil, err
		}
		samples := make([]status.Sample, 0, len(counters))
		for _, c := range counters {
			samples = append(samples, status.Sample{Name: c.Name, Help: c.Help, Value: float64(c.Value)})
		}
		return samples, nil
	}
}
