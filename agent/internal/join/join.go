// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/layertrace/layertrace/agent/internal/agent"
	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/export"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
)

//go:generate go test . -run TestDocumentationListsAllMetrics -update

// Options of Run. All are required.
type Options struct {
	// Config holds the validated settings.
	Config *config.Join
	Log    *slog.Logger
	// Version of layertrace.
	Version string
}

const (
	// tickInterval is the time between two looks at what has waited.
	tickInterval = 200 * time.Millisecond
	// maxPoints is the number of interfaces of devices whose resources are remembered.
	maxPoints = 4096
)

// joiner takes what agents and devices send.
type joiner struct {
	table   *Table
	forward otlptrace.Client // nil: spans of agents go no further
	log     *slog.Logger

	spans, unusable             prometheus.Counter
	unreadable, forwardFailures prometheus.Counter
}

// Run joins until ctx is done. Then it joins what has come and sends the spans, within the
// shutdown timeout.
func Run(ctx context.Context, opts Options) error {
	cfg, log := opts.Config, opts.Log
	metrics := newMetrics(opts.Version)
	server, err := agent.Listen(cfg.MetricsAddress)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = server.Close(closing) // everything has ended by now
	}()
	out := export.OTLPOptions{
		HTTP: cfg.Exports(config.ExportOTLPHTTP), Endpoint: cfg.OTLPEndpoint, Insecure: cfg.OTLPInsecure, Headers: cfg.HeaderMap(), Log: log,
	}
	client, err := export.NewClient(ctx, out)
	if err != nil {
		return err
	}
	queue := export.NewQueue(client, cfg.QueueSize, log)
	metrics.MustRegister(queue)
	emitter := span.NewEmitter(span.Options{Sink: queue, Version: opts.Version})
	points := map[string]bool{}
	table := NewTable(TableOptions{
		Wait: cfg.Wait, SightingWait: cfg.SightingWait, MaxExchanges: cfg.MaxExchanges, MaxSightings: cfg.MaxSightings,
		Done: func(o *observe.Observation) {
			if points[o.Point.ID] = true; len(points) > maxPoints {
				for id := range points {
					emitter.Forget(id)
				}
				clear(points)
			}
			emitter.EmitStored(o)
		},
	})
	j := newJoiner(table, log, metrics)
	if cfg.Forward {
		if j.forward, err = export.NewClient(ctx, out); err != nil {
			return err
		}
	}
	receiver := &receiver{take: j.take}
	serve, err := receiver.listen(cfg.Listen, cfg.ListenHTTP, log)
	if err != nil {
		return err
	}
	server.Serve(metrics, func() (string, error) {
		if ctx.Err() != nil {
			return "", errors.New("stopping")
		}
		return "", nil
	}, log)
	serve()
	log.Info("layertrace joins", "version", opts.Version, "otlp", receiver.addresses, "to", cfg.OTLPEndpoint, "metrics", server.Address())

	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case now := <-tick.C:
			table.Tick(now)
		}
	}
	log.Info("stopping", "timeout", cfg.ShutdownTimeout)
	stopping, cancel := context.WithTimeout(context.Background(), cfg.ShutdownTimeout)
	defer cancel()
	if err := receiver.close(stopping); err != nil {
		log.Warn("stop the OTLP receiver", "error", err)
	}
	table.Flush()
	if err := queue.Close(stopping); err != nil {
		log.Warn("stopped with lost spans", "error", err)
	}
	if j.forward != nil {
		if err := j.forward.Stop(stopping); err != nil {
			log.Warn("stop forwarding", "error", err)
		}
	}
	return nil
}

// take handles a request of a Collector, an agent or a device. With --forward it returns
// when the receiver has the agents' spans, so that a span is lost nowhere in between.
func (j *joiner) take(ctx context.Context, resources []*tracepb.ResourceSpans) error {
	if j.forward != nil {
		if rest := withoutSightings(resources); len(rest) > 0 {
			if err := j.forward.UploadTraces(ctx, rest); err != nil {
				j.forwardFailures.Inc()
				return status.Error(codes.Unavailable, fmt.Sprintf("forward the spans: %v", err))
			}
		}
	}
	now := time.Now()
	wanted := func(scope string) bool { return scope == span.ScopeName || scope == span.SightingScopeName }
	tracestore.ReadReceived(resources, wanted, func(s *span.Stored, err error) {
		// A Collector that routes by the ID has moved it there.
		if id := s.Resource.Text(span.KeyConnectionID); id != "" && s.Attributes.Text(span.KeyConnectionID) == "" {
			s.Attributes[span.KeyConnectionID] = id
		}
		switch {
		case err != nil:
		case s.IsSighting():
			var seen *observe.Sighting
			if seen, err = span.DecodeSighting(s); err == nil {
				j.table.AddSighting(seen, now)
			}
		case s.Attributes.Text(span.KeyConnectionID) == "":
			return // a layer's span, or a connection without options
		default:
			var o observe.Observation
			if o, err = span.Decode(s); err == nil {
				if j.table.AddExchange(&o, now) {
					j.spans.Inc()
				} else {
					j.unusable.Inc()
				}
			}
		}
		if err != nil {
			j.unreadable.Inc()
			j.log.Debug("cannot read a span", "name", s.Name, "error", err)
		}
	})
	return nil
}

