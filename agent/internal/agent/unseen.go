// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/layertrace/layertrace/agent/internal/unseen"
)

// unseenInterval is the time between two lines about what was not read.
const unseenInterval = time.Minute

// maxProgramsAhead bounds the series of the metric.
const maxProgramsAhead = 256

// unseenWatch says what passes by unread: once a minute in the log, if there was
// something since the last time, and which programs stand before ours, as a metric.
type unseenWatch struct {
	metrics prometheus.Gatherer
	ahead   *prometheus.GaugeVec
	probe   Probe
	capture *capture
	log     *slog.Logger
	before  []unseen.Sight
	looked  time.Time
	listed  map[[3]string]bool // the labels in ahead
}

func newAheadMetric(r prometheus.Registerer) *prometheus.GaugeVec {
	return promauto.With(r).NewGaugeVec(prometheus.GaugeOpts{
		Name: unseen.ProgramsMetric,
		Help: "1 for each BPF program of others that gets the packets of a captured interface before layertrace, by interface, hook and name: packets that it redirects, or after which it ends the chain, are not seen.",
	}, []string{"interface", "hook", "program"})
}

func newUnseenWatch(p Probe, c *capture, metrics *prometheus.Registry, log *slog.Logger) *unseenWatch {
	return &unseenWatch{metrics: metrics, ahead: newAheadMetric(metrics), probe: p, capture: c, log: log, looked: time.Now()}
}

// run looks soon after the start and then every minute, until ctx is done.
func (w *unseenWatch) run(ctx context.Context) {
	next := time.NewTimer(retryInterval)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
			w.look()
			next.Reset(unseenInterval)
		}
	}
}

// look brings the metric up to date and logs a line if something was not read since
// the last look. A program ahead is logged when it is new.
func (w *unseenWatch) look() {
	w.findPrograms()
	families, err := w.metrics.Gather()
	if err != nil {
		w.log.Debug("cannot read the own metrics", "error", err)
		return
	}
	now, seconds := unseen.Of(families), time.Since(w.looked).Round(time.Second)
	added := slices.DeleteFunc(unseen.Since(w.before, now), func(s unseen.Sight) bool {
		return s.IsProgram() && !unseen.IsNew(w.before, s)
	})
	w.before, w.looked = now, time.Now()
	if len(added) > 0 {
		w.log.Info("traffic that layertrace does not read", "within", seconds, "seen", strings.Join(unseen.Lines(added), "; "))
	}
}

// findPrograms sets the metric of the programs of others at the captured interfaces.
func (w *unseenWatch) findPrograms() {
	present := map[[3]string]bool{}
	for _, i := range w.capture.attachedNow() {
		programs, err := w.probe.Ahead(i.Index)
		if err != nil { // the interface may be gone by now
			w.log.Debug("cannot list the programs of others", "interface", i.Name, "error", err)
		}
		for _, p := range programs {
			if len(present) < maxProgramsAhead {
				present[[3]string{i.Name, p.Hook, p.Program}] = true
			}
		}
	}
	for labels := range present {
		w.ahead.WithLabelValues(labels[:]...).Set(1)
	}
	for labels := range w.listed {
		if !present[labels] {
			w.ahead.DeleteLabelValues(labels[:]...)
		}
	}
	w.listed = present
}
