// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/mtls"
	"github.com/layertrace/layertrace/e2e/provision"
)

type mtlsRun struct {
	requests, others int
	cases            []string
	seed             uint64
	out, name        string

	progress func(format string, args ...any)
}

func mtlsCommand() *cobra.Command {
	m := &mtlsRun{}
	cmd := &cobra.Command{
		Use:   "mtls",
		Short: "Check what agents make of encrypted connections against decrypted captures",
		Long: `Sends requests through a mesh whose Envoys speak mutual TLS with each other, and compares
the agents' exchanges at all capture points with captures that tshark decrypts by the
Envoys' secrets: trace context, connection and times. The cases are front pages and a
rough mix (retries, resets, early and streamed responses, aborts, closed connections),
lost, doubled, late and reordered records, agents that start late, steps of the clock,
few sampled requests, and no records at all, where agents infer by the plain text inside
of the pods. Needs root and tshark.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m.progress = progress()
			return m.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&m.requests, "requests", 10_000, "requests in the main cases")
	flags.IntVar(&m.others, "other-requests", 2000, "requests in the other cases")
	flags.StringSliceVar(&m.cases, "case", nil, "only these cases, by their names in mtls.json")
	flags.Uint64Var(&m.seed, "seed", 1, "seed of the rough mix and of what happens to records")
	flags.StringVar(&m.out, "out", "out", "directory for mtls.json and the logs")
	flags.StringVar(&m.name, "name", "mtls", "name of the lab, to run several at once")
	return cmd
}

func (m *mtlsRun) run(ctx context.Context) (err error) {
	cases, err := m.choose()
	if err != nil {
		return err
	}
	if err := lab.CheckRoot(); err != nil {
		return err
	}
	tools, err := provision.Tools(ctx, m.progress)
	if err != nil {
		return err
	}
	if err := makeAbsolute(&m.out); err != nil {
		return err
	}
	dir := filepath.Join(m.out, m.name+"-lab")
	l, err := lab.Up(ctx, lab.Options{Name: m.name, Dir: dir, Tools: tools, Progress: m.progress, MaxTraces: 1000})
	if err != nil {
		return err
	}
	defer func() {
		m.progress("taking the lab down")
		err = errors.Join(err, l.Down())
	}()
	var file struct {
		Runs []mtls.Result `json:"runs"`
	}
	var wrong []error
	for _, c := range cases {
		r, err := mtls.Run(ctx, l, c, dir, m.progress)
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", c.Name, err), errors.Join(wrong...))
		}
		file.Runs = append(file.Runs, r)
		if err := c.Check(&r); err != nil {
			m.progress("%v", err)
			wrong = append(wrong, err)
		}
		// After each, because all take long.
		if err := writeJSON(filepath.Join(m.out, "mtls.json"), file); err != nil {
			return err
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "case\tattempts\tdecrypted\texact\ttime\tinferred\tmissing\texcused\twrong\trecords\tambiguous\tunmatched\t")
	for _, r := range file.Runs {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", r.Case, r.Attempts, r.Decrypted, r.Exact, r.Time, r.Inferred, r.Missing, r.Excused,
			r.Wrong, r.Records, r.Ambiguous, r.Unmatched)
	}
	return errors.Join(w.Flush(), errors.Join(wrong...))
}

// choose returns the cases to run.
func (m *mtlsRun) choose() ([]mtls.Case, error) {
	all := mtls.Cases(m.requests, m.others, m.seed)
	var names []string
	for _, c := range all {
		names = append(names, c.Name)
	}
	for _, name := range m.cases {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("unknown case %q: choose one of %s", name, strings.Join(names, ", "))
		}
	}
	if len(m.cases) == 0 {
		return all, nil
	}
	return slices.DeleteFunc(all, func(c mtls.Case) bool { return !slices.Contains(m.cases, c.Name) }), nil
}
