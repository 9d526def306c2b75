// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"
)

// jaegerVariable says where Jaeger is, as --jaeger does.
const jaegerVariable = "LAYERTRACE_JAEGER"

// explainFlags are the options as written on the command line.
type explainFlags struct {
	jaeger, file string
	// of the explanation of traces
	typical     int
	typicalLast time.Duration
	// of the comparison
	service, operation string
	last               time.Duration
	slowQuantile       float64
	limit              int
	// of both
	json bool
	html string
}

func newExplain() *cobra.Command {
	var f explainFlags
	cmd := &cobra.Command{
		Use:   "explain TRACE_ID...",
		Short: "Tell where the time of a trace went, layer by layer",
		Long: `Tell where the time of a trace went: in which layer, of which service, node or
link, and how much more of it than in typical traces of the same kind.

  layertrace explain 4bf92f3577b34da6a3ce929d0e0e4736

With --service, what makes the slow traces of a service slow:

  layertrace explain --service productpage --last 15m

Traces come from Jaeger, or with --file from a file: OTLP JSON as the
OpenTelemetry Collector's file exporter writes it, or JSON that Jaeger's UI
saved. docs/explain.md says how to read the answer.

The exit code is 0 when there was something to tell from, else 1.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd.Flags(), args); err != nil {
				return err
			}
			source, err := f.source(cmd)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), requestTimeout)
			defer cancel()
			out := output{stdout: cmd.OutOrStdout(), json: f.json, html: f.html}
			if f.service != "" {
				return f.compare(ctx, source, out)
			}
			return f.explain(ctx, source, args, out)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.jaeger, "jaeger", "http://localhost:16686", "`URL` of Jaeger's UI (environment: "+jaegerVariable+")")
	fs.StringVar(&f.file, "file", "", "read traces from a `FILE` instead (\"-\": standard input)")
	fs.IntVar(&f.typical, "typical", 100, "compare with `N` traces that begin alike (0: none)")
	fs.DurationVar(&f.typicalLast, "typical-last", 15*time.Minute, "how long before the trace these may be; after it, where there are too few")
	fs.StringVar(&f.service, "service", "", "compare the slow traces of a `SERVICE` with its typical ones")
	fs.StringVar(&f.operation, "operation", "", "only traces with this `OPERATION` of the service")
	fs.DurationVar(&f.last, "last", 15*time.Minute, "how far to look back")
	fs.Float64Var(&f.slowQuantile, "slow-quantile", 0.95, "traces above this `QUANTILE` of all times are slow")
	fs.IntVar(&f.limit, "limit", 500, "read `N` traces at most")
	fs.BoolVar(&f.json, "json", false, "print JSON, one line for each trace")
	fs.StringVar(&f.html, "html", "", "write a page to `FILE` too (\"-\": to standard output instead of text)")
	return cmd
}
