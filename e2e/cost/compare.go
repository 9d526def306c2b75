// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/layertrace/layertrace/internal/stats"
)

// Comparison is how tools are compared.
type Comparison struct {
	Tools []Tool
	// Loads are rates in requests per second, Saturation or Half.
	Loads []string
	// Pairs is how often each tool is compared with a run without, Duration how long a
	// run is measured.
	Pairs    int
	Duration time.Duration
	Progress func(format string, args ...any)
	// Done is called after each run.
	Done func(Sample) error
}

// Loads that are not a rate: as many requests as the connections carry, and half of that
// without a tool.
const (
	Saturation = "saturation"
	Half       = "half"
)

// Each load uses this many connections, and runs for this long before it is measured.
const (
	connections = 100
	warmUp      = time.Second
)

// ParseLoads checks the names of loads.
func ParseLoads(names []string) error {
	for _, name := range names {
		rate, err := strconv.ParseFloat(name, 64)
		if name != Saturation && name != Half && (err != nil || rate <= 0) {
			return fmt.Errorf("load %q: want a number of requests per second, %s or %s", name, Half, Saturation)
		}
	}
	return nil
}

// Compare measures the tools alternately: a run without a tool, two with one each, a run
// without, and so on, so that each tool has one directly before or after it. The next
// round goes through the tools in the opposite order.
func (t *Testbed) Compare(ctx context.Context, c Comparison) error {
	for round := range c.Pairs {
		for _, name := range c.Loads {
			load, err := t.load(ctx, name, c.Duration)
			if err != nil {
				return err
			}
			c.Progress("round %d of %d: %s", round+1, c.Pairs, name)
			tools := slices.Clone(c.Tools)
			if round%2 == 1 {
				slices.Reverse(tools)
			}
			if err := t.round(ctx, c, load, tools); err != nil {
				return err
			}
		}
	}
	return nil
}

// load returns the load of a name. For half of what the machine carries, that is
// measured first.
func (t *Testbed) load(ctx context.Context, name string, duration time.Duration) (Load, error) {
	load := Load{Name: name, Connections: connections, Warm: warmUp, Duration: duration}
	switch name {
	case Saturation:
	case Half:
		if t.limit == 0 {
			s, err := t.Measure(ctx, nil, Load{Name: Saturation, Connections: connections, Warm: warmUp, Duration: 3 * time.Second})
			if err != nil {
				return load, err
			}
			t.limit = s.Rate
		}
		load.Rate = t.limit / 2
	default:
		var err error
		if load.Rate, err = strconv.ParseFloat(name, 64); err != nil {
			return load, fmt.Errorf("load %q: %w", name, err)
		}
	}
	return load, nil
}

func (t *Testbed) round(ctx context.Context, c Comparison, load Load, tools []Tool) error {
	measure := func(tool *Tool) error {
		if tool != nil {
			load.Sampled = tool.Sampled
		} else {
			load.Sampled = 100 // the same packets
		}
		s, err := t.Measure(ctx, tool, load)
		if err != nil {
			return err
		}
		return c.Done(s)
	}
	for i := range tools {
		if i%2 == 0 {
			if err := measure(nil); err != nil {
				return err
			}
		}
		if err := measure(&tools[i]); err != nil {
			return err
		}
	}
	if len(tools)%2 == 0 {
		return measure(nil)
	}
	return nil
}

// Row is a tool at a load: medians over its runs, and medians of the ratios to the run
// without a tool directly before or after.
type Row struct {
	Tool string `json:"tool"`
	Load string `json:"load"`
	Runs int    `json:"runs"`
	// Per request, in µs.
	CPU        float64 `json:"cpu_us_per_request"`
	Machine    float64 `json:"machine_us_per_request"`
	MachineOff float64 `json:"machine_off_us_per_request"`
	Ends       float64 `json:"ends_us_per_request"`
	EndsOff    float64 `json:"ends_off_us_per_request"`
	Softirq    float64 `json:"softirq_us_per_request"`
	SoftirqOff float64 `json:"softirq_off_us_per_request"`
	// Seen, Lost and Expected are sums over all runs: what the tool saw of the requests
	// that passed its points. ReportedLost is what it says that it lost, in its own unit;
	// nil if it does not say.
	Expected     int  `json:"expected"`
	Seen         int  `json:"seen"`
	Lost         int  `json:"lost"`
	ReportedLost *int `json:"reported_lost"`
	// Spans is how many arrived at the sink, in all runs.
	Spans      int     `json:"spans"`
	RSS        uint64  `json:"rss_bytes"`
	BPF        uint64  `json:"bpf_bytes"`
	LongestRun float64 `json:"longest_run_us"` // the median of the runs' longest
	WakeUps    float64 `json:"wakeups_per_second"`
	// Latencies of the runs with the tool, in µs, and ratios to those without.
	P50       float64  `json:"p50_us"`
	P99       float64  `json:"p99_us"`
	P999      float64  `json:"p999_us"`
	P50Ratio  float64  `json:"p50_ratio"`
	P99Ratio  float64  `json:"p99_ratio"`
	P999Ratio float64  `json:"p999_ratio"`
	P50Range  Interval `json:"p50_ratio_95"`
	P99Range  Interval `json:"p99_ratio_95"`
	P999Range Interval `json:"p999_ratio_95"`
	// RateRatio is that of the responses per second: 1 unless the machine is saturated.
	RateRatio float64  `json:"rate_ratio"`
	RateRange Interval `json:"rate_ratio_95"`
}

