// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/agent/internal/explain"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/screen"
)

// Environment variables for --url, --store and --jaeger.
const (
	urlVariable    = "LAYERTRACE_URL"
	storeVariable  = "LAYERTRACE_STORE"
	jaegerVariable = "LAYERTRACE_JAEGER"
)

// explainFlags are the flags as given on the command line.
type explainFlags struct {
	store, url   string
	jaeger, file string
	// with trace IDs
	baseline     int
	baselineLast time.Duration
	// with --service
	service, operation string
	last               time.Duration
	slowQuantile       float64
	limit              int
	// with both
	json bool
	html string
}

func newExplain() *cobra.Command {
	var f explainFlags
	cmd := &cobra.Command{
		Use:   "explain TRACE_ID...",
		Short: "Show where the time of a trace went, layer by layer",
		Long: `Show where the time of a trace went: the layer, its service, node or link, and
how much more it took than in the baseline, traces of the same operation.

Each ID is explained by itself. IDs joined by commas are compared with the
baseline together: a layer that is slow by chance in one of them does not count.

With --service, show why the slow traces of a service are slow.

Traces come from Jaeger, Zipkin or Grafana Tempo at --url, or with --file from a
file: OTLP JSON as written by the OpenTelemetry Collector's file exporter, or JSON
saved from the UI of Jaeger, Zipkin or Grafana. docs/explain.md describes the
output.

The exit code is 0 if the traces were found, 3 if they do not exist, else 1, or 2 for
wrong flags.`,
		Example: `  # where one trace was slow
  layertrace explain 4bf92f3577b34da6a3ce929d0e0e4736

  # why the slow traces of a service are slow
  layertrace explain --service productpage --last 15m

  # a page, of traces in a file
  layertrace explain --file traces.json --html page.html \
      4bf92f3577b34da6a3ce929d0e0e4736`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd.Flags(), args); err != nil {
				return usage(err)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), requestTimeout)
			defer cancel()
			store, err := f.open(ctx, cmd)
			if err != nil {
				return err
			}
			out := output{stdout: cmd.OutOrStdout(), json: f.json, html: f.html}
			if f.service != "" {
				return f.compareService(ctx, store, out)
			}
			return f.explainTraces(ctx, store, args, out)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.url, "url", tracestore.Jaeger.DefaultURL(), "`URL` of the trace store: of the UI of Jaeger or Zipkin, or of Tempo's API (environment: "+urlVariable+")")
	fs.StringVar(&f.store, "store", string(tracestore.Auto), "`KIND` of the store: jaeger, zipkin or tempo, or auto for what answers at the URL (environment: "+storeVariable+")")
	fs.StringVar(&f.jaeger, "jaeger", "", "the same as --url=`URL` --store=jaeger (environment: "+jaegerVariable+")")
	fs.StringVar(&f.file, "file", "", "read traces from a `FILE` instead (\"-\": standard input)")
	fs.IntVar(&f.baseline, "baseline", 100, "compare with at most `N` traces of the same operation (0: none)")
	fs.DurationVar(&f.baselineLast, "baseline-last", 15*time.Minute, "take the baseline from this `TIME` before the trace, or after it if there are too few traces")
	fs.StringVar(&f.service, "service", "", "compare the slow traces of a `SERVICE` with its other traces (SERVICE.NAMESPACE: only in that namespace)")
	fs.StringVar(&f.operation, "operation", "", "only traces with this `OPERATION` of the service")
	fs.DurationVar(&f.last, "last", 15*time.Minute, "look back this `TIME`")
	fs.Float64Var(&f.slowQuantile, "slow-quantile", 0.95, "traces above this `QUANTILE` of all times are slow")
	fs.IntVar(&f.limit, "limit", 500, "read at most `N` traces")
	fs.BoolVar(&f.json, "json", false, "print JSON, one line per trace")
	fs.StringVar(&f.html, "html", "", "also write a page to `FILE` (\"-\": to standard output instead of text)")
	return cmd
}

