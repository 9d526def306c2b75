// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

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
	// Balancer is the program of a Collector before two joins; empty: one join.
	Balancer string
	// During are called one after the other, each while another part of the requests is sent.
	// The first part is sent before.
	During []func(context.Context, *lab.Run) error
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
	// MissingAt are those by interface.
	MissingAt map[string]int `json:"missing_at,omitempty"`
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
	// Sightings by what became of them in the joins.
	Sightings map[string]int `json:"sightings"`
	// Joins have the connections, and the spans that each has made.
	Joins map[string]Share `json:"joins,omitempty"`
	// Exchanges are the agents' spans with a connection ID that came to the joins, Stored
	// those that came to the trace store.
	Exchanges int `json:"exchanges"`
	Stored    int `json:"stored"`
	// Lost is what devices or join counted as lost.
	Lost map[string]int `json:"lost,omitempty"`
	// PerSecond is the rate of front page requests, of the last part of them.
	PerSecond float64  `json:"per_second"`
	Examples  []string `json:"examples,omitempty"` // of what is wrong or missing
}

// Share is what one of several joins has done.
type Share struct {
	Connections int `json:"connections"`
	Spans       int `json:"spans"`
	// Divided are the connections of which another join has made spans too.
	Divided int `json:"divided"`
}

// Exact returns an error unless there is one span for each passage, and no other.
func (r *Result) Exact() error {
	if len(r.Joins) > 1 && r.Stored != r.Exchanges {
		return fmt.Errorf("%s: %d agents' spans came to the joins, %d to the trace store: want the same", r.Layout, r.Exchanges, r.Stored)
	}
	if r.Expected == 0 || r.Seen != r.Expected {
		return errors.Join(fmt.Errorf("%s: %d of %d passages have a span", r.Layout, r.Seen, r.Expected), r.NeverWrong())
	}
	return r.NeverWrong()
}

// NeverWrong returns an error if a span is wrong, if one message passed where both did, or if
// a connection was divided between joins. Missing spans are none.
func (r *Result) NeverWrong() error {
	divided := 0
	for _, s := range r.Joins {
		divided += s.Divided
	}
	if r.Seen > 0 && r.Wrong+r.Doubled+r.OneWay+divided == 0 && len(r.Lost) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %d spans, %d wrong, %d doubled, %d of one way, %d connections divided, lost %v: %s",
		r.Layout, r.Seen, r.Wrong, r.Doubled, r.OneWay, divided, r.Lost, strings.Join(r.Examples, "; "))
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
	setup.Export, setup.Virtual, setup.Balancer = "otlp-grpc", o.Translated, o.Balancer
	result = Result{Layout: o.Layout, Requests: o.Requests, Sightings: map[string]int{}, Lost: map[string]int{}, MissingAt: map[string]int{}}
	hops, err := result.run(ctx, l, setup, o, progress)
	if err := errors.Join(err, receiver.stop()); err != nil {
		return result, err
	}
	result.compare(hops, receiver.passages, &o)
	result.share(receiver)
	return result, nil
}

func (r *Result) run(ctx context.Context, l *lab.Lab, setup lab.Setup, o Options, progress func(string, ...any)) (hops []measure.Hop, err error) {
	progress("%s: starting applications, Envoys, agents, devices and join", o.Layout)
	run, err := l.Start(ctx, setup)
	if err != nil {
		return nil, err
	}
	progress("sending %d requests", o.Requests)
	err = r.send(ctx, l, run, o)
	if err == nil {
		err = run.Drain(ctx)
	}
	if err == nil {
		progress("%.0f requests/s; stopping agents and devices", r.PerSecond)
		err = run.StopSenders(func() error { return r.readMetrics(ctx, l, run) })
	}
	if err := errors.Join(err, run.Stop()); err != nil {
		return nil, err
	}
	if hops, err = measure.Hops(run); err != nil {
		return nil, err
	}
	return hops, measure.CheckReceived(run, o.Tracer, hops)
}

// send sends the requests.
func (r *Result) send(ctx context.Context, l *lab.Lab, run *lab.Run, o Options) error {
	parts := len(o.During) + 1
	for part := range parts {
		requests := o.Requests*(part+1)/parts - o.Requests*part/parts
		var group errgroup.Group
		group.Go(func() error {
			load, err := l.Send(ctx, lab.Load{Requests: requests, Connections: o.Connections})
			r.PerSecond = load.PerSecond()
			return err
		})
		if part > 0 {
			group.Go(func() error { return o.During[part-1](ctx, run) })
		}
		if err := group.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// lossCounters count what is lost.
var lossCounters = []string{
	"layertrace_sightings_ring_full_total", "layertrace_device_map_full_total", "layertrace_device_options_skipped_total",
	"layertrace_sightings_unreadable_total", "layertrace_sightings_unknown_interface_total", "layertrace_sightings_tx_missing_total",
	`layertrace_spans_dropped_total{reason="queue_full"}`, "layertrace_spans_failed_total",
	"layertrace_join_unreadable_total", "layertrace_join_exchanges_evicted_total",
}

// readMetrics reads what devices and joins counted, once no agent's span waits.
func (r *Result) readMetrics(ctx context.Context, l *lab.Lab, run *lab.Run) error {
	var all []map[string]float64
	for i := range run.Joins() {
		var metrics map[string]float64
		err := sandbox.Await(ctx, "join to be done", time.Minute, 200*time.Millisecond, func(ctx context.Context) (err error) {
			if metrics, err = run.JoinMetrics(ctx, i); err == nil && metrics["layertrace_join_exchanges_waiting"] > 0 {
				err = fmt.Errorf("%.0f exchanges wait", metrics["layertrace_join_exchanges_waiting"])
			}
			return err
		})
		if err != nil {
			return err
		}
		all = append(all, metrics)
		r.Exchanges += int(metrics["layertrace_join_exchanges_received_total"])
		for name, value := range metrics {
			if rest, ok := strings.CutPrefix(name, `layertrace_join_sightings_total{outcome="`); ok && value > 0 {
				r.Sightings[strings.TrimSuffix(rest, `"}`)] += int(value)
			}
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
			r.MissingAt[at.point]++
			r.example("%s %s: no span of trace %s, span %s, %v to %v", at.point, at.direction, at.TraceID, at.SpanID, hop.Client, hop.Server)
		}
	}
}

// share counts what each join has done.
func (r *Result) share(receiver *receiver) {
	for _, n := range receiver.others {
		r.Stored += n
	}
	joins := map[string]map[string]bool{} // of a connection
	r.Joins = map[string]Share{}
	for _, p := range receiver.passages {
		if joins[p.connection] == nil {
			joins[p.connection] = map[string]bool{}
		}
		joins[p.connection][p.join] = true
		s := r.Joins[p.join]
		s.Spans++
		r.Joins[p.join] = s
	}
	for _, some := range joins {
		for join := range some {
			s := r.Joins[join]
			s.Connections++
			if len(some) > 1 {
				s.Divided++
			}
			r.Joins[join] = s
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
