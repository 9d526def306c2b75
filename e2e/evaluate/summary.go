// SPDX-License-Identifier: Apache-2.0

package evaluate

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/internal/stats"
)

// Summary is out/evaluation.json: the numbers of the figures, and the ratios.
type Summary struct {
	Figure4 []PointRates  `json:"figure4"`
	Latency []RunLatency  `json:"latency"`
	Ratios  []MedianRatio `json:"ratios"`
}

// PointRates are the acquisition rates of one capture point, from 0 to 1.
type PointRates struct {
	Point string `json:"point"`
	// Paper is the paper's value in Envoy's header order; reordered, it has 1 everywhere.
	Paper     float64 `json:"paper"`
	Stock     float64 `json:"stock"`
	Reordered float64 `json:"reordered"`
}

// RunLatency are the response times of one run.
type RunLatency struct {
	// Rate is in requests per second.
	Rate float64 `json:"rate"`
	Case string  `json:"case"`
	// Run counts from 1.
	Run  int     `json:"run"`
	Mean float64 `json:"mean_us"`
	P50  int64   `json:"p50_us"`
	P99  int64   `json:"p99_us"`
}

// MedianRatio compares the median response time of a case with that of stock.
type MedianRatio struct {
	Rate float64 `json:"rate"`
	Case string  `json:"case"`
	// P50 is the median, over all rounds, of the case's median response time divided by
	// that of stock in the same round; Low and High are its 95 % interval.
	P50  float64 `json:"p50"`
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// Summarize computes the numbers of the report.
func (r Results) Summarize() (s Summary, err error) {
	if len(r.Stock) != len(lab.Points()) || len(r.Reordered) != len(r.Stock) {
		return s, fmt.Errorf("summarize: %d and %d capture points, want %d", len(r.Stock), len(r.Reordered), len(lab.Points()))
	}
	for i, point := range lab.Points() {
		s.Figure4 = append(s.Figure4, PointRates{
			Point: point.Name, Paper: paperRate(point), Stock: r.Stock[i].Rate(), Reordered: r.Reordered[i].Rate(),
		})
	}
	for _, rate := range Rates {
		for _, c := range r.Cases {
			runs, err := r.runs(rate, c.Name)
			if err != nil {
				return s, err
			}
			for i, run := range runs {
				s.Latency = append(s.Latency, RunLatency{
					Rate: rate, Case: c.Name, Run: i + 1,
					Mean: mean(run.Latencies), P50: run.quantile(0.5), P99: run.quantile(0.99),
				})
			}
			if c.Name == stock {
				continue
			}
			ratio, err := r.ratio(rate, c.Name, stock, median)
			if err != nil {
				return s, err
			}
			s.Ratios = append(s.Ratios, MedianRatio{Rate: rate, Case: c.Name, P50: ratio.Value, Low: ratio.Low, High: ratio.High})
		}
	}
	return s, nil
}

// runs returns a case's runs at a rate, in the order of the rounds.
func (r Results) runs(rate float64, name string) (runs []Sample, err error) {
	for i, round := range r.Rounds {
		at := slices.IndexFunc(round.Samples, func(s Sample) bool { return s.Rate == rate && s.Case == name })
		if at < 0 || len(round.Samples[at].Latencies) == 0 {
			return nil, fmt.Errorf("round %d has no run of %s at %g requests/s: start anew with --fresh", i+1, name, rate)
		}
		runs = append(runs, round.Samples[at])
	}
	return runs, nil
}

// quantile returns a quantile of the run's response times, in µs.
func (s Sample) quantile(q float64) int64 {
	return stats.Quantile(slices.Sorted(slices.Values(s.Latencies)), q)
}

// mean returns the mean of response times; 0 without any.
func mean(latencies []int64) float64 {
	if len(latencies) == 0 {
		return 0
	}
	total := 0.0
	for _, l := range latencies {
		total += float64(l)
	}
	return total / float64(len(latencies))
}

// Figures of a run that are compared.
var (
	median  = func(s Sample) float64 { return float64(s.quantile(0.5)) }
	average = func(s Sample) float64 { return mean(s.Latencies) }
	p99     = func(s Sample) float64 { return float64(s.quantile(0.99)) }
	meshCPU = func(s Sample) float64 { return s.MeshCPU }
)

// Interval is a value with its 95 % interval by bootstrap.
type Interval struct{ Value, Low, High float64 }

// ratio compares a figure of a case with that of another, round by round.
func (r Results) ratio(rate float64, of, to string, figure func(Sample) float64) (i Interval, err error) {
	a, err := r.runs(rate, of)
	if err != nil {
		return i, err
	}
	b, err := r.runs(rate, to)
	if err != nil {
		return i, err
	}
	ratios := make([]float64, len(a))
	for k := range a {
		below := figure(b[k])
		if below <= 0 {
			return i, fmt.Errorf("round %d, %s at %g requests/s: nothing to divide by", k+1, to, rate)
		}
		ratios[k] = figure(a[k]) / below
	}
	i.Value = stats.Median(ratios)
	i.Low, i.High = bootstrap(len(ratios), func(pick []int) float64 {
		return stats.MedianOf(pick, func(k int) float64 { return ratios[k] })
	})
	return i, nil
}

// pooled returns a quantile of all response times of a case at a rate, in µs, with the
// interval that comes from drawing other runs.
func (r Results) pooled(rate float64, name string, q float64) (i Interval, err error) {
	runs, err := r.runs(rate, name)
	if err != nil {
		return i, err
	}
	type response struct {
		latency int64
		run     int
	}
	var all []response
	for k, run := range runs {
		for _, latency := range run.Latencies {
			all = append(all, response{latency, k})
		}
	}
	slices.SortFunc(all, func(a, b response) int { return cmp.Compare(b.latency, a.latency) })
	weights := make([]int, len(runs))
	of := func(pick []int) float64 {
		clear(weights)
		total := 0
		for _, k := range pick {
			weights[k]++
			total += len(runs[k].Latencies)
		}
		// From the longest on, as many as are above the quantile in stats.Quantile.
		above := total - 1 - min(int(q*float64(total)), total-1)
		for _, one := range all {
			if above -= weights[one.run]; above < 0 {
				return float64(one.latency)
			}
		}
		return 0 // not reached: above is less than the sum of the weights
	}
	every := make([]int, len(runs))
	for k := range every {
		every[k] = k
	}
	i.Value = of(every)
	i.Low, i.High = bootstrap(len(runs), of)
	return i, nil
}

// resamples is how often the bootstrap draws.
const resamples = 2000

// bootstrap returns the 95 % interval of a statistic of n runs, by drawing n of them
// with replacement again and again (the percentile method). It always draws the same.
func bootstrap(n int, statistic func(pick []int) float64) (low, high float64) {
	random := rand.New(rand.NewPCG(1, uint64(n)))
	values, pick := make([]float64, resamples), make([]int, n)
	for i := range values {
		for k := range pick {
			pick[k] = random.IntN(n)
		}
		values[i] = statistic(pick)
	}
	slices.Sort(values)
	return stats.Quantile(values, 0.025), stats.Quantile(values, 0.975)
}