// check rejects invalid values and flags that exclude each other.
func (f *explainFlags) check(set *pflag.FlagSet, args []string) error {
	comparing := f.service != ""
	switch {
	case !comparing && set.Changed("service"):
		return errors.New("--service is empty: name a service that the trace store lists")
	case comparing && len(args) > 0:
		return errors.New("give either trace IDs or --service")
	case !comparing && len(args) == 0:
		return errors.New("give the ID of a trace, or --service to compare its slow traces with the others; see layertrace explain --help")
	case set.Changed("file") && f.file == "":
		return errors.New("--file is empty: name a file")
	case set.Changed("file") && (set.Changed("url") || set.Changed("store") || set.Changed("jaeger")):
		return errors.New("give either --file or --url, --store or --jaeger: the format of a file is detected")
	case set.Changed("jaeger") && (set.Changed("url") || set.Changed("store")):
		return errors.New("give either --jaeger or --url and --store")
	case !slices.Contains(tracestore.Kinds, tracestore.Kind(f.store)):
		return fmt.Errorf("--store is %q: give auto, jaeger, zipkin or tempo", f.store)
	case set.Changed("file") && set.Changed("last"):
		return errors.New("--last does not apply to a file, which is read as a whole: omit --last")
	case f.json && f.html == "-":
		return errors.New("give either --json or --html=-: both write to standard output")
	case f.baseline < 0:
		return errors.New("--baseline is negative: give the number of traces to compare with")
	case f.baselineLast <= 0:
		return errors.New("--baseline-last is not above 0: give a time such as 15m, or --baseline=0 for no comparison")
	case f.last <= 0:
		return errors.New("--last is not above 0: give a time such as 15m")
	case !(f.slowQuantile > 0 && f.slowQuantile < 1):
		return errors.New("--slow-quantile is not between 0 and 1: 0.95 selects the slowest 5 % of the traces")
	case f.limit <= 0:
		return errors.New("--limit is not above 0: give the number of traces to read")
	}
	names, other := []string{"operation", "last", "slow-quantile", "limit"}, "requires --service"
	if comparing {
		names, other = []string{"baseline", "baseline-last"}, "applies to trace IDs, not to --service"
	}
	for _, name := range names {
		if set.Changed(name) {
			return fmt.Errorf("--%s %s", name, other)
		}
	}
	return nil
}

// open returns where the traces are.
func (f *explainFlags) open(ctx context.Context, cmd *cobra.Command) (tracestore.Store, error) {
	switch f.file {
	case "":
	case "-":
		return tracestore.NewReader("standard input", cmd.InOrStdin()), nil
	default:
		return tracestore.NewFile(f.file), nil
	}
	at, err := f.address(cmd.Flags().Changed)
	if err != nil {
		return nil, usage(err)
	}
	return tracestore.Open(ctx, at, &http.Client{})
}

// address returns where the store is. Flags have precedence over the environment. Without
// either, and without a kind, it is a Jaeger on this machine.
func (f *explainFlags) address(given func(flag string) bool) (at tracestore.Address, err error) {
	at = tracestore.Address{Kind: tracestore.Kind(f.store), URL: f.url, Flag: "--url"}
	if kind := os.Getenv(storeVariable); kind != "" && !given("store") {
		if at.Kind = tracestore.Kind(kind); !slices.Contains(tracestore.Kinds, at.Kind) {
			return at, fmt.Errorf("%s is %q: set it to auto, jaeger, zipkin or tempo", storeVariable, kind)
		}
	}
	url, jaeger := os.Getenv(urlVariable), os.Getenv(jaegerVariable)
	switch {
	case given("url"):
	case given("jaeger"):
		at = tracestore.Address{Kind: tracestore.Jaeger, URL: f.jaeger, Flag: "--jaeger"}
	case url != "":
		at.URL, at.Flag = url, urlVariable
	case jaeger != "" && !given("store"):
		at = tracestore.Address{Kind: tracestore.Jaeger, URL: jaeger, Flag: jaegerVariable}
	case at.Kind == tracestore.Auto:
		at.Kind = tracestore.Jaeger
	default:
		at.URL = at.Kind.DefaultURL()
	}
	return at, nil
}

// explainTraces explains traces one by one, or in groups if any IDs are joined.
func (f *explainFlags) explainTraces(ctx context.Context, store tracestore.Store, args []string, out output) error {
	groups, together, err := explain.ParseTraceIDs(args)
	if err != nil {
		return usage(err)
	}
	if together && len(groups) > 1 && out.html != "" {
		return usage(errors.New("--html makes a page of one group: give one list of IDs"))
	}
	selected, err := explain.Select(ctx, store, groups, explain.BaselineOptions{Traces: f.baseline, Last: f.baselineLast})
	if err != nil {
		return err
	}
	if together {
		return out.comparisons(selected.CompareAll(ctx))
	}
	return out.reports(selected.ExplainAll(ctx))
}

