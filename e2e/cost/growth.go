// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/layertrace/layertrace/e2e/podserver"
	"github.com/layertrace/layertrace/internal/stats"
)

// Growth is one measured size of what may grow on a node.
type Growth struct {
	// Of is what grows: a key of Sizes.
	Of string `json:"of"`
	N  int    `json:"n"`
	Sample
	// Off is the same load without the agent.
	Off Sample `json:"off"`
}

// Sizes are the sizes to measure.
type Sizes map[string][]int

// What grows.
const (
	Interfaces    = "interfaces"
	Connections   = "connections"
	Pods          = "pods"
	SpansPerTrace = "spans-per-trace"
)

// DefaultSizes are those of the documents.
func DefaultSizes() Sizes {
	return Sizes{
		Interfaces:    {2, 50, 250},
		Connections:   {100, 10_000, 100_000},
		Pods:          {100, 1_000, 10_000},
		SpansPerTrace: {4, 40, 400, 4_000},
	}
}

// GrowthOptions are how the growth of the cost is measured.
type GrowthOptions struct {
	// Testbed is how each testbed is made; clients and workers are chosen.
	Testbed Options
	Sizes   Sizes
	// Agent is the program, Duration how long each load is measured, Times how often.
	Agent    string
	Duration time.Duration
	Times    int
	Progress func(format string, args ...any)
}

// MeasureGrowth measures the cost at each size, each in a testbed of its own. The result
// is in the order of Times, and for each of them in that of the sizes.
func MeasureGrowth(ctx context.Context, o GrowthOptions) (results []Growth, err error) {
	for range o.Times {
		for _, of := range []string{Interfaces, Connections, Pods, SpansPerTrace} {
			for _, n := range o.Sizes[of] {
				o.Progress("%s: %d", of, n)
				g, err := o.measure(ctx, of, n)
				if err != nil {
					return nil, fmt.Errorf("%d %s: %w", n, of, err)
				}
				results = append(results, g)
			}
		}
	}
	return results, nil
}

// Of requests that are sent in a trace, a span is at each of two interfaces and two
// sockets.
const pointsWithLayers = 4

func (o GrowthOptions) measure(ctx context.Context, of string, n int) (g Growth, err error) {
	g = Growth{Of: of, N: n}
	load := Load{Name: fmt.Sprintf("%s-%d", of, n), Rate: 5000, Connections: connections, Warm: warmUp, Duration: o.Duration, Sampled: 100}
	flags := []string{"--export", "none"}
	points := 2
	options := o.Testbed
	options.Clients, options.Workers = 1, 2
	switch of {
	case Connections:
		load.Connections = n
		options.Clients = (n + perClient - 1) / perClient
		// The kernel chooses the process by the connection's hash: some have more.
		options.Workers = max(2, n/(workerConnections*3/4)+1)
		flags = append(flags, "--max-connections", "262144")
		// Each connection is used.
		load.Duration = max(load.Duration, time.Duration(float64(n)/load.Rate*float64(time.Second)))
	case Pods:
		flags = append([]string{"--kubernetes"}, otlpGRPC...)
	case SpansPerTrace:
		load.Rate, load.PerTrace = 1000, max(n/pointsWithLayers, 1)
		flags, points = append([]string{layersFlag}, otlpGRPC...), pointsWithLayers
	}
	t, err := Up(ctx, options)
	if err != nil {
		return g, err
	}
	defer func() {
		if down := t.Down(); err == nil {
			err = down
		}
	}()
	switch of {
	case Interfaces:
		err = t.addIdleInterfaces(n - t.interfaces)
	case Pods:
		var kubeconfig string
		if kubeconfig, err = t.serveKubernetes(n); err == nil {
			flags = append(flags, "--kubeconfig", kubeconfig)
		}
	}
	if err != nil {
		return g, err
	}
	tool := Tool{Name: "layertrace", Sampled: 100, Points: points, OnlySampled: true, start: startAgent(o.Agent, flags)}
	if g.Off, err = t.Measure(ctx, nil, load); err != nil {
		return g, err
	}
	g.Sample, err = t.Measure(ctx, &tool, load)
	return g, err
}

// addIdleInterfaces adds pairs of interfaces to the node: one end of each is watched.
func (t *Testbed) addIdleInterfaces(n int) error {
	nl, err := t.node.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	for i := range n {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "v" + strconv.Itoa(i)
		if err := nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "idle" + strconv.Itoa(i)}); err != nil {
			return fmt.Errorf("add interface %s: %w", attrs.Name, err)
		}
		if err := t.node.Configure(attrs.Name, ""); err != nil {
			return err
		}
	}
	t.interfaces += n
	return nil
}

// figure is a figure that may grow.
type figure struct {
	name string
	unit string
	of   func(Growth) float64
	// perRequest is set for a figure per request, the others are totals.
	perRequest bool
}

