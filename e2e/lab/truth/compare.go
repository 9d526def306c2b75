// SPDX-License-Identifier: Apache-2.0

package truth

import (
	"fmt"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/internal/observe"
)

// Acquired is how well the agents did at one capture point.
type Acquired struct {
	lab.Point
	// Passed is the number of requests with a trace context that passed.
	Passed int
	// Acquired is how many of these an agent reported, by trace and span ID.
	Acquired int
	// Doubled counts reports beyond the first of the same request.
	Doubled int
	// Unknown counts reports of requests that did not pass here.
	Unknown int
	// WrongEnds counts reports whose client or server is not the request's.
	WrongEnds int
}

// Rate is the share of the passed requests that was acquired; 0 when none
// passed.
func (a Acquired) Rate() float64 {
	if a.Passed == 0 {
		return 0
	}
	return float64(a.Acquired) / float64(a.Passed)
}

// Compare compares what the agents of a stopped run reported with the hops.
func Compare(l *lab.Lab, run *lab.Run, hops []Hop) ([]Acquired, error) {
	expected := map[string]map[Key]Hop{}
	for _, hop := range hops {
		for _, point := range lab.Path(hop.From, hop.To) {
			if expected[point.Name] == nil {
				expected[point.Name] = map[Key]Hop{}
			}
			expected[point.Name][hop.Key] = hop
		}
	}
	reported, err := readExchanges(l, run)
	if err != nil {
		return nil, err
	}
	var results []Acquired
	for _, point := range lab.Points() {
		passed := expected[point.Name]
		result := Acquired{Point: point, Passed: len(passed)}
		seen := map[Key]bool{}
		for _, x := range reported[location{point.Node, point.Interface}] {
			result.count(x, passed, seen)
		}
		results = append(results, result)
	}
	return results, nil
}

func (a *Acquired) count(x observe.Observation, passed map[Key]Hop, seen map[Key]bool) {
	key := Key{x.Context.TraceID.String(), x.Context.SpanID.String()}
	hop, ok := passed[key]
	switch {
	case !ok:
		a.Unknown++
		return
	case seen[key]:
		a.Doubled++
		return
	}
	seen[key] = true
	a.Acquired++
	if x.Client != hop.Client || x.Server != hop.Server {
		a.WrongEnds++
	}
}

// Exact returns an error unless every request was acquired exactly once, with
// the right ends, and nothing else was.
func (a Acquired) Exact() error {
	if a.Passed > 0 && a.Acquired == a.Passed && a.Doubled+a.Unknown+a.WrongEnds == 0 {
		return nil
	}
	return fmt.Errorf("%s: %d of %d acquired, %d doubled, %d unknown, %d with wrong ends",
		a.Name, a.Acquired, a.Passed, a.Doubled, a.Unknown, a.WrongEnds)
}
