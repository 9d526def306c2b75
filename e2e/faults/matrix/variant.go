// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/lab"
)

// EnableLayers makes the agents of a setup report layers, each with its node's cgroup.
func EnableLayers(l *lab.Lab, s *lab.Setup) {
	s.AgentFlags = append(s.AgentFlags, "--spans=layers", "--sidecar-uid=1337")
	s.NodeFlags = map[int][]string{}
	for _, node := range lab.Nodes {
		if node != lab.ClientNode {
			s.NodeFlags[node] = []string{"--socket-cgroup", l.NodeGroup(node).Path}
		}
	}
}

// Variant is a condition under which the verdicts must stay right.
type Variant struct {
	Name, What string
	// Connections is the number of parallel connections of the load, Rate its
	// requests per second in sum.
	Connections int
	Rate        float64
	// Kinds are the kinds of faults; nil for all.
	Kinds []faults.Kind
	// Devices: the lab has devices between the nodes, and the faults are those of
	// faults.DrawDevices.
	Devices bool

	change func(*lab.Setup)
}

// Variants are all variants, the default first.
var Variants = []Variant{
	{Name: "default", What: "without TCP options, all clocks correct"},
	{Name: "options", What: "with the agents' TCP option",
		change: func(s *lab.Setup) { s.TCPOption = "compact" }},
	{Name: "clock", What: "the clock of node2 500 ms slow, that of node3 500 ms fast",
		change: func(s *lab.Setup) {
			s.ClockOffset = map[int]time.Duration{2: -500 * time.Millisecond, 3: 500 * time.Millisecond}
		}},
	{Name: "missing-pnic", What: "the physical interface of node3 not captured",
		change: func(s *lab.Setup) { s.NoPNIC = map[int]bool{3: true} }},
	{Name: "parallel64", What: "load on 64 connections in parallel", Connections: 64, Rate: 80},
	{Name: "loss", What: "only lost and reordered packets, so that all have retransmissions",
		Kinds: []faults.Kind{faults.RelayLoss, faults.RelayReorder, faults.RetransmissionStorm, faults.NoFault}},
	{Name: "mtls", What: "mutual TLS (1.3) between the pods, joined by the Envoys' access logs",
		change: func(s *lab.Setup) { s.TLS = &lab.TLS{Version: lab.TLS13} }},
	{Name: "devices", What: "two routers with agents that read headers only between the nodes, slow queues in them and on each link",
		Devices: true, change: useDevices},
}

// useDevices makes agents write the option and send to join, which passes their spans on. The
// spans of devices have to be there soon after those of nodes, because the runner waits until
// no more come.
func useDevices(s *lab.Setup) {
	s.TCPOption = "compact"
	s.AgentFlags = append(s.AgentFlags, "--read-interval=100ms")
	s.DeviceFlags = []string{"--read-interval=100ms"}
	s.JoinFlags = []string{"--forward", "--wait=2s"}
}

// ParseVariant returns the variant with a name.
func ParseVariant(name string) (Variant, error) {
	var names []string
	for _, v := range Variants {
		if v.Name == name {
			if v.Connections == 0 {
				v.Connections, v.Rate = 8, 40
			}
			return v, nil
		}
		names = append(names, v.Name)
	}
	return Variant{}, fmt.Errorf("unknown variant %q: choose one of %s", name, strings.Join(names, ", "))
}

// Setup returns the setup of the mesh: reordered, with agents that report layers.
func (v Variant) Setup(l *lab.Lab, tracer lab.Tracer) lab.Setup {
	s := lab.Setup{
		Name: "faults-" + v.Name, Tracer: tracer, Reordered: true,
		AgentFlags: []string{"--idle-timeout=300ms", "--context-format=" + formats(tracer)}, Export: "otlp-grpc",
	}
	EnableLayers(l, &s)
	if v.change != nil {
		v.change(&s)
	}
	return s
}

// formats returns the order of trace context formats of a mesh with a tracer: its own
// before the one that a client brings along.
func formats(tracer lab.Tracer) string {
	if tracer == lab.Zipkin {
		return "b3,w3c"
	}
	return "w3c,b3"
}

// Draw draws cases of the variant.
func (v Variant) Draw(seed uint64, n int) []faults.Case {
	draw := faults.Draw
	if v.Devices {
		draw = faults.DrawDevices
	}
	if v.Kinds == nil {
		return draw(seed, n)
	}
	var cases []faults.Case
	for all := n; len(cases) < n; all *= 2 {
		cases = slices.DeleteFunc(draw(seed, all), func(c faults.Case) bool { return !slices.Contains(v.Kinds, c.Kind) })
	}
	return cases[:n]
}

// WithSession starts the mesh, calls do with a session in it, and stops the mesh.
func (v Variant) WithSession(ctx context.Context, l *lab.Lab, tracer lab.Tracer, setup lab.Setup, do func(*faults.Session) error) (err error) {
	run, err := l.Start(ctx, setup)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, run.Stop()) }()
	injector, err := faults.NewInjector(l, run)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, injector.Close()) }()
	client := faults.NewClient(l, tracer)
	defer client.Close()
	var others []*faults.Client
	for range v.Connections {
		others = append(others, faults.NewClient(l, tracer))
	}
	load := faults.NewLoad(v.Rate, others...)
	defer load.Close()
	if err := do(&faults.Session{Injector: injector, Client: client, Load: load}); err != nil {
		return err
	}
	if failed := load.Failed.Load(); failed > 0 {
		return fmt.Errorf("%d of %d requests of the load failed: see the logs of the Envoys", failed, load.Sent.Load())
	}
	return nil
}
