// SPDX-License-Identifier: Apache-2.0

// Package agent wires the parts of `layertrace agent`: it finds interfaces and
// attaches to them, turns the probe's observations into spans, and delivers the
// spans. Data flows one way, and Run shows all of it.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/iface"
	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/layertrace/layertrace/agent/internal/span"
)

// Options of Run. All exported ones are required, but for OpenEncrypted without --mtls, and Watch.
type Options struct {
	// Config holds the validated settings.
	Config *config.Config
	// OpenProbe loads the kernel side.
	OpenProbe func(*config.Config, *slog.Logger) (Probe, error)
	// OpenEncrypted loads the kernel side for encrypted connections.
	OpenEncrypted func(*config.Config, *slog.Logger) (Encrypted, error)
	// Stdout receives the JSON lines of --export=stdout.
	Stdout io.Writer
	// Log receives everything else.
	Log *slog.Logger
	// Version of layertrace.
	Version string
	// Watch gets what is captured as it comes, or is nil.
	Watch *Watch

	measure func(context.Context) (cpuUsage, error) // of tests; nil: the real one
}

// Run runs the agent until ctx is done; then it flushes, detaches and drains within
// the shutdown timeout. It returns an error when the agent cannot start or a part
// of it fails. Spans that were not delivered in time are logged and counted.
func Run(ctx context.Context, opts Options) error {
	cfg, log := opts.Config, opts.Log
	selector, loopback := selectInterfaces(cfg, probe.HavePods)
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
	metrics.MustRegister(server)
	metrics.MustRegister(names.collectors()...)
	if cfg.Kubernetes && len(cfg.MetricsNamespaces) > 0 {
		server.Admit(names.admits(cfg.MetricsNamespaces, log))
	}
	pipeline, err := newPipeline(ctx, opts, names, clock, metrics)
	if err != nil {
		return err
	}
	probe, err := opts.OpenProbe(cfg, log)
	if err != nil {
		return err
	}
	metrics.MustRegister(probe)

	points := newRegistry(names, gracePeriod(cfg), cfg.SidecarUID)
	pipeline.find(points)
	if pipeline.layers != nil {
		pipeline.layers.splitter.ringCrowded = probe.IsCrowded
	}
	kernel, attached := closers{probe}, attachers{probe}
	runTimes := []runTime{probe.RunTime}
	var join *joining // nil: encrypted connections are not followed
	if cfg.MTLS {
		if join, err = newJoining(opts, names, points, clock, pipeline.leavesNew.Load, metrics); err != nil {
			return errors.Join(err, probe.Close())
		}
		if cfg.MTLSInfer {
			pipeline.infer, pipeline.sidecarUID = join.joiner.AddPlain, cfg.SidecarUID
		}
		kernel, attached = append(kernel, join.kernel), append(attached, join.kernel)
		runTimes = append(runTimes, join.kernel.RunTime)
	}
	if opts.Watch != nil {
		// Before the programs and their counters go, it gets the last values.
		kernel = append(closers{opts.Watch.last(metrics)}, kernel...)
	}
	watcher := iface.NewWatcher(selector, log)
	capture := newCapture(attached, points, log, newCaptureMetrics(metrics))
	unseen := newUnseenWatch(probe, capture, metrics, log)
	group, running := errgroup.WithContext(ctx)
	leaveOut := func(s step) error { return pipeline.leaveOut(s, probe.Limit) }
	cpu := newCPULimit(cfg, newCPUMeter(log, runTimes...), leaveOut, log, metrics)
	if opts.measure != nil {
		cpu.measure = opts.measure
	}
	isReady := func() (string, error) { return ready(running, capture, names, pipeline, cpu) }
	newReady(metrics, isReady)
	if pipeline.kept != nil {
		server.KeepSpans(pipeline.kept)
	}
	server.Serve(metrics, isReady, log)

	group.Go(func() error { return clock.Run(running) })
	group.Go(func() error { return names.run(running) })
	if cfg.Identity != "" {
		hangups := make(chan os.Signal, 1)
		signal.Notify(hangups, unix.SIGHUP)
		defer signal.Stop(hangups)
		group.Go(func() error { names.reload(running, hangups, log); return nil })
	}
	group.Go(func() error { return watcher.Run(running) })
	group.Go(func() error { capture.follow(watcher.Events(), watcher.Listed()); return nil })
	take := pipeline.take
	if pipeline.queue != nil {
		take = patiently(take, pipeline.queue.IsCrowded, probe.IsCrowded, time.Sleep)
	}
	captured := make(chan struct{})
	group.Go(func() error { defer close(captured); return probe.Run(running, take) })
	group.Go(func() error { unseen.run(running); return nil })
	group.Go(func() error { return cpu.run(running, watcher.Listed()) })
	if opts.Watch != nil {
		group.Go(func() error { opts.Watch.run(running, metrics); return nil })
	}
	if join != nil {
		join.run(running, group)
	}
	group.Go(func() error { pipeline.run(captured, join.joined()); return nil })

	if cfg.Layers() && len(cfg.SocketCgroups) == 0 {
		log.Warn("--spans=layers without sockets: protocol stack and application are merged; remove --socket-cgroup=none, or name the cgroup2 directories of the workloads")
	}
	if loopback {
		log.Info("no pods here: capturing at the loopback device too; set --vnic to choose", "vnic", selector.VNIC)
	}
	log.Info("layertrace is running", "version", opts.Version, "node", names.node, "metrics", server.Address(), "access_log", join.address())
	<-running.Done()
	return stop(cfg.ShutdownTimeout, group, kernel, pipeline, log)
}

