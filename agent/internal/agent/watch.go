// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/span"
)

// Watch is what someone who looks at an agent in the same process gets (layertrace try). It
// needs Config.Watched and --spans=layers.
type Watch struct {
	// Trace gets each trace when it was split. It runs on the goroutine that splits: it must
	// not wait, nor keep what the tree points to.
	Trace func(Trace)
	// Metrics gets the agent's metrics every watchInterval, and at the end once more, when all
	// exchanges have come.
	Metrics func([]*dto.MetricFamily)
}

// Trace is what this node saw of a trace, split into layers.
type Trace struct {
	Tree *breakdown.Tree
	// Cut: some observations were left out, so that what seems to be a hop's own time may be
	// another hop's.
	Cut bool
	// Again: others of the trace were split before.
	Again bool
	// Wall returns the wall time of one of this node's times.
	Wall func(monotonic uint64) time.Time
}

// watchInterval is the time between two looks at the metrics.
const watchInterval = 250 * time.Millisecond

// run passes the metrics on until ctx is done.
func (w *Watch) run(ctx context.Context, metrics prometheus.Gatherer) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.look(metrics)
		}
	}
}

// look passes the metrics on. Those that cannot be read are missing: the view keeps the values
// of before.
func (w *Watch) look(metrics prometheus.Gatherer) {
	families, _ := metrics.Gather()
	w.Metrics(families)
}

// last returns what passes the metrics on when it is closed.
func (w *Watch) last(metrics prometheus.Gatherer) closer {
	return func() error { w.look(metrics); return nil }
}

// closer is a function as an io.Closer.
type closer func() error

// Close implements io.Closer.
func (c closer) Close() error { return c() }

// showTo lets someone watch the traces that are split.
func (l *layers) showTo(w *Watch, offset func() span.ClockOffset) {
	if w != nil {
		l.show, l.offset = w.Trace, offset
	}
}
