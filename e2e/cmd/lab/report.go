// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/measure"
)

// report is what the demo writes to demo.json; rates in 0..1.
type report struct {
	Points  []pointRates `json:"points"`
	TraceID string       `json:"trace_id"`

	setups []string
	counts map[string][]measure.Acquired
}

type pointRates struct {
	lab.Point
	// Passed is the number of requests in the reordered setup.
	Passed    int     `json:"passed"`
	Stock     float64 `json:"stock"`
	StockDeep float64 `json:"stock_deep"`
	Reordered float64 `json:"reordered"`
}

func newReport() *report {
	r := &report{counts: map[string][]measure.Acquired{}}
	for _, point := range lab.Points() {
		r.Points = append(r.Points, pointRates{Point: point})
	}
	return r
}

// add takes the results of one setup, in the order of lab.Points.
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
		case "reordered":
			point.Reordered, point.Passed = result.Rate(), result.Passed
		}
	}
}

func (r *report) write(path string) error { return writeJSON(path, r) }

// missed is an error when the setups that should read every context did not,
// or any setup told of a request twice or of one that was none.
func (r *report) missed() error {
	var errs []error
	for _, setup := range r.setups {
		for _, result := range r.counts[setup] {
			if setup == "stock" {
				result.Acquired = result.Passed
			}
			if err := result.Exact(); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", setup, err))
			}
		}
	}
	return errors.Join(errs...)
}

// printTable prints per capture point what passed and what was acquired.
func printTable(w io.Writer, r *report) {
	fmt.Fprintf(w, `
Contexts acquired by the agents / requests with a trace context that passed the
interface (by the Envoys' access logs), for each setup:

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
	// Writing to w is what fails, if anything; then the trace fails as well.
	_ = table.Flush()
}
