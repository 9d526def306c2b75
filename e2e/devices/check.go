// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/measure"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Options of Check.
type Options struct {
	// Layout of the TCP option: compact or paper.
	Layout string
	Tracer lab.Tracer
	// Requests for the front page, over Connections.
	Requests, Connections int
	// Flags are further flags of the devices' agents.
	Flags []string
	// Interfaces of some devices that are watched; nil: all.
	Interfaces map[string][]string
	// JoinFlags are further flags of join.
	JoinFlags []string
	// OneWay are the device and the node of which one way of each connection passes it.
	OneWay struct {
		Device string
		Node   int
	}
	// Translated: the first device translates addresses, see lab.Translate.
	Translated bool
}

// Result says what devices saw, compared with what passed.
type Result struct {
	Layout   string `json:"layout"`
	Requests int    `json:"requests"`
	// Hops is the number of requests between nodes that passed devices.
	Hops int `json:"hops"`
	// Expected is the number of passages: requests that passed an interface of a device. Seen
	// have exactly one span, Missing none.
	Expected int `json:"expected"`
	Seen     int `json:"seen"`
	Missing  int `json:"missing"`
	// Wrong spans are in a trace, or below a span, whose request did not pass there, or have
	// other ends. Doubled are further ones of the same passage.
	Wrong   int `json:"wrong"`
	Doubled int `json:"doubled"`
	// OneWay spans have only one of both messages where both passed, or both where only one
	// did.
	OneWay int `json:"one_way"`
	// Unmarked messages had no option on the wire at a device, by its count; they are joined
	// all the same.
	Unmarked int `json:"unmarked"`
	// Sightings by what became of them in join.
	Sightings map[string]int `json:"sightings"`
	// Lost is what devices or join counted as lost.
	Lost map[string]int `json:"lost,omitempty"`
	// PerSecond is the rate of front page requests.
	PerSecond float64  `json:"per_second"`
	Examples  []string `json:"examples,omitempty"` // of what is wrong or missing
}

// Exact returns an error unless there is one span for each passage, and no other.
func (r *Result) Exact() error {
	if r.Expected > 0 && r.Seen == r.Expected && r.Wrong+r.Doubled+r.OneWay == 0 && len(r.Lost) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %d of %d passages have a span, %d wrong, %d doubled, %d of one way, lost %v: %s",
		r.Layout, r.Seen, r.Expected, r.Wrong, r.Doubled, r.OneWay, r.Lost, strings.Join(r.Examples, "; "))
}

// receiverPort is for join's spans.
const receiverPort = 4337

// Check starts the mesh in a lab with devices, sends load, stops the mesh and compares.
func Check(ctx context.Context, l *lab.Lab, o Options, progress func(string, ...any)) (result Result, err error) {
	address := fmt.Sprintf("%s:%d", lab.InfraIP, receiverPort)
	receiver, err := receive(l.InfraNamespace(), address)
	if err != nil {
		return result, err
	}
	setup := measure.Reordered(o.Tracer)
	setup.Name, setup.TCPOption = "devices-"+o.Layout, o.Layout
	setup.AgentFlags = append(setup.AgentFlags, "--idle-timeout=300ms")
	setup.JoinTo, setup.JoinFlags, setup.DeviceFlags, setup.DevicePNIC = address, o.JoinFlags, o.Flags, o.Interfaces
	setup.Export, setup.Virtual = "otlp-grpc", o.Translated
	result = Result{Layout: o.Layout, Requests: o.Requests, Sightings: map[string]int{}, Lost: map[string]int{}}
	hops, err := result.run(ctx, l, setup, o, progress)
	passages, err2 := receiver.stop()
	if err := errors.Join(err, err2); err != nil {
		return result, err
	}
	result.compare(hops, passages, &o)
	return result, nil
}

func (r *Result) run(ctx context.Context, l *lab.Lab, setup lab.Setup, o Options, progress func(string, ...any)) (hops []measure.Hop, err error) {
	progress("%s: starting applications, Envoys, agents, devices and join", o.Layout)
	run, err := l.Start(ctx, setup)
	if err != nil {
		return nil, err
	}
	progress("sending %d requests", o.Requests)
	load, err := l.Send(ctx, lab.Load{Requests: o.Requests, Connections: o.Connections})
	if err == nil {
		r.PerSecond = load.PerSecond()
		err = run.Drain(ctx)
	}
	if err == nil {
		progress("%.0f requests/s; stopping agents and devices", r.PerSecond)
		err = run.StopSenders(func() error { return r.readMetrics(ctx, l) })
	}
	if err := errors.Join(err, run.Stop()); err != nil {
		return nil, err
	}
	if hops, err = measure.Hops(run); err != nil {
		return nil, err
	}
	return hops, measure.CheckReceived(run, o.Tracer, hops)
}

// lossCounters count what is lost.
var lossCounters = []string{
	"layertrace_sightings_ring_full_total", "layertrace_device_map_full_total", "layertrace_device_options_skipped_total",
	"layertrace_sightings_unreadable_total", "layertrace_sightings_unknown_interface_total", "layertrace_sightings_tx_missing_total",
	`layertrace_spans_dropped_total{reason="queue_full"}`, "layertrace_spans_failed_total",
	"layertrace_join_unreadable_total", "layertrace_join_exchanges_evicted_total",
}