// withoutSightings returns the spans that belong into a trace store.
func withoutSightings(resources []*tracepb.ResourceSpans) (rest []*tracepb.ResourceSpans) {
	for _, resource := range resources {
		var kept []*tracepb.ScopeSpans
		for _, scope := range resource.GetScopeSpans() {
			if scope.GetScope().GetName() != span.SightingScopeName {
				kept = append(kept, scope)
			}
		}
		switch {
		case len(kept) == len(resource.GetScopeSpans()):
			rest = append(rest, resource)
		case len(kept) > 0:
			rest = append(rest, &tracepb.ResourceSpans{Resource: resource.GetResource(), SchemaUrl: resource.GetSchemaUrl(), ScopeSpans: kept})
		}
	}
	return rest
}

func newMetrics(version string) *prometheus.Registry {
	metrics := prometheus.NewRegistry()
	agent.RegisterProcess(metrics, version)
	return metrics
}

func newJoiner(table *Table, log *slog.Logger, r prometheus.Registerer) *joiner {
	r.MustRegister(collector{table})
	with := promauto.With(r)
	counter := func(name, help string) prometheus.Counter {
		return with.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return &joiner{
		table: table, log: log,
		spans:           counter("layertrace_join_exchanges_received_total", "Spans of agents that can be joined: their connection has an ID."),
		unusable:        counter("layertrace_join_exchanges_unusable_total", "Spans of agents with a connection ID that cannot be joined: without a sequence number (an older agent), or preliminary."),
		unreadable:      counter("layertrace_join_unreadable_total", "Spans and sightings of layertrace that could not be read."),
		forwardFailures: counter("layertrace_join_forward_failures_total", "Requests that were refused because their spans could not be forwarded: the sender sends them again."),
	}
}

// collector is the collector of a table's counts.
type collector struct{ table *Table }

var (
	sightingsDesc = prometheus.NewDesc("layertrace_join_sightings_total",
		"Sightings of devices by what became of them: joined; unmatched (not sampled, or the agent's span did not come); late; doubled; conflicting, incomplete, unpaired, partial, contradicting, ambiguous (refused: see docs/devices.md); evicted (raise max-sightings).", []string{"outcome"}, nil)
	spansDesc    = prometheus.NewDesc("layertrace_join_spans_total", "Spans made of devices' interfaces.", nil, nil)
	evictedDesc  = prometheus.NewDesc("layertrace_join_exchanges_evicted_total", "Exchanges joined before their time to make room for others (raise max-exchanges).", nil, nil)
	waitingDesc  = prometheus.NewDesc("layertrace_join_exchanges_waiting", "Exchanges that wait for sightings.", nil, nil)
	sightingDesc = prometheus.NewDesc("layertrace_join_sightings_waiting", "Sightings in memory.", nil, nil)
)

// Describe implements prometheus.Collector.
func (collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{sightingsDesc, spansDesc, evictedDesc, waitingDesc, sightingDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	outcomes, spans, evicted, exchanges, sightings := c.table.Counts()
	for _, o := range Outcomes {
		out <- prometheus.MustNewConstMetric(sightingsDesc, prometheus.CounterValue, float64(outcomes[o]), string(o))
	}
	out <- prometheus.MustNewConstMetric(spansDesc, prometheus.CounterValue, float64(spans))
	out <- prometheus.MustNewConstMetric(evictedDesc, prometheus.CounterValue, float64(evicted))
	out <- prometheus.MustNewConstMetric(waitingDesc, prometheus.GaugeValue, float64(exchanges))
	out <- prometheus.MustNewConstMetric(sightingDesc, prometheus.GaugeValue, float64(sightings))
}

// ExampleMetrics returns all metrics of a join, each with value 0.
func ExampleMetrics() prometheus.Gatherer {
	metrics := prometheus.NewRegistry()
	newJoiner(NewTable(TableOptions{}), slog.Default(), metrics)
	return metrics
}
