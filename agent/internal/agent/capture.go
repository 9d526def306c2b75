// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/layertrace/layertrace/agent/internal/iface"
	"github.com/layertrace/layertrace/agent/internal/status"
	"github.com/layertrace/layertrace/internal/observe"
)

// retryInterval is the time between two attempts to attach where it failed.
const retryInterval = 5 * time.Second

// capture keeps the probe attached to the selected interfaces.
type capture struct {
	probe Probe
	table *table
	log   *slog.Logger

	mu       sync.Mutex // guards what follows; written by follow alone
	attached map[int]iface.Interface
	pending  map[int]iface.Interface // attaching failed
	failures uint64
	listed   bool // what was there at the start has been handled
}

func newCapture(probe Probe, table *table, log *slog.Logger) *capture {
	return &capture{
		probe: probe, table: table, log: log,
		attached: map[int]iface.Interface{}, pending: map[int]iface.Interface{},
	}
}

// follow attaches and detaches as interfaces come and go, until events ends.
// listed is closed behind the last event about what was there at the start.
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
}

func (c *capture) handle(e iface.Event) {
	switch e.Change {
	case iface.Added:
		c.table.put(e.Interface) // before the first exchange can come
		c.attach(e.Interface)
	case iface.Renamed:
		c.log.Info("interface has a new name", "interface", e.Interface.Name, "index", e.Interface.Index)
		c.table.put(e.Interface)
		c.rename(e.Interface)
	case iface.Removed:
		c.detach(e.Interface)
		c.table.leave(e.Interface.Index)
	}
}

func (c *capture) attach(i iface.Interface) {
	err := c.probe.Attach(i.Index)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		delete(c.pending, i.Index)
		c.attached[i.Index] = i
		c.log.Info("attached", "interface", i.Name, "index", i.Index, "link_kind", i.LinkKind, "kind", i.Kind)
		return
	}
	c.failures++
	if _, again := c.pending[i.Index]; !again {
		c.log.Warn("cannot attach; trying again until the interface goes", "interface", i.Name, "index", i.Index, "error", err)
	}
	c.pending[i.Index] = i
}

func (c *capture) detach(i iface.Interface) {
	c.mu.Lock()
	_, was := c.attached[i.Index]
	delete(c.attached, i.Index)
	delete(c.pending, i.Index)
	c.mu.Unlock()
	if !was {
		return
	}
	// The kernel detaches by itself from an interface that is gone.
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
	var all []iface.Interface
	for _, i := range c.pending {
		all = append(all, i)
	}
	return all
}

// ready returns nil while the agent runs and watches at least one interface,
// and from the start on all that were there then.
func (c *capture) ready(running context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case running.Err() != nil:
		return errors.New("stopping")
	case !c.listed:
		return errors.New("attaching to the interfaces that are there")
	case len(c.attached) == 0:
		return errors.New("attached to no interface: none matches --vnic or --pnic, or attaching failed (see the log)")
	default:
		return nil
	}
}

func (c *capture) samples() ([]status.Sample, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := map[observe.Kind]int{}
	for _, i := range c.attached {
		count[i.Kind]++
	}
	samples := []status.Sample{
		{Name: "attach_failures", Help: "Attempts to attach to an interface that failed.", Value: float64(c.failures)},
		{Name: "interfaces_unattached", Help: "Selected interfaces that could not be attached to.", Gauge: true, Value: float64(len(c.pending))},
	}
	for _, kind := range []observe.Kind{observe.KindVNIC, observe.KindPNIC} {
		samples = append(samples, status.Sample{
			Name: "interfaces", Help: "Interfaces that are watched.", Gauge: true, Value: float64(count[kind]),
			Label: "kind", LabelValue: string(kind),
		})
	}
	return samples, nil
}
