// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/errgroup"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/export"
	"github.com/layertrace/layertrace/agent/internal/iface"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/internal/observe"
)

// Device is the kernel side of an agent on a device between nodes, which reads nothing but
// headers. It collects its own metrics.
type Device interface {
	prometheus.Collector
	attacher
	// Run reads until the context is done, then flushes and closes Sightings.
	Run(context.Context) error
	Sightings() <-chan observe.Sighting
	// Close removes everything from the kernel.
	Close() error
}

// RunDevice runs the agent of a device until ctx is done, like Run. It knows no names but
// its own, and sends sightings for `layertrace join`.
func RunDevice(ctx context.Context, opts Options, open func(*config.Config, *slog.Logger) (Device, error)) error {
	cfg, log := opts.Config, opts.Log
	selector := iface.Selector{PNIC: cfg.PNIC}
	if err := selector.CheckNames(); err != nil {
		return err
	}
	names, err := newResolver(opts)
	if err != nil {
		return err
	}
	clock, err := span.NewClock()
	if err != nil {
		return err
	}
	server, err := Listen(cfg.MetricsAddress)
	if err != nil {
		return err
	}
	defer server.closeAtExit()
	metrics := newMetrics(opts.Version)
	sender, err := newSightingSender(ctx, opts, clock, metrics)
	if err != nil {
		return err
	}
	device, err := open(cfg, log)
	if err != nil {
		return err
	}
	metrics.MustRegister(device)

	points := newRegistry(names, gracePeriod(cfg), cfg.SidecarUID)
	watcher := iface.NewWatcher(selector, log)
	capture := newCapture(device, points, log, newCaptureMetrics(metrics))
	group, running := errgroup.WithContext(ctx)
	isReady := func() (string, error) { return "", capture.ready(running) }
	newReady(metrics, isReady)
	server.Serve(metrics, isReady, log)

	group.Go(func() error { return clock.Run(running) })
	group.Go(func() error { return watcher.Run(running) })
	group.Go(func() error { capture.follow(watcher.Events(), watcher.Listed()); return nil })
	group.Go(func() error { return device.Run(running) })
	group.Go(func() error { sender.run(device.Sightings(), points); return nil })

	log.Info("layertrace watches headers only", "version", opts.Version, "device", names.node, "metrics", server.Address())
	<-running.Done()
	return stop(cfg.ShutdownTimeout, group, device, sender, log)
}

// sightingSender sends sightings.
type sightingSender struct {
	stdout  *json.Encoder // nil: off
	emitter *span.Emitter // nil: off
	queue   *export.Queue
	warn    func(error)

	sent, unknownInterface prometheus.Counter
}

func newSightingSender(ctx context.Context, opts Options, clock *span.Clock, r prometheus.Registerer) (*sightingSender, error) {
	cfg := opts.Config
	s := newSightingMetrics(r)
	s.warn = func(err error) { opts.Log.Warn("lost a sighting", "error", err) }
	if cfg.Exports(config.ExportStdout) {
		s.stdout = json.NewEncoder(opts.Stdout)
	}
	if cfg.Exports(config.ExportOTLPGRPC) || cfg.Exports(config.ExportOTLPHTTP) {
		client, err := export.NewClient(ctx, export.OTLPOptions{
			HTTP: cfg.Exports(config.ExportOTLPHTTP), Endpoint: cfg.OTLPEndpoint,
			Insecure: cfg.OTLPInsecure, Headers: cfg.HeaderMap(), Log: opts.Log,
		})
		if err != nil {
			return nil, err
		}
		s.queue = export.NewQueue(client, cfg.QueueSize, opts.Log)
		r.MustRegister(s.queue)
		s.emitter = span.NewEmitter(span.Options{Sink: s.queue, Offset: clock.Offset, Version: opts.Version})
	}
	return s, nil
}

func newSightingMetrics(r prometheus.Registerer) *sightingSender {
	with := promauto.With(r)
	return &sightingSender{
		sent: with.NewCounter(prometheus.CounterOpts{
			Name: "layertrace_sightings_handled_total",
			Help: "Messages at captured interfaces, passed on to the selected exports.",
		}),
		unknownInterface: with.NewCounter(prometheus.CounterOpts{
			Name: "layertrace_sightings_unknown_interface_total",
			Help: "Messages skipped because their interface is not selected.",
		}),
	}
}

// run handles sightings until their channel is closed.
func (s *sightingSender) run(sightings <-chan observe.Sighting, points *registry) {
	purge := time.NewTicker(purgeInterval)
	defer purge.Stop()
	for {
		select {
		case one, ok := <-sightings:
			if !ok {
				return
			}
			s.handle(&one, points)
		case now := <-purge.C:
			for _, id := range points.purge(now) {
				if s.emitter != nil {
					s.emitter.Forget(id)
				}
			}
		}
	}
}

func (s *sightingSender) handle(one *observe.Sighting, points *registry) {
	if one.Point = points.device(one.Interface); one.Point == nil {
		s.unknownInterface.Inc()
		return
	}
	s.sent.Inc()
	if s.stdout != nil {
		if err := s.stdout.Encode(one); err != nil {
			s.warn(fmt.Errorf("write a sighting: %w", err))
		}
	}
	if s.emitter != nil {
		s.emitter.EmitSighting(one)
	}
}

// close sends what is queued.
func (s *sightingSender) close(ctx context.Context) error {
	if s.queue == nil {
		return nil
	}
	return s.queue.Close(ctx)
}

// device returns the point of a device's interface, nil for one that was never selected.
func (r *registry) device(index int) *observe.Point {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.interfaces[index]
	if !ok {
		return nil
	}
	known.point = share(known.point, observe.Point{
		ID: known.id, Kind: observe.KindDevice,
		Node: r.names.node, Interface: known.iface.Name,
	})
	return known.point
}