// readMetrics reads what devices and join counted.
func (r *Result) readMetrics(ctx context.Context, l *lab.Lab) error {
	var metrics map[string]float64
	err := sandbox.Await(ctx, "join to be done", time.Minute, 200*time.Millisecond, func(ctx context.Context) (err error) {
		if metrics, err = l.JoinMetrics(ctx); err == nil && metrics["layertrace_join_exchanges_waiting"] > 0 {
			err = fmt.Errorf("%.0f exchanges wait", metrics["layertrace_join_exchanges_waiting"])
		}
		return err
	})
	if err != nil {
		return err
	}
	all := []map[string]float64{metrics}
	for name, value := range metrics {
		if rest, ok := strings.CutPrefix(name, `layertrace_join_sightings_total{outcome="`); ok && value > 0 {
			r.Sightings[strings.TrimSuffix(rest, `"}`)] = int(value)
		}
	}
	for _, d := range lab.Devices {
		metrics, err := l.DeviceMetrics(ctx, d.Name)
		if err != nil {
			return err
		}
		r.Unmarked += int(metrics["layertrace_sightings_unmarked_total"])
		all = append(all, metrics)
	}
	for _, metrics := range all {
		for _, name := range lossCounters {
			if n := int(metrics[name]); n > 0 {
				r.Lost[name] += n
			}
		}
	}
	return nil
}

// place is a passage of the ground truth.
type place struct {
	measure.Key
	point, direction string
}

// compare compares the spans of devices with the hops.
func (r *Result) compare(hops []measure.Hop, passages []passage, o *Options) {
	expected := map[place]measure.Hop{}
	for _, hop := range hops {
		points := lab.DevicePath(hop.From.Node, hop.To.Node)
		if len(points) > 0 {
			r.Hops++
		}
		for i, p := range points {
			if nics := o.Interfaces[p.Node]; nics != nil && !slices.Contains(nics, p.Interface) {
				continue
			}
			direction := "ingress"
			if i%2 == 1 {
				direction = "egress"
			}
			expected[place{hop.Key, p.Name, direction}] = hop
		}
	}
	r.Expected = len(expected)
	seen := map[place]bool{}
	for _, p := range passages {
		at := place{measure.Key{TraceID: p.traceID, SpanID: p.spanID}, p.point, p.direction}
		hop, ok := expected[at]
		switch {
		case !ok:
			r.Wrong++
			r.example("%s %s: trace %s, span %s did not pass", p.point, p.direction, p.traceID, p.spanID)
		case !o.isServer(hop, p) || hop.Client != p.client && !o.translates(hop, p):
			r.Wrong++
			r.example("%s %s: %v to %v, passed %v to %v", p.point, p.direction, p.client, p.server, hop.Client, hop.Server)
		case seen[at]:
			r.Doubled++
			r.example("%s %s: trace %s, span %s twice", p.point, p.direction, p.traceID, p.spanID)
		default:
			seen[at] = true
			r.Seen++
			if want := o.way(hop, p); p.oneWay != want {
				r.OneWay++
				r.example("%s %s: trace %s, span %s has %q, want %q", p.point, p.direction, p.traceID, p.spanID, p.oneWay, want)
			}
		}
	}
	for at, hop := range expected {
		if !seen[at] {
			r.Missing++
			r.example("%s %s: no span of trace %s, span %s, %v to %v", at.point, at.direction, at.TraceID, at.SpanID, hop.Client, hop.Server)
		}
	}
}

// way returns the message that is the only one to pass at a place, "" if both do.
func (o *Options) way(hop measure.Hop, p passage) string {
	switch device, _, _ := strings.Cut(p.point, "_"); {
	case device != o.OneWay.Device:
		return ""
	case hop.To.Node == o.OneWay.Node:
		return "response"
	case hop.From.Node == o.OneWay.Node:
		return "request"
	default:
		return ""
	}
}

// translates reports whether a device has translated the client's address before a place.
func (o *Options) translates(hop measure.Hop, p passage) bool {
	first, second := lab.Devices[0], lab.Devices[1]
	return o.Translated && slices.Contains(first.Nodes, hop.From.Node) && slices.Contains(second.Nodes, hop.To.Node) &&
		p.point != first.Name+"_"+lab.NodeName(hop.From.Node)
}

// isServer reports whether the server's address at a place is that of the request's receiver:
// the virtual one before a device has translated it.
func (o *Options) isServer(hop measure.Hop, p passage) bool {
	if hop.Server.Addr().String() != lab.VirtualIP || p.point == lab.Devices[0].Name+"_"+lab.NodeName(hop.From.Node) {
		return hop.Server == p.server
	}
	return p.server.Addr().String() == hop.To.IP && p.server.Port() == hop.Server.Port()
}

func (r *Result) example(format string, args ...any) {
	if len(r.Examples) < 10 {
		r.Examples = append(r.Examples, fmt.Sprintf(format, args...))
	}
}
