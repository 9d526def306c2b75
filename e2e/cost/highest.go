// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/layertrace/layertrace/internal/stats"
)

// Search is how the highest rates are searched at which tools report no loss.
type Search struct {
	Tools []Tool
	// Low and High are rates in requests per second between which they are searched, by
	// Steps bisections on a logarithmic scale. It is done Times times.
	Low, High float64
	Steps     int
	Times     int
	Duration  time.Duration
	Progress  func(format string, args ...any)
	// Done is called after each run, with the rate that was asked for.
	Done func(rate float64, carried bool, s Sample) error
}

// Highest is what was found for a tool.
type Highest struct {
	Tool string `json:"tool"`
	// Rates are the highest rates in requests per second of each search; 0 if the first
	// rates above Low were too high already. Rate is their median.
	Rates []float64 `json:"rates"`
	Rate  float64   `json:"rate"`
	// Above are the lowest rates that were too high, or High.
	Above []float64 `json:"above"`
}

// reached is the part of a rate that the client must reach for it to count.
const reached = 0.98

// carried reports whether a run at a rate was without a loss, by what the tool reports and by
// what it saw. A client that did not reach the rate shows that the machine does not carry it.
func carried(s Sample, rate float64) bool {
	return s.Seen >= s.Expected && (s.ReportedLost == nil || *s.ReportedLost == 0) && s.Rate >= reached*rate
}

// bracket has a rate between two: one that was carried (0: none was) and one that was not.
type bracket struct{ low, high, least float64 }

func (b *bracket) next() float64 { return math.Sqrt(max(b.low, b.least) * b.high) }

func (b *bracket) note(rate float64, carried bool) {
	if carried {
		b.low = rate
	} else {
		b.high = rate
	}
}

// Search searches the highest rates. The tools take turns: each step of one comes directly
// before or after the same step of the others, every second step in the opposite order.
func (t *Testbed) Search(ctx context.Context, c Search) ([]Highest, error) {
	found := make([]Highest, len(c.Tools))
	order := make([]int, len(c.Tools))
	for i := range order {
		found[i].Tool, order[i] = c.Tools[i].Name, i
	}
	for time := range c.Times {
		brackets := make([]bracket, len(c.Tools))
		for i := range brackets {
			brackets[i] = bracket{high: c.High, least: c.Low}
		}
		for step := range c.Steps {
			c.Progress("search %d of %d, step %d of %d", time+1, c.Times, step+1, c.Steps)
			for _, i := range order {
				if err := t.try(ctx, c, &c.Tools[i], &brackets[i]); err != nil {
					return nil, err
				}
			}
			slices.Reverse(order)
		}
		for i, b := range brackets {
			found[i].Rates, found[i].Above = append(found[i].Rates, b.low), append(found[i].Above, b.high)
		}
	}
	for i := range found {
		found[i].Rate = stats.Median(found[i].Rates)
	}
	return found, nil
}

// try measures a tool at the next rate of its bracket.
func (t *Testbed) try(ctx context.Context, c Search, tool *Tool, b *bracket) error {
	rate := math.Round(b.next())
	s, err := t.Measure(ctx, tool, Load{
		Name: fmt.Sprint(rate), Rate: rate, Connections: connections, Warm: warmUp, Duration: c.Duration, Sampled: tool.Sampled,
	})
	if err != nil {
		return err
	}
	b.note(rate, carried(s, rate))
	return c.Done(rate, carried(s, rate), s)
}
