// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/layertrace/layertrace/agent/internal/iface"
	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/layertrace/layertrace/internal/observe"
)

// Probe is the kernel side as the agent needs it. It collects its own metrics.
type Probe interface {
	prometheus.Collector
	attacher
	// Ahead returns the programs of others that get an interface's packets first.
	Ahead(ifindex int) ([]probe.Foreign, error)
	// Run reads until the context is done, then flushes. take gets the observations from
	// one goroutine, in slices that are valid during the call only.
	Run(ctx context.Context, take func([]observe.Observation)) error
	// IsCrowded reports whether so much waits to be read that other work should.
	IsCrowded() bool
	// Limit sets what the programs leave out, to keep within --cpu-limit.
	Limit(probe.Limits) error
	// RunTime returns for how long the programs have run while the kernel measured them.
	RunTime() (time.Duration, error)
	// Close removes everything from the kernel.
	Close() error
}

// attacher starts and ends the capture at an interface. Attach works before and during
// Run.
type attacher interface {
	Attach(ifindex int) error
	Detach(ifindex int) error
}

// hostFilter leaves out packets for other hosts at interfaces that do not pass them on.
type hostFilter interface {
	PassesOn(ifindex int, passesOn bool) error
}

// retryInterval is the time between two attempts to attach after a failure.
const retryInterval = 5 * time.Second

// capture keeps the probe attached to the selected interfaces.
type capture struct {
	probe   attacher
	points  *registry
	log     *slog.Logger
	metrics captureMetrics

	mu       sync.Mutex // guards the rest, which only follow writes
	attached map[int]iface.Interface
	pending  map[int]iface.Interface // attaching failed
	listed   bool                    // the interfaces present at the start were handled
}

type captureMetrics struct {
	interfaces *prometheus.GaugeVec // by kind
	unattached prometheus.Gauge
	failures   prometheus.Counter
}

func newCaptureMetrics(r prometheus.Registerer) captureMetrics {
	with := promauto.With(r)
	return captureMetrics{
		interfaces: with.NewGaugeVec(prometheus.GaugeOpts{
			Name: "layertrace_interfaces",
			Help: "Interfaces at which exchanges are captured.",
		}, []string{"kind"}),
		unattached: with.NewGauge(prometheus.GaugeOpts{
			Name: "layertrace_interfaces_unattached",
			Help: "Selected interfaces that could not be attached to.",
		}),
		failures: with.NewCounter(prometheus.CounterOpts{
			Name: "layertrace_attach_failures_total",
			Help: "Failed attempts to attach to an interface.",
		}),
	}
}

func newCapture(probe attacher, points *registry, log *slog.Logger, metrics captureMetrics) *capture {
	c := &capture{
		probe: probe, points: points, log: log, metrics: metrics,
		attached: map[int]iface.Interface{}, pending: map[int]iface.Interface{},
	}
	c.count()
	return c
}

// follow attaches and detaches as interfaces come and go, until events is closed.
// listed is closed after the last event about an interface present at the start.
func (c *capture) follow(events <-chan iface.Event, listed <-chan struct{}) {
	retry := time.NewTicker(retryInterval)
	defer retry.Stop()
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return
			}
			c.handle(e)
		case <-listed:
			listed = nil // closed: once is enough
			c.setListed()
		case <-retry.C:
			for _, i := range c.pendingNow() {
				c.attach(i)
			}
		}
	}
}

func (c *capture) setListed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listed = true
	if len(c.attached) == 0 {
		c.log.Warn("capturing at no interface: none of those present matches --vnic or --pnic, or attaching failed; " +
			"list them with ip -d link, and select them by name or kind")
	}
}

func (c *capture) handle(e iface.Event) {
	switch e.Change {
	case iface.Added:
		c.points.add(e.Interface) // before the first exchange can arrive
		c.attach(e.Interface)
	case iface.Renamed:
		c.log.Info("interface renamed, or moved to a bridge or out of one", "interface", e.Interface.Name, "index", e.Interface.Index)
		c.points.add(e.Interface)
		c.rename(e.Interface)
		c.filterHosts(e.Interface)
	case iface.Removed:
		c.detach(e.Interface)
		c.points.remove(e.Interface.Index)
	}
}

// filterHosts tells the probe whether an interface passes on packets for others. Without,
// all packets count.
func (c *capture) filterHosts(i iface.Interface) {
	f, ok := c.probe.(hostFilter)
	if !ok {
		return
	}
	if err := f.PassesOn(i.Index, i.PassesOn); err != nil {
		c.log.Warn("packets for other hosts are captured too", "interface", i.Name, "error", err)
	}
}

func (c *capture) attach(i iface.Interface) {
	err := c.probe.Attach(i.Index)
	if err == nil {
		c.filterHosts(i)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.count()
	if err == nil {
		delete(c.pending, i.Index)
		c.attached[i.Index] = i
		c.log.Info("attached", "interface", i.Name, "index", i.Index, "link_kind", i.LinkKind, "kind", i.Kind)
		return
	}
	c.metrics.failures.Inc()
	if _, again := c.pending[i.Index]; !again {
		c.log.Warn("cannot attach; retrying until the interface is removed", "interface", i.Name, "index", i.Index, "error", err)
	}
	c.pending[i.Index] = i
}

func (c *capture) detach(i iface.Interface) {
	c.mu.Lock()
	_, was := c.attached[i.Index]
	delete(c.attached, i.Index)
	delete(c.pending, i.Index)
	c.count()
	c.mu.Unlock()
	if !was {
		return
	}
	// The kernel has already detached from an interface that was deleted.
	if err := c.probe.Detach(i.Index); err != nil {
		c.log.Debug("detach", "interface", i.Name, "index", i.Index, "error", err)
	}
	c.log.Info("detached", "interface", i.Name, "index", i.Index, "kind", i.Kind)
}

func (c *capture) rename(i iface.Interface) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, set := range []map[int]iface.Interface{c.attached, c.pending} {
		if _, ok := set[i.Index]; ok {
			set[i.Index] = i
		}
	}
}

func (c *capture) pendingNow() []iface.Interface {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.pending))
}

func (c *capture) attachedNow() []iface.Interface {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.attached))
}

// count updates the gauges. The caller holds the lock.
func (c *capture) count() {
	kinds := map[observe.Kind]int{observe.KindVNIC: 0, observe.KindPNIC: 0}
	for _, i := range c.attached {
		kinds[i.Kind]++
	}
	for kind, n := range kinds {
		c.metrics.interfaces.WithLabelValues(string(kind)).Set(float64(n))
	}
	c.metrics.unattached.Set(float64(len(c.pending)))
}

// ready returns nil while the agent runs and is attached to at least one interface,
// provided that it has handled all interfaces present at the start.
func (c *capture) ready(running context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case running.Err() != nil:
		return errors.New("stopping")
	case !c.listed:
		return errors.New("attaching to the present interfaces")
	case len(c.attached) == 0:
		return errors.New("attached to no interface: none matches --vnic or --pnic, or attaching failed (see the log)")
	default:
		return nil
	}
}