// compareService compares the slow traces of a service with the others.
func (f *explainFlags) compareService(ctx context.Context, store tracestore.Store, out output) error {
	q := tracestore.Query{Service: f.service, Operation: f.operation, Limit: f.limit}
	when, advice := "", "correct --service"
	if f.file == "" {
		q.To = time.Now()
		q.From = q.To.Add(-f.last)
		when, advice = fmt.Sprintf(" in the last %v", f.last), "correct --service, or look back further with --last"
	}
	traces, err := searchService(ctx, store, q)
	if err != nil {
		return err
	}
	if len(traces) == 0 {
		what := "service " + f.service
		if f.operation != "" {
			what, advice = fmt.Sprintf("operation %q of %s", f.operation, what), advice+" or --operation"
		}
		return nothing{fmt.Errorf("%s has no trace with %s%s: %s", store.Name(), what, when, advice)}
	}
	c := explain.CompareService(f.service, traces, f.slowQuantile)
	return out.comparisons([]*explain.Comparison{&c})
}

// searchService returns the traces of a service. Proxies may report SERVICE.NAMESPACE as
// the name of their service; if the store has none of that name, they are those of the
// service in which an agent saw it in that namespace.
func searchService(ctx context.Context, store tracestore.Store, q tracestore.Query) ([]tracestore.Trace, error) {
	traces, err := store.Search(ctx, q)
	i := strings.LastIndexByte(q.Service, '.')
	if err != nil || len(traces) > 0 || i <= 0 || i == len(q.Service)-1 {
		return traces, err
	}
	service, namespace := q.Service[:i], q.Service[i+1:]
	q.Service = service
	if traces, err = store.Search(ctx, q); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(traces, func(t tracestore.Trace) bool {
		return !slices.ContainsFunc(t.Observations, func(o observe.Observation) bool {
			w := o.Point.Workload
			return w.Service == service && w.Namespace == namespace ||
				o.Peers.Client.Service == service && o.Peers.Client.Namespace == namespace ||
				o.Peers.Server.Service == service && o.Peers.Server.Namespace == namespace
		})
	}), nil
}

// output is the destination and the form of results.
type output struct {
	stdout io.Writer
	json   bool
	html   string // a file, "-" for stdout instead of text, "" for none
}

// reports writes all reports, and one page of them.
func (o output) reports(reports []*explain.Report) error {
	if err := o.page(func(w io.Writer) error { return explain.WriteHTML(w, reports...) }); err != nil {
		return err
	}
	for i, r := range reports {
		if err := o.result(i, r); err != nil {
			return err
		}
	}
	return nil
}

// comparisons writes all comparisons, each with its page.
func (o output) comparisons(comparisons []*explain.Comparison) error {
	for i, c := range comparisons {
		if err := o.page(c.WriteHTML); err != nil {
			return err
		}
		if err := o.result(i, c); err != nil {
			return err
		}
	}
	return nil
}

// result writes number i as text or JSON, unless the page takes its place.
func (o output) result(i int, result interface {
	WriteJSON(io.Writer) error
	WriteText(io.Writer, explain.TextOptions) error
}) error {
	switch {
	case o.html == "-":
		return nil
	case o.json:
		return result.WriteJSON(o.stdout)
	}
	if i > 0 {
		fmt.Fprintln(o.stdout)
	}
	return result.WriteText(o.stdout, explain.TextOptions{Color: useColor(o.stdout), Width: screen.Width(o.stdout)})
}

// page writes the page to its destination, if it is wanted.
func (o output) page(write func(io.Writer) error) error {
	switch o.html {
	case "":
		return nil
	case "-":
		return write(o.stdout)
	}
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return err
	}
	if err := os.WriteFile(o.html, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the page: %w; correct --html", err)
	}
	return nil
}

// useColor reports whether w is a terminal with colours, which the user did not
// disable (no-color.org).
func useColor(w io.Writer) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(w)
}