var figures = []figure{
	{"start", "ms of CPU", func(g Growth) float64 { return float64(g.StartCPU) / 1e6 }, false},
	{"agent", "µs per request", func(g Growth) float64 { return perRequest(func(s Sample) int64 { return s.ToolCPU })(g.Sample) }, true},
	{"ends", "µs per request", func(g Growth) float64 { return ends(g.Sample) }, true},
	{"ends without agent", "µs per request", func(g Growth) float64 { return ends(g.Off) }, true},
	{"memory", "MiB", func(g Growth) float64 { return float64(g.RSS) / (1 << 20) }, false},
	{"BPF maps", "MiB", func(g Growth) float64 { return float64(g.BPF) / (1 << 20) }, false},
}

// Slope is how a figure grows from one size to the next.
type Slope struct {
	Of     string `json:"of"`
	Figure string `json:"figure"`
	Unit   string `json:"unit"`
	// N are the sizes, Values the medians there.
	N      []int     `json:"n"`
	Values []float64 `json:"values"`
	// Exponent is by which power of n the figure grows from the smallest to the largest
	// size: 0 if it does not, 1 if it is proportional. Limit is the exponent of n log n.
	// For what each request is compared with, pods and the spans of its trace, that is a
	// sum over n requests: the limit of a figure per request is that of log n.
	Exponent float64 `json:"exponent"`
	Limit    float64 `json:"limit"`
}

// TooFast reports whether the figure grows faster than its limit. A figure that grows by
// less than a quarter is taken for constant: it differs by as much from run to run.
func (s Slope) TooFast() bool {
	grown := s.Values[len(s.Values)-1] / s.Values[0]
	return grown > 1.25 && s.Exponent > s.Limit
}

// Slopes returns how each figure grows, from the medians at each size.
func Slopes(results []Growth) (slopes []Slope) {
	for _, of := range []string{Interfaces, Connections, Pods, SpansPerTrace} {
		bySize := map[int][]Growth{}
		var sizes []int
		for _, g := range results {
			if g.Of == of {
				if bySize[g.N] == nil {
					sizes = append(sizes, g.N)
				}
				bySize[g.N] = append(bySize[g.N], g)
			}
		}
		if len(sizes) < 2 {
			continue
		}
		slices.Sort(sizes)
		for _, f := range figures {
			s := Slope{Of: of, Figure: f.name, Unit: f.unit, N: sizes}
			for _, n := range sizes {
				s.Values = append(s.Values, stats.MedianOf(bySize[n], f.of))
			}
			low, high := float64(sizes[0]), float64(sizes[len(sizes)-1])
			s.Exponent = math.Log(s.Values[len(s.Values)-1]/s.Values[0]) / math.Log(high/low)
			s.Limit = math.Log(math.Log(high)/math.Log(low)) / math.Log(high/low)
			if !f.perRequest || of == Interfaces || of == Connections {
				s.Limit++
			}
			slopes = append(slopes, s)
		}
	}
	return slopes
}

// WriteGrowth writes the tables of the slopes.
func WriteGrowth(w io.Writer, slopes []Slope) error {
	for i, s := range slopes {
		if i > 0 && slopes[i-1].Of == s.Of {
			continue
		}
		fmt.Fprintf(w, "\n%s\n\n", s.Of)
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprint(table, "figure\t")
		for _, n := range s.N {
			fmt.Fprintf(table, "%d\t", n)
		}
		fmt.Fprintln(table, "grows as\tat most\t\t")
		for _, row := range slopes {
			if row.Of != s.Of {
				continue
			}
			fmt.Fprintf(table, "%s, %s\t", row.Figure, row.Unit)
			for _, value := range row.Values {
				fmt.Fprintf(table, "%.1f\t", value)
			}
			note := ""
			if row.TooFast() {
				note = "faster than n log n"
			}
			// Not -0.00.
			fmt.Fprintf(table, "n^%.2f\tn^%.2f\t%s\t\n", math.Round(row.Exponent*100)/100+0, row.Limit, note)
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// serveKubernetes serves n pods to the agent, and returns the kubeconfig file for that.
func (t *Testbed) serveKubernetes(n int) (string, error) {
	const address = loopback + ":6443"
	listener, err := t.node.Listen(address)
	if err != nil {
		return "", err
	}
	if err := t.servePods(listener, n); err != nil {
		return "", err
	}
	path := t.file("kubeconfig")
	if err := os.WriteFile(path, podserver.Kubeconfig(address), 0o600); err != nil {
		return "", fmt.Errorf("write a kubeconfig file: %w", err)
	}
	return path, nil
}

// ParseSizes parses NAME=N,N,... of what grows.
func ParseSizes(texts []string) (Sizes, error) {
	sizes := Sizes{}
	for _, text := range texts {
		name, list, found := strings.Cut(text, "=")
		if _, known := DefaultSizes()[name]; !known {
			return nil, fmt.Errorf("size %q: want %s, %s, %s or %s", text, Interfaces, Connections, Pods, SpansPerTrace)
		}
		sizes[name] = DefaultSizes()[name]
		if !found {
			continue
		}
		sizes[name] = nil
		for _, one := range strings.Split(list, ",") {
			n, err := strconv.Atoi(one)
			if err != nil || n < 2 {
				return nil, fmt.Errorf("size %q: %q is not a number of at least 2", text, one)
			}
			sizes[name] = append(sizes[name], n)
		}
	}
	if len(texts) == 0 {
		return DefaultSizes(), nil
	}
	return sizes, nil
}
