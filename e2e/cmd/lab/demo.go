// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/measure"
	"github.com/layertrace/layertrace/e2e/provision"
)

type demo struct {
	requests int
	keep     bool
	tls      bool
	tracer   string
	ui       string
	out      string
	name     string

	progress func(format string, args ...any)
}

// UIs that the demo can bring up.
const (
	jaegerUI = "jaeger"
	zipkinUI = "zipkin"
)

func demoCommand() *cobra.Command {
	d := &demo{}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the path of requests through the interfaces, and where a slow one was slow",
		Long: `Sends requests for Bookinfo's front page in four setups: Envoy's own header order
with agents that parse the first 1,024 bytes; the same with agents that search
further (deep); with mutual TLS between the pods (encrypted), where agents join what
passed with the Envoys' access logs; and with the trace headers moved to the start by
the Wasm filter. The agents of the last two also watch sockets. Prints how many trace
contexts the agents read at each interface. In the encrypted and in the last setup
it makes one request slow between two nodes, and prints the last one's trace and
what layertrace explain says about both. Needs root.

With --ui=zipkin the spans of the last setup also go to a Zipkin, by way of an
OpenTelemetry Collector, and explain reads from there. Needs Java, and Maven to
get Zipkin.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d.progress = progress()
			return d.run(cmd.Context())
		},
	}
	cmd.Flags().IntVar(&d.requests, "requests", 300, "front page requests per setup")
	cmd.Flags().BoolVar(&d.keep, "keep", os.Getenv("KEEP") == "1", "keep the mesh and the trace store running until Ctrl-C (or set KEEP=1)")
	cmd.Flags().BoolVar(&d.tls, "tls", false, "make the setup with mutual TLS the last: its request is made slow, and the mesh that --keep keeps is encrypted")
	cmd.Flags().StringVar(&d.tracer, "tracer", string(lab.Zipkin), "the Envoys' tracer: zipkin or opentelemetry")
	cmd.Flags().StringVar(&d.ui, "ui", jaegerUI, "trace store with its UI: jaeger (API only) or zipkin")
	cmd.Flags().StringVar(&d.out, "out", "out", "directory for demo.json and the logs")
	cmd.Flags().StringVar(&d.name, "name", "demo", "name of the lab, to run several at once")
	return cmd
}

func (d *demo) run(ctx context.Context) (err error) {
	tracer, err := lab.ParseTracer(d.tracer)
	if err != nil {
		return err
	}
	if d.requests < 3 {
		return fmt.Errorf("--requests %d: want at least 3, one for each version of reviews", d.requests)
	}
	if d.ui != jaegerUI && d.ui != zipkinUI {
		return fmt.Errorf("--ui %q: choose %s or %s", d.ui, jaegerUI, zipkinUI)
	}
	if err := lab.CheckRoot(); err != nil {
		return err
	}
	store := &demoStore{ui: d.ui}
	if err := store.provide(ctx, d.progress); err != nil {
		return err
	}
	tools, err := provision.Tools(ctx, d.progress)
	if err != nil {
		return err
	}
	l, err := lab.Up(ctx, lab.Options{
		Name: d.name, Dir: filepath.Join(d.out, "lab"), Tools: tools, Progress: d.progress,
	})
	if err != nil {
		return err
	}
	defer func() {
		d.progress("taking the lab down")
		err = errors.Join(err, l.Down())
	}()

	slow := &slowPart{lab: l, tracer: tracer, store: store, progress: d.progress}
	hidden := &slowPart{lab: l, tracer: tracer, store: &demoStore{ui: jaegerUI}, progress: d.progress}
	defer func() { err = errors.Join(err, slow.close(), hidden.close()) }()
	r, err := d.measure(ctx, l, tracer, slow, hidden)
	if err != nil {
		return err
	}
	printTable(os.Stdout, r)
	slow.print(os.Stdout)
	hidden.printVerdict(os.Stdout)
	r.TraceID = slow.request.TraceID
	if err := r.write(filepath.Join(d.out, "demo.json")); err != nil {
		return err
	}
	if d.keep {
		if err := slow.keepUp(ctx); err != nil {
			return err
		}
	}
	return r.missed()
}

// measure runs the four setups, and makes a request slow in the last; if that is not the
// encrypted one, a hidden one there as well.
func (d *demo) measure(ctx context.Context, l *lab.Lab, tracer lab.Tracer, slow, hidden *slowPart) (*report, error) {
	r := newReport()
	setups := []lab.Setup{measure.Stock(tracer), measure.StockDeep(tracer), measure.Encrypted(tracer), measure.Reordered(tracer)}
	if d.tls {
		setups[2], setups[3] = setups[3], setups[2]
	}
	for i, setup := range setups {
		var part *slowPart
		switch {
		case i == len(setups)-1:
			part = slow
		case setup.TLS != nil:
			part = hidden
		}
		var more measure.More
		if part != nil {
			if err := part.prepare(ctx, &setup); err != nil {
				return nil, err
			}
			more = part.more(ctx)
		}
		d.progress("%s: starting applications, Envoys and agents", setup.Name)
		out, err := measure.AcquisitionAnd(ctx, l, setup, lab.Load{
			Requests: d.requests,
			Progress: func(done int) { d.progress("%s: %d of %d requests", setup.Name, done, d.requests) },
		}, more)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", setup.Name, err)
		}
		d.progress("%s: %d requests, %.0f per second, %d hops between pods",
			setup.Name, d.requests, out.Load.PerSecond(), len(out.Hops))
		r.add(setup.Name, out.Points)
		r.records[setup.Name] = out.Records
	}
	return r, nil
}

// report is demo.json. Rates are from 0 to 1.
type report struct {
	Points  []pointRates `json:"points"`
	TraceID string       `json:"trace_id"`

	setups  []string
	counts  map[string][]measure.Acquired
	records map[string]lab.Records
}

type pointRates struct {
	lab.Point
	// Passed is the number of requests in the reordered setup.
	Passed    int     `json:"passed"`
	Stock     float64 `json:"stock"`
	StockDeep float64 `json:"stock_deep"`
	Encrypted float64 `json:"encrypted"`
	Reordered float64 `json:"reordered"`
}

func newReport() *report {
	r := &report{counts: map[string][]measure.Acquired{}, records: map[string]lab.Records{}}
	for _, point := range lab.Points() {
		r.Points = append(r.Points, pointRates{Point: point})
	}
	return r
}

// add adds the results of one setup, in the order of lab.Points.
func (r *report) add(setup string, results []measure.Acquired) {
	r.setups = append(r.setups, setup)
	r.counts[setup] = results
	for i, result := range results {
		point := &r.Points[i]
		switch setup {
		case "stock":
			point.Stock = result.Rate()
		case "stock-deep":
			point.StockDeep = result.Rate()
		case "encrypted":
			point.Encrypted = result.Rate()
		case "reordered":
			point.Reordered, point.Passed = result.Rate(), result.Passed
		}
	}
}

func (r *report) write(path string) error { return writeJSON(path, r) }

// missed returns an error when the agents missed a context in a setup in which they
// should read all, or in any setup reported a request twice or a wrong one. Of encrypted ones
// it has the reasons that the agents counted.
func (r *report) missed() error {
	var errs []error
	for _, setup := range r.setups {
		before := len(errs)
		for _, result := range r.counts[setup] {
			if setup == "stock" {
				result.Acquired = result.Passed
			}
			if err := result.Exact(); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", setup, err))
			}
		}
		records := r.records[setup]
		if missing := records.Missing(); len(errs) > before && missing != "" {
			errs = append(errs, fmt.Errorf("%s: records of access logs without an exchange: %s", setup, missing))
		}
	}
	return errors.Join(errs...)
}

// printTable prints what passed each capture point and what the agents acquired.
func printTable(w io.Writer, r *report) {
	fmt.Fprintf(w, `
Trace contexts that the agents acquired / requests with a trace context that passed
the interface (from the Envoys' access logs), for each setup:

`)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(table, "node\tinterface\t")
	for _, setup := range r.setups {
		fmt.Fprintf(table, "%s\t\t", setup)
	}
	fmt.Fprintln(table)
	for i, point := range r.Points {
		fmt.Fprintf(table, "%s\t%s\t", point.Node, point.Interface)
		for _, setup := range r.setups {
			result := r.counts[setup][i]
			fmt.Fprintf(table, "%d/%d\t%.2f %%\t", result.Acquired, result.Passed, 100*result.Rate())
		}
		fmt.Fprintln(table)
	}
	// Only writing to w can fail; then printing the trace fails as well.
	_ = table.Flush()
}

// node is a span with its children.
type node struct {
	lab.Span
	children []*node
}

// printTree prints a trace: each span indented below its parent, with its duration
// and its start relative to the trace's.
func printTree(w io.Writer, trace lab.Trace) {
	roots := nest(trace.Spans)
	if len(roots) == 0 {
		return
	}
	begin := roots[0].Start
	var show func(n *node, depth int)
	show = func(n *node, depth int) {
		mark, name := " ", n.Service+" "+n.Name
		if isInterface(n.Span) {
			mark, name = "|", n.Name
		} else if kind := n.Kind(); kind != "" {
			name += " (" + kind + ")"
		}
		line := strings.Repeat("  ", depth) + mark + " " + name
		fill := max(1, 76-utf8.RuneCountInString(line))
		fmt.Fprintf(w, "%s%s%9.3f ms  at %8.3f ms\n", line, strings.Repeat(" ", fill),
			float64(n.Duration.Microseconds())/1e3, float64(n.Start.Sub(begin).Microseconds())/1e3)
		for _, child := range n.children {
			show(child, depth+1)
		}
	}
	for _, root := range roots {
		show(root, 0)
	}
}

// nest builds a tree of spans. The interface spans of a hop, and the server's span,
// all have the client's span as parent: nest chains the interface spans from the
// outermost to the innermost, and moves the server's span below the last.
func nest(spans []lab.Span) []*node {
	nodes := map[string]*node{}
	for _, span := range spans {
		nodes[span.ID] = &node{Span: span}
	}
	children := map[string][]*node{}
	var roots []*node
	for _, n := range nodes {
		parent := nodes[n.Parent]
		if isInterface(n.Span) {
			parent = client(parent, nodes)
		}
		if parent == nil {
			roots = append(roots, n)
		} else {
			children[parent.ID] = append(children[parent.ID], n)
		}
	}
	for parent, ofParent := range children {
		nodes[parent].children = chain(ofParent)
	}
	return chain(roots)
}

// client returns the client's span of a hop, where parent is the span of either end.
// Zipkin's client and server share a span ID. Jaeger gives the server's span a new
// ID, below the client's, and moves all other children there as well.
func client(parent *node, nodes map[string]*node) *node {
	if parent != nil && parent.Kind() == "server" {
		if above := nodes[parent.Parent]; above != nil && above.Kind() == "client" {
			return above
		}
	}
	return parent
}

// chain nests the interface spans among siblings in one another.
func chain(siblings []*node) []*node {
	slices.SortFunc(siblings, byStart)
	var others []*node
	var outer, inner *node
	for _, n := range siblings {
		switch {
		case !isInterface(n.Span):
			others = append(others, n)
		case outer == nil:
			outer, inner = n, n
		default:
			inner.children = []*node{n}
			inner = n
		}
	}
	if outer == nil {
		return others
	}
	inner.children = append(inner.children, others...)
	return []*node{outer}
}

func byStart(a, b *node) int {
	return cmp.Or(a.Start.Compare(b.Start), -cmp.Compare(a.Duration, b.Duration), cmp.Compare(a.ID, b.ID))
}

func isInterface(span lab.Span) bool {
	return slices.ContainsFunc(lab.Points(), func(p lab.Point) bool { return p.Name == span.Name })
}
