// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

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
	// Collector collects the probe's counters.
	prometheus.Collector
	// Close takes everything out of the kernel.
	Close() error
}
