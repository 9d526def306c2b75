// SPDX-License-Identifier: Apache-2.0

// Package agent wires the parts of `layertrace agent`: interfaces are found
// and attached to, the probe's exchanges become spans, spans are delivered.
// Data goes one way, and Run shows all of it.
package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/iface"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/agent/internal/status"
)

// Options of Run. All are needed.
type Options struct {
	// Config are the validated settings.
	Config *config.Config
	// OpenProbe loads the kernel side.
	OpenProbe func(*config.Config, *slog.Logger) (Probe, error)
	// Stdout takes the JSON lines of --export=stdout.
	Stdout io.Writer
	// Log takes everything else.
	Log *slog.Logger
	// Version of layertrace.
	Version string
}

// Run is the agent: it works until ctx is done, then flushes, detaches and
// drains within the shutdown timeout. It returns an error when it cannot start
// or a part of it breaks; spans that could not be delivered in time are logged
// and counted.
func Run(ctx context.Context, opts Options) error {
	cfg, log := opts.Config, opts.Log
	selector := iface.Selector{VNIC: cfg.VNIC, PNIC: cfg.PNIC}
	if err := selector.CheckNames(); err != nil {
		return err
	}
	names, err := loadIdentity(opts)
	if err != nil {
		return err
	}
	clock, err := span.NewClock()
	if err != nil {
		return err
	}
	server, err := listen(cfg.MetricsAddress)
	if err != nil {
		return err
	}
	defer server.close()
	delivery, err := newDelivery(ctx, opts, names, clock)
	if err != nil {
		return err
	}
	var registered []prometheus.Collector
	if cfg.Layers() {
		times := status.NewLayerTimes()
		delivery.layers = newLayers(cfg, names, delivery.emitter, times)
		registered = append(registered, times)
	}
	probe, err := opts.OpenProbe(cfg, log)
	if err != nil {
		return err
	}

	table := newTable(names, linger(cfg), cfg.SidecarUID)
	watcher := iface.NewWatcher(selector, log)
	capture := newCapture(probe, table, log)
	group, running := errgroup.WithContext(ctx)
	isReady := func() (string, error) { return ready(running, capture, names) }
	server.serve(status.NewRegistry(registered, build(opts.Version), readiness(isReady),
		probeSource(probe), capture.samples, delivery.samples, names.samples), isReady, log)

	group.Go(func() error { return clock.Run(running) })
	group.Go(func() error { return names.run(running) })
	group.Go(func() error { return watcher.Run(running) })
	group.Go(func() error { capture.follow(watcher.Events(), watcher.Listed()); return nil })
	group.Go(func() error { return probe.Run(running) })
	group.Go(func() error { return delivery.run(probe.Observations(), table) })

	log.Info("layertrace runs", "version", opts.Version, "node", names.node, "metrics", server.address())
	<-running.Done()
	return stop(cfg.ShutdownTimeout, group, probe, delivery, log)
}

// ready tells whether the agent does all of its work: it watches interfaces, and
// knows names. A cluster that does not answer any more is worth a remark.
func ready(running context.Context, capture *capture, names naming) (remark string, err error) {
	if err := capture.ready(running); err != nil {
		return "", err
	}
	return names.ready()
}

// stop ends everything once, in the order of the data: the probe flushes its
// open exchanges and closes their channel, which ends the delivery; then the
// programs leave the interfaces, and what is queued is sent.
func stop(timeout time.Duration, group *errgroup.Group, probe Probe, delivery *delivery, log *slog.Logger) error {
	log.Info("stopping", "timeout", timeout)
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- group.Wait() }()
	var failure error
	select {
	case failure = <-ended:
	case <-ctx.Done():
		failure = fmt.Errorf("the agent did not flush its exchanges within %v; raise --shutdown-timeout", timeout)
	}
	if err := probe.Close(); err != nil && failure == nil {
		failure = fmt.Errorf("detach: %w", err)
	}
	if err := delivery.close(ctx); err != nil {
		log.Warn("stopped with a loss", "error", err)
	}
	log.Info("stopped")
	return failure
}

// linger is how long exchanges of an interface can still come after it went:
// the longest that the probe keeps one, and the time to read it.
func linger(cfg *config.Config) time.Duration {
	return cfg.RequestTimeout + cfg.IdleTimeout + cfg.ReadInterval + 5*time.Second
}
