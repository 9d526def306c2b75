// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/faults/matrix"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/provision"
)

type faultsRun struct {
	seed                 uint64
	cases, batch         int
	requests             int
	variant              string
	kinds                []string
	verify               bool
	accuracy, falseBlame float64
	inTime               float64
	markdown             string
	tracer, out, name    string

	progress func(format string, args ...any)
}

func faultsCommand() *cobra.Command {
	f := &faultsRun{}
	cmd := &cobra.Command{
		Use:   "faults",
		Short: "Inject faults into each layer, and check the verdicts of explain",
		Long: `Sends requests for Bookinfo's front page, most of them with a fault: an application
that sleeps, does not read, pauses in its response or resets it, a sidecar without
CPU, a slow queue at the interface of a pod or node or at a bridge, or packets
between two nodes that are delayed, lost or reordered. Measures how long each fault
held up its request, runs layertrace explain on the traces, and compares. Fails when
explain finds too few faults, blames a layer for too many requests without a fault,
or is wrong with high confidence. Needs root.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.progress = progress()
			return f.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.Uint64Var(&f.seed, "seed", 1, "seed from which the cases are drawn")
	flags.IntVar(&f.cases, "cases", faults.DefaultCases, "number of cases; one in six has no fault")
	flags.IntVar(&f.requests, "requests", 7, "requests per case, with the same fault, which are explained together")
	flags.IntVar(&f.batch, "batch", 25, "number of cases to run before their traces are explained")
	flags.StringVar(&f.variant, "variant", "default", "condition: default, options, clock, missing-pnic, parallel64, loss, mtls or devices")
	flags.StringSliceVar(&f.kinds, "fault", nil, "only these kinds of faults, by their names in faults.json, instead of the variant's")
	flags.BoolVar(&f.verify, "verify", false, "only check the injectors, without agents, against what the client measures")
	flags.Float64Var(&f.accuracy, "accuracy", 0.99, "share of the faults that must be found")
	flags.Float64Var(&f.falseBlame, "false-blame", 0.01, "share of requests without a fault that may be blamed on a layer")
	flags.Float64Var(&f.inTime, "in-time", 0.99, "share of the right verdicts whose time must be within 5 % or 200 µs")
	flags.StringVar(&f.markdown, "markdown", "", "file for the result as a Markdown page")
	flags.StringVar(&f.tracer, "tracer", string(lab.Zipkin), "the Envoys' tracer: zipkin or opentelemetry")
	flags.StringVar(&f.out, "out", "out", "directory for faults.json and the logs")
	flags.StringVar(&f.name, "name", "faults", "name of the lab, to run several at once")
	return cmd
}

func (f *faultsRun) run(ctx context.Context) (err error) {
	tracer, err := lab.ParseTracer(f.tracer)
	if err != nil {
		return err
	}
	variant, err := matrix.ParseVariant(f.variant)
	if err != nil {
		return err
	}
	if len(f.kinds) > 0 {
		if variant.Kinds, err = faults.ParseKinds(f.kinds); err != nil {
			return err
		}
	}
	if f.cases < 1 || f.batch < 1 || f.requests < 1 {
		return fmt.Errorf("--cases %d, --batch %d, --requests %d: want at least 1", f.cases, f.batch, f.requests)
	}
	if err := lab.CheckRoot(); err != nil {
		return err
	}
	tools, err := provision.Tools(ctx, f.progress)
	if err != nil {
		return err
	}
	l, err := lab.Up(ctx, lab.Options{
		Name: f.name, Dir: filepath.Join(f.out, f.name+"-lab"), Tools: tools, Progress: f.progress, Plain: true, Devices: variant.Devices,
	})
	if err != nil {
		return err
	}
	defer func() {
		f.progress("taking the lab down")
		err = errors.Join(err, l.Down())
	}()
	if f.verify {
		return f.verifyFaults(ctx, l, variant, tracer)
	}
	return f.check(ctx, l, variant, tracer)
}

// check runs the cases and checks the verdicts.
func (f *faultsRun) check(ctx context.Context, l *lab.Lab, variant matrix.Variant, tracer lab.Tracer) error {
	var results []matrix.Result
	var failed int
	c := &matrix.Runner{
		Jaeger: l.Jaeger, Explainer: matrix.ExplainCommand{Lab: l},
		Seed: f.seed, Batch: f.batch, Requests: f.requests, Progress: f.progress,
		Wrong: func(ctx context.Context, r matrix.Result) error { return f.keepReport(ctx, l, r) },
	}
	setup := variant.Setup(l, tracer)
	if setup.TLS != nil {
		c.Settle = l.AwaitRecords
	}
	f.progress("%s: starting applications, Envoys and agents", variant.Name)
	err := variant.WithSession(ctx, l, tracer, setup, func(s *faults.Session) (err error) {
		c.Session = s
		results, err = c.Run(ctx, variant.Draw(f.seed, f.cases))
		failed = s.Failed
		return err
	})
	return errors.Join(err, f.report(variant, matrix.File{Cases: results, Again: c.Again, Failed: failed, Skipped: c.Skipped, Unsound: c.Unsound}))
}

// keepReport writes what explain reports on the traces of a result, one by one, into the
// lab's directory.
func (f *faultsRun) keepReport(ctx context.Context, l *lab.Lab, r matrix.Result) error {
	args := append([]string{"explain", "--baseline", "75", "--jaeger", lab.JaegerURL()}, r.TraceIDs...)
	text, err := l.Layertrace(ctx, args...)
	if err != nil {
		return err
	}
	file := filepath.Join(f.out, f.name+"-lab", fmt.Sprintf("wrong-%s-%.8s.txt", r.Fault, r.TraceIDs[0]))
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return fmt.Errorf("keep a report: %w", err)
	}
	f.progress("wrong: %s at %s: %s at %s; see %s", r.Fault, r.Location, r.VerdictLayer, r.VerdictLocation, file)
	return nil
}

// report writes the results, and returns an error when they are not good enough.
func (f *faultsRun) report(variant matrix.Variant, file matrix.File) error {
	if len(file.Cases) == 0 {
		return nil
	}
	score := matrix.NewScore(file.Cases)
	file.Accuracy, file.FalseBlame, file.HighButWrong = score.Accuracy.Value(), score.FalseBlame.Value(), score.HighButWrong
	note := fmt.Sprintf("Variant %s (%s), seed %d, %d cases of %d requests. %d requests were repeated and %d cases\n"+
		"skipped, because the fault missed or the request failed (%d requests in all). Another cause also slowed %d requests down (by more than 1 ms and a quarter of the\n"+
		"fault, by the client's clock): these count.",
		variant.Name, variant.What, f.seed, len(file.Cases), f.requests, file.Again, file.Skipped, file.Failed, file.Unsound)
	err := errors.Join(
		score.WritePage(os.Stdout, faultsTitle, note),
		writeJSON(filepath.Join(f.out, "faults.json"), file),
		f.writePage(score, note),
	)
	if file.Accuracy < f.accuracy && score.Accuracy.Of > 0 {
		err = errors.Join(err, fmt.Errorf("the verdict was right on layer and location of %.2f %% of the faults, want %.2f %%", 100*file.Accuracy, 100*f.accuracy))
	}
	if file.FalseBlame > f.falseBlame {
		err = errors.Join(err, fmt.Errorf("a layer was blamed for %.2f %% of the cases without a fault, want at most %.2f %%", 100*file.FalseBlame, 100*f.falseBlame))
	}
	if score.Close.Value() < f.inTime && score.Close.Of > 0 {
		err = errors.Join(err, fmt.Errorf("the time was within 5 %% or 200 µs in %.2f %% of the right verdicts, want %.2f %%", 100*score.Close.Value(), 100*f.inTime))
	}
	if file.HighButWrong > 0 {
		err = errors.Join(err, fmt.Errorf("%d verdicts were wrong with high confidence, want none", file.HighButWrong))
	}
	return err
}

const faultsTitle = "Which layer was slow: faults and verdicts"

// writePage writes the page of --markdown, if set.
func (f *faultsRun) writePage(score matrix.Score, note string) (err error) {
	if f.markdown == "" {
		return nil
	}
	file, err := os.Create(f.markdown)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return score.WritePage(file, faultsTitle, note, "Generated by `lab faults --markdown`.")
}

// verifyFaults injects the drawn faults without agents, and prints how long each
// took by its own measurement and by the client's.
func (f *faultsRun) verifyFaults(ctx context.Context, l *lab.Lab, variant matrix.Variant, tracer lab.Tracer) error {
	setup := lab.Setup{Name: "verify", Tracer: tracer, Reordered: true, NoAgents: true}
	return variant.WithSession(ctx, l, tracer, setup, func(s *faults.Session) error {
		start := time.Now()
		rows, err := matrix.Verify(ctx, s, variant.Draw(f.seed, f.cases))
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(w, "injected\tclient\tdifference\t\t  fault")
		for _, r := range rows {
			note := ""
			if r.Err != nil {
				note = r.Err.Error()
			}
			fmt.Fprintf(w, "%.3f ms\t%.3f ms\t%+.3f ms\t%s\t  %v\n", ms(r.Injected), ms(r.Client-r.Baseline), ms(r.Unexplained()), note, r.Case)
		}
		fmt.Fprintf(w, "\nmedian difference\tof\tmissed\tunsound\t  of %d faults in %.0f s\n", len(rows), time.Since(start).Seconds())
		for _, s := range matrix.Summarize(rows) {
			fmt.Fprintf(w, "%+.3f ms\t%d\t%d\t%d\t  %s\n", ms(s.Median), s.Rows, s.Missed, s.Unsound, s.Kind)
		}
		return errors.Join(err, w.Flush())
	})
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
