// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/layertrace/layertrace/agent/internal/clock"
	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/export"
	"github.com/layertrace/layertrace/agent/internal/layer"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/internal/exchange"
)

// purgeInterval is the time between two looks for capture points that went.
const purgeInterval = 30 * time.Second

// delivery passes exchanges on: as spans, as lines, or not at all.
type delivery struct {
	queue   *export.Queue // nil: no spans
	emitter *span.Emitter // nil: no spans
	lines   *export.Lines // nil: no lines
	layers  *layers       // nil: no layers
	hold    hold
	warn    func(error)

	vnic, pnic, socket, stray, unnamed, invalid atomic.Uint64
}

func newDelivery(ctx context.Context, opts Options, names naming, kernelClock *clock.Clock) (*delivery, error) {
	cfg := opts.Config
	d := &delivery{warn: func(err error) { opts.Log.Warn("lost an exchange", "error", err) }}
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
		Processor: d.queue, Clock: kernelClock, Peers: names, Version: opts.Version,
	})
	return d, nil
}

// run handles exchanges until their channel is closed.
func (d *delivery) run(exchanges <-chan exchange.Exchange, table *table) error {
	d.hold.unsettled = table.unsettled
	ticker, waited := time.NewTicker(purgeInterval), time.NewTicker(holdInterval)
	defer ticker.Stop()
	defer waited.Stop()
	handle := func(x *exchange.Exchange) { d.handle(x, table) }
	for {
		select {
		case x, ok := <-exchanges:
			if !ok {
				d.hold.releaseAll(handle)
				if d.layers != nil {
					d.layers.gather.Close()
				}
				return nil
			}
			if !d.hold.keep(&x, time.Now()) {
				d.handle(&x, table)
			}
		case now := <-waited.C:
			d.hold.release(now, handle)
			if d.layers != nil {
				d.layers.gather.Flush(now)
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

func (d *delivery) handle(x *exchange.Exchange, table *table) {
	point, known := table.point(x)
	if !known {
		d.stray.Add(1)
		return
	}
	d.count(&point)
	if d.lines != nil {
		if err := d.lines.Write(&point, x); err != nil {
			d.warn(err)
		}
	}
	if d.emitter != nil && !d.emitter.Emit(&point, x) {
		d.invalid.Add(1)
	}
	if d.layers != nil {
		d.layers.add(&point, x)
	}
}

func (d *delivery) count(p *span.Point) {
	switch p.Kind() {
	case layer.PNIC:
		d.pnic.Add(1)
		return
	case layer.VNIC:
		d.vnic.Add(1)
	case layer.Socket:
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
