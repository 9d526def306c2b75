// SPDX-License-Identifier: Apache-2.0

package evaluate

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"strconv"

	"github.com/layertrace/layertrace/e2e/lab"
)

// rateRow is a row of the table of Figure 4.
type rateRow struct {
	Point, Paper, Stock, StockCount, Reordered, ReorderedCount string
	// Remark has what an agent reported twice or wrongly.
	Remark string
}

func (r Results) rateRows(s Summary) (rows []rateRow) {
	for i, p := range s.Figure4 {
		a, b := r.Stock[i], r.Reordered[i]
		row := rateRow{
			Point: pointTitle(p.Point), Paper: fmt.Sprintf("%.0f %%", 100*p.Paper),
			Stock: percent(p.Stock), StockCount: thousands(a.Acquired) + " of " + thousands(a.Passed),
			Reordered: percent(p.Reordered), ReorderedCount: thousands(b.Acquired) + " of " + thousands(b.Passed),
		}
		if wrong := a.Doubled + a.Unknown + a.WrongEnds + b.Doubled + b.Unknown + b.WrongEnds; wrong > 0 {
			row.Remark = fmt.Sprintf("%d doubled, of unknown requests or with wrong ends", wrong)
		}
		rows = append(rows, row)
	}
	return rows
}

func percent(rate float64) string { return fmt.Sprintf("%.2f %%", 100*rate) }

// ratioRow is a row of the table of ratios.
type ratioRow struct {
	Rate, Case, Median, Mean, P99, Over, CPU string
}

func (r Results) ratioRows() (rows []ratioRow, err error) {
	for _, rate := range Rates {
		for _, c := range r.Cases {
			if c.Name == stock {
				continue
			}
			row := ratioRow{Rate: fmt.Sprintf("%g", rate), Case: c.Title, Over: "–"}
			for _, column := range []struct {
				to     string
				figure func(Sample) float64
				text   *string
			}{
				{stock, median, &row.Median}, {stock, average, &row.Mean}, {stock, p99, &row.P99},
				{reordered, median, &row.Over}, {stock, meshCPU, &row.CPU},
			} {
				if column.to == c.Name || !r.measured(column.to) {
					continue
				}
				ratio, err := r.ratio(rate, c.Name, column.to, column.figure)
				if err != nil {
					return nil, err
				}
				*column.text = ratio.String()
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// quantileRow is a row of the table of response times, in ms.
type quantileRow struct {
	Rate, Case, Mean, P50, P99, P999 string
	// Late is how late the client sent.
	Late string
}

func (r Results) quantileRows() (rows []quantileRow, err error) {
	for _, rate := range Rates {
		for _, c := range r.Cases {
			runs, err := r.runs(rate, c.Name)
			if err != nil {
				return nil, err
			}
			total, late := 0.0, int64(0)
			for _, run := range runs {
				total += average(run)
				late = max(late, run.LateP99)
			}
			row := quantileRow{
				Rate: fmt.Sprintf("%g", rate), Case: c.Title,
				Mean: ms(total / float64(len(runs))), Late: ms(float64(late)),
			}
			for _, column := range []struct {
				q        float64
				interval bool
				text     *string
			}{{0.5, false, &row.P50}, {0.99, true, &row.P99}, {0.999, true, &row.P999}} {
				value, err := r.pooled(rate, c.Name, column.q)
				if err != nil {
					return nil, err
				}
				*column.text = ms(value.Value)
				if column.interval {
					*column.text += fmt.Sprintf(" (%s to %s)", ms(value.Low), ms(value.High))
				}
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// ms writes a time in µs as ms.
func ms(us float64) string { return fmt.Sprintf("%.2f", us/1e3) }

// dataFile is a CSV file of the report.
type dataFile struct {
	Name, What string
	Content    []byte
}

// dataFiles returns the data as CSV: what the figures and tables are made of.
func (r Results) dataFiles(s Summary) (files []dataFile, err error) {
	rates := [][]string{{"point", "node", "interface", "paper_name", "paper_stock", "stock_passed", "stock_acquired", "stock_rate", "reordered_passed", "reordered_acquired", "reordered_rate"}}
	for i, p := range lab.Points() {
		a, b := r.Stock[i], r.Reordered[i]
		rates = append(rates, []string{
			p.Name, p.Node, p.Interface, paperPoints[p.Name].name, number(paperRate(p)),
			strconv.Itoa(a.Passed), strconv.Itoa(a.Acquired), number(a.Rate()),
			strconv.Itoa(b.Passed), strconv.Itoa(b.Acquired), number(b.Rate()),
		})
	}
	runs := [][]string{{"rate", "case", "run", "requests", "mean_us", "p50_us", "p99_us", "p999_us", "client_late_p99_us", "mesh_cpu_us_per_request", "agents_cpu_us_per_request"}}
	requests := [][]string{{"rate", "case", "run", "request", "latency_us"}}
	for _, rate := range Rates {
		for _, c := range r.Cases {
			samples, err := r.runs(rate, c.Name)
			if err != nil {
				return nil, err
			}
			for i, run := range samples {
				at := []string{number(rate), c.Name, strconv.Itoa(i + 1)}
				runs = append(runs, append(at[:3:3],
					strconv.Itoa(len(run.Latencies)), fmt.Sprintf("%.1f", average(run)), whole(run.quantile(0.5)), whole(run.quantile(0.99)),
					whole(run.quantile(0.999)), whole(run.LateP99), fmt.Sprintf("%.1f", run.MeshCPU), fmt.Sprintf("%.1f", run.AgentsCPU)))
				for k, latency := range run.Latencies {
					requests = append(requests, append(at[:3:3], strconv.Itoa(k+1), whole(latency)))
				}
			}
		}
	}
	ratios := [][]string{{"rate", "case", "p50", "low", "high"}}
	for _, ratio := range s.Ratios {
		ratios = append(ratios, []string{number(ratio.Rate), ratio.Case, fmt.Sprintf("%.4f", ratio.P50), fmt.Sprintf("%.4f", ratio.Low), fmt.Sprintf("%.4f", ratio.High)})
	}
	for _, file := range []struct {
		name, what string
		rows       [][]string
	}{
		{"figure4.csv", "Figure 4: acquisition rates, with the counts", rates},
		{"runs.csv", "Figures 5 and 6: one line per run", runs},
		{"ratios.csv", "median response time of each case divided by that of stock", ratios},
		{requestsFile, "every response time", requests},
	} {
		var content bytes.Buffer
		if err := csv.NewWriter(&content).WriteAll(file.rows); err != nil {
			return nil, fmt.Errorf("write %s: %w", file.name, err)
		}
		files = append(files, dataFile{file.name, file.what, content.Bytes()})
	}
	return files, nil
}

// requestsFile is the one that grows with runs and requests; the report does not embed it.
const requestsFile = "requests.csv"

func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

func whole(v int64) string { return strconv.FormatInt(v, 10) }