// selectInterfaces returns the selector of the settings. On a machine without pods,
// where nothing else was chosen, it adds the loopback device: a proxy and its
// application talk there.
func selectInterfaces(cfg *config.Config, havePods func() bool) (s iface.Selector, loopback bool) {
	s = iface.Selector{VNIC: cfg.VNIC, PNIC: cfg.PNIC}
	if !cfg.VNICDefault || cfg.Kubernetes || havePods() {
		return s, false
	}
	s.VNIC = append(slices.Clone(s.VNIC), "kind:loopback")
	return s, true
}

// ready reports whether the agent does all of its work: it captures at interfaces,
// knows names, and nothing in it stands still. The remark is about an API server or a
// receiver that is out of reach, and about what --cpu-limit leaves out.
func ready(running context.Context, capture *capture, names resolver, pipeline *pipeline, cpu *cpuLimit) (remark string, err error) {
	if err := capture.ready(running); err != nil {
		return "", err
	}
	named, err := names.ready()
	if err != nil {
		return "", err
	}
	delivered, err := pipeline.ready()
	if err != nil {
		return "", err
	}
	return strings.Join(slices.DeleteFunc([]string{named, delivered, cpu.remark()}, func(s string) bool { return s == "" }), "\n"), nil
}

// stop ends everything once, in the order of the data: the probe flushes its open
// exchanges, and the pipeline ends with it; then the programs
// are detached and the queued spans are sent.
func stop(timeout time.Duration, group *errgroup.Group, probe io.Closer, pipeline interface{ close(context.Context) error }, log *slog.Logger) error {
	log.Info("stopping", "timeout", timeout)
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- group.Wait() }()
	var failure error
	select {
	case failure = <-ended:
	case <-ctx.Done():
		failure = fmt.Errorf("flush open exchanges: not done within %v; raise --shutdown-timeout", timeout)
	}
	if err := probe.Close(); err != nil && failure == nil {
		failure = fmt.Errorf("detach: %w", err)
	}
	if err := pipeline.close(ctx); err != nil {
		log.Warn("stopped with lost spans", "error", err)
	}
	log.Info("stopped")
	return failure
}

// gracePeriod is how long exchanges of an interface can still arrive after it was
// removed: the longest that the probe keeps one, and the time to read it.
func gracePeriod(cfg *config.Config) time.Duration {
	return cfg.RequestTimeout + cfg.IdleTimeout + cfg.ReadInterval + 5*time.Second
}