// Interval has 95 % of the medians of resamples (bootstrap, percentiles). It is nil for
// fewer than three runs.
type Interval *[2]float64

// pair is a run with a tool and the one without next to it.
type pair struct{ on, off Sample }

// Rows summarizes samples in the order in which they were measured.
func Rows(samples []Sample) (rows []Row) {
	type key struct{ tool, load string }
	var order []key
	pairs := map[key][]pair{}
	for i, s := range samples {
		if s.Tool == Off {
			continue
		}
		for _, next := range []int{i - 1, i + 1} {
			if next >= 0 && next < len(samples) && samples[next].Tool == Off && samples[next].Load == s.Load {
				k := key{s.Tool, s.Load}
				if pairs[k] == nil {
					order = append(order, k)
				}
				pairs[k] = append(pairs[k], pair{s, samples[next]})
				break
			}
		}
	}
	for _, k := range order {
		rows = append(rows, newRow(k.tool, k.load, pairs[k]))
	}
	return rows
}

func newRow(tool, load string, pairs []pair) Row {
	on := func(figure func(Sample) float64) float64 {
		return stats.MedianOf(pairs, func(p pair) float64 { return figure(p.on) })
	}
	off := func(figure func(Sample) float64) float64 {
		return stats.MedianOf(pairs, func(p pair) float64 { return figure(p.off) })
	}
	ratio := func(figure func(Sample) float64) (float64, Interval) {
		ratios := make([]float64, len(pairs))
		for i, p := range pairs {
			ratios[i] = figure(p.on) / figure(p.off)
		}
		return stats.Median(ratios), bootstrap(ratios)
	}
	r := Row{
		Tool: tool, Load: load, Runs: len(pairs),
		CPU: on(perRequest(func(s Sample) int64 { return s.ToolCPU })), Machine: on(machine), MachineOff: off(machine),
		Ends: on(ends), EndsOff: off(ends), Softirq: on(softirq), SoftirqOff: off(softirq),
		RSS: uint64(on(func(s Sample) float64 { return float64(s.RSS) })), BPF: uint64(on(func(s Sample) float64 { return float64(s.BPF) })),
		LongestRun: on(func(s Sample) float64 { return float64(s.LongestRun) / 1e3 }), WakeUps: on(func(s Sample) float64 { return s.WakeUps }),
		P50: on(p50) / 1e3, P99: on(p99) / 1e3, P999: on(p999) / 1e3,
	}
	r.P50Ratio, r.P50Range = ratio(p50)
	r.P99Ratio, r.P99Range = ratio(p99)
	r.P999Ratio, r.P999Range = ratio(p999)
	r.RateRatio, r.RateRange = ratio(func(s Sample) float64 { return s.Rate })
	for _, p := range pairs {
		r.Expected += p.on.Expected
		r.Seen += p.on.Seen
		r.Spans += p.on.Spans
		if p.on.ReportedLost != nil {
			if r.ReportedLost == nil {
				r.ReportedLost = new(int)
			}
			*r.ReportedLost += *p.on.ReportedLost
		}
	}
	r.Lost = r.Expected - r.Seen
	return r
}

func perRequest(part func(Sample) int64) func(Sample) float64 {
	return func(s Sample) float64 { return float64(part(s)) / 1e3 / float64(s.Requests) }
}

var (
	machine = perRequest(func(s Sample) int64 { return s.MachineCPU })
	ends    = perRequest(func(s Sample) int64 { return s.EndsCPU })
	softirq = perRequest(func(s Sample) int64 { return s.Softirq })
	p50     = func(s Sample) float64 { return s.P50 }
	p99     = func(s Sample) float64 { return s.P99 }
	p999    = func(s Sample) float64 { return s.P999 }
)

// bootstrap returns the interval of the median. The same values give the same interval.
func bootstrap(values []float64) Interval {
	if len(values) < 3 {
		return nil
	}
	const resamples = 10_000
	random := rand.New(rand.NewPCG(1, 2))
	medians := make([]float64, resamples)
	resample := make([]float64, len(values))
	for i := range medians {
		for j := range resample {
			resample[j] = values[random.IntN(len(values))]
		}
		medians[i] = stats.Median(resample)
	}
	slices.Sort(medians)
	return &[2]float64{stats.Quantile(medians, 0.025), stats.Quantile(medians, 0.975)}
}
