// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/export"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/internal/observe"
)

// purgeInterval is the time between two looks for capture points that went.
const purgeInterval = 30 * time.Second

// delivery passes exchanges on: as spans, as lines, or not at all.
type delivery struct {
	queue   *export.Queue // nil: no spans
	emitter *span.Emitter // nil: no spans
	lines   *export.Lines // nil: no lines
	layers  *layers       // nil: no layers
	names   naming
	hold    hold
	warn    func(error)

	vnic, pnic, socket, stray, unnamed, invalid atomic.Uint64
}

func newDelivery(ctx context.Context, opts Options, names naming, clock *span.Clock) (*delivery, error) {
	cfg := opts.Config
	d := &delivery{names: names, warn: func(err error) { opts.Log.Warn("lost an exchange", "error", err) }}
	if cfg.Exports(config.ExportStdout) {
		d.lines = export.NewLines(opts.Stdout)
	}
	if !cfg.Exports(config.ExportOTLPGRPC) && !cfg.Exports(config.ExportOTLPHTTP) {
		return d, nil
	}
	headers := map[string]string{}
	for _, h := range cfg.OTLPHeaders {
		headers[h.Key] = h.Value
	}
	exporter, err := export.NewOTLP(ctx, export.OTLPOptions{
		HTTP: cfg.Exports(config.ExportOTLPHTTP), Endpoint: cfg.OTLPEndpoint,
		Insecure: cfg.OTLPInsecure, Headers: headers, Log: opts.Log,
	})
	if err != nil {
		return nil, err
	}
	d.queue = export.NewQueue(exporter, cfg.QueueSize, opts.Log)
	d.emitter = span.NewEmitter(span.Options{
		Processor: d.queue, Offset: clock.Offset, Version: opts.Version,
	})
	return d, nil
}

// run handles exchanges until their channel is closed.
func (d *delivery) run(exchanges <-chan observe.Observation, table *table) error {
	d.hold.unsettled = table.unsettled
	ticker, waited := time.NewTicker(purgeInterval), time.NewTicker(holdInterval)
	defer ticker.Stop()
	defer waited.Stop()
	handle := func(x *observe.Observation) { d.handle(x, table) }
	for {
		select {
		case x, ok := <-exchanges:
			if !ok {
				d.hold.releaseAll(handle)
				if d.layers != nil {
					d.layers.buffer.Close()
				}
				return nil
			}
			if !d.hold.keep(&x, time.Now()) {
				d.handle(&x, table)
			}
		case now := <-waited.C:
			d.hold.release(now, handle)
			if d.layers != nil {
				d.layers.buffer.Flush(now)
			}
		case now := <-ticker.C:
			for _, id := range table.purge(now) {
				if d.emitter != nil {
					d.emitter.Forget(id)
				}
			}
		}
	}
}

func (d *delivery) handle(x *observe.Observation, table *table) {
	if !table.resolve(x) {
		d.stray.Add(1)
		return
	}
	d.count(x.Point)
	if d.emitter != nil || d.layers != nil {
		x.Peers = d.names.peers(x)
	}
	if d.lines != nil {
		if err := d.lines.Write(x); err != nil {
			d.warn(err)
		}
	}
	if d.emitter != nil && !d.emitter.Emit(x) {
		d.invalid.Add(1)
	}
	if d.layers != nil {
		d.layers.add(x)
	}
}

func (d *delivery) count(p *observe.Point) {
	switch p.Kind {
	case observe.KindPNIC:
		d.pnic.Add(1)
		return
	case observe.KindVNIC:
		d.vnic.Add(1)
	case observe.KindSocket:
		d.socket.Add(1)
	}
	if p.Workload.Service == "" {
		d.unnamed.Add(1)
	}
}

// close sends what is queued.
func (d *delivery) close(ctx context.Context) error {
	if d.queue == nil {
		return nil
	}
	return d.queue.Close(ctx)
}
