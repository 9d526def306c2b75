// SPDX-License-Identifier: Apache-2.0

package mtls

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/measure"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/stats"
)

// Seen is what agents made of the attempts of a run, compared with the truth.
type Seen struct {
	// Exact, Time, Inferred and Missing are attempts: joined by times and sizes at all capture
	// points that they passed, at all of them but at some by times only, without a record at
	// all of the sender's or all of the receiver's, and not at all of them.
	Exact    int `json:"joined_exact"`
	Time     int `json:"joined_time"`
	Inferred int `json:"joined_inferred"`
	Missing  int `json:"missing"`
	// Excused are attempts that do not count as one of these: a record was lost, they began
	// before the agent, or none since had a response on their connection.
	Excused int `json:"excused"`
	// Observed are observations at capture points. Wrong are those of an attempt that did not
	// pass there, or with times that are not its own there. Doubled are further ones of an attempt.
	Observed int `json:"observed"`
	Wrong    int `json:"wrong"`
	Doubled  int `json:"doubled"`
	// Guessed are observations with ends that agents flagged as guessed: the times of the
	// last bytes are not compared.
	Guessed int `json:"end_guessed"`
	// Unread are observations of trace contexts that were not decrypted, which are not
	// judged.
	Unread int `json:"not_judged"`
	// Points has the same by capture point.
	Points []PointSeen `json:"points"`
	// TimesOff are quantiles of the difference of times from the truth, in ms.
	TimesOff map[string]float64 `json:"times_off_ms"`
	Examples []string           `json:"examples,omitempty"` // of what is wrong or missing

	off []time.Duration
}

// PointSeen is Seen of a capture point.
type PointSeen struct {
	Point    string `json:"point"`
	Passed   int    `json:"passed"`
	Exact    int    `json:"joined_exact"`
	Time     int    `json:"joined_time"`
	Inferred int    `json:"joined_inferred"`
	Missing  int    `json:"missing"`
	Wrong    int    `json:"wrong"`
}

// Tolerance is how far a time may be from the truth. tcpdump and the agent's programs see a
// packet at different places of the kernel, and a virtual machine can stop in between. A time
// that is farther off is accepted if it lies between the passings of the capture points
// before and after, however far they are apart; at the ends of the path, between the point's
// own and the neighbour's. Each of the four times must be accepted. TimesOff has the
// differences of all accepted times.
const Tolerance = time.Millisecond

// attemptKey are the IDs and the ends of the connection. Attempts of a request can share the
// IDs, and even the connection.
type attemptKey struct {
	connectionEnds
	traceID, spanID string
}

type connectionEnds struct{ client, server string }

// Excuses are why some attempts need not be joined.
type Excuses struct {
	// Lost are the IDs (trace, span) of lost records.
	Lost map[string]bool
	// From is the Unix time in ns from which agents watched; 0: always.
	From int64
	// OwnSpans: at the side of the server, observations have the server's own span, because
	// the records do not have the one on the wire.
	OwnSpans bool
	// Inferred: observations have the span that is on the other side of the proxy in plain
	// text, so they are of the attempts of their trace with their path. They have to say that
	// they are inferred.
	Inferred bool
}

// Compare compares the observations of the agents of a stopped run with the truth.
func (t *Truth) Compare(l *lab.Lab, run *lab.Run, excuses Excuses) (*Seen, error) {
	seen := &Seen{TimesOff: map[string]float64{}}
	byKey, byTrace, spans, traces := map[attemptKey][]int{}, map[attemptKey][]int{}, map[string]bool{}, map[string]bool{}
	for i := range t.Attempts {
		a := &t.Attempts[i]
		key := attemptKey{connectionEnds{a.client.String(), a.server.String()}, a.TraceID, a.SpanID}
		byKey[key] = append(byKey[key], i)
		key.spanID = ""
		byTrace[key] = append(byTrace[key], i)
		spans[a.TraceID+a.SpanID], traces[a.TraceID] = true, true
	}
	joined := map[string]map[int]observe.Join{} // by point and attempt
	wrong := map[string]int{}
	observations, err := measure.ReadExchanges(l, run)
	if err != nil {
		return nil, err
	}
	for _, point := range lab.Points() {
		ofPoint := map[int]observe.Join{}
		joined[point.Name] = ofPoint
		for _, o := range observations[measure.Location{Node: point.Node, Interface: point.Interface}] {
			if o.Server.Port() != lab.AppPort {
				continue // from a client to the gateway
			}
			seen.Observed++
			trace, span := o.Context.TraceID.String(), o.Context.SpanID.String()
			if o.Flags&observe.FlagEndGuessed != 0 {
				seen.Guessed++
			}
			key := attemptKey{connectionEnds{o.Client.String(), o.Server.String()}, trace, span}
			of, known := byKey[key], spans[trace+span]
			if excuses.OwnSpans && !known {
				key.spanID = ""
				of = slices.DeleteFunc(slices.Clone(byTrace[key]), func(i int) bool { return !t.Attempts[i].isReceivedAt(point) })
				known = len(of) > 0
			}
			if excuses.Inferred {
				key.spanID, known = "", traces[trace]
				of = slices.DeleteFunc(slices.Clone(byTrace[key]), func(i int) bool { return pathOf(t.Attempts[i].Path) != o.Path })
			}
			i, off := t.nearest(of, point, &o)
			switch {
			case excuses.Inferred != (o.Join == observe.JoinInferred):
				wrong[point.Name]++
				seen.example("join %q at %s: %s", o.Join, point.Name, t.describe(of, point, &o))
			case !known:
				seen.Unread++
			case i < 0 || slices.Max(off) > Tolerance:
				wrong[point.Name]++
				seen.example("wrong at %s: %s", point.Name, t.describe(of, point, &o))
			case ofPoint[i] != "":
				seen.Doubled++
				seen.example("doubled at %s: %s", point.Name, t.describe(of, point, &o))
			default:
				ofPoint[i] = o.Join
				seen.off = append(seen.off, differences(t.At(&t.Attempts[i], point), timesOf(&o), o.Flags)...)
			}
		}
	}
	t.count(seen, joined, wrong, excuses)
	return seen, nil
}

// pathOf is the path of a target without its query, as agents report it.
func pathOf(target string) string {
	path, _, _ := strings.Cut(target, "?")
	return path
}

// isReceivedAt reports whether a point is at the side of an attempt's server.
func (a *Attempt) isReceivedAt(point lab.Point) bool {
	return point.Interface == a.To.VNIC || point.Interface == lab.PNIC && point.Node == lab.NodeName(a.To.Node)
}

// nearest returns which of some attempts an observation at a point is of, by the times, and
// the differences of the times; -1 without any.
func (t *Truth) nearest(of []int, point lab.Point, o *observe.Observation) (nearest int, off []time.Duration) {
	nearest = -1
	for _, i := range of {
		a := &t.Attempts[i]
		if d := differences(t.At(a, point), t.between(a, point, timesOf(o)), o.Flags); nearest < 0 || slices.Max(d) < slices.Max(off) {
			nearest, off = i, d
		}
	}
	return nearest, off
}

// between returns the times of an observation, those that lie between the passings of the
// capture points before and after replaced by that at the point.
func (t *Truth) between(a *Attempt, point lab.Point, seen Times) Times {
	path := lab.Path(a.From, a.To)
	at := slices.Index(path, point)
	if at < 0 {
		return seen
	}
	here := t.At(a, point)
	earlier, later := here, here // by the way of the request
	if at > 0 {
		earlier = t.At(a, path[at-1])
	}
	if at < len(path)-1 {
		later = t.At(a, path[at+1])
	}
	snap := func(seen *int64, before, here, after int64) {
		if here != 0 && before != 0 && before <= *seen && *seen <= after {
			*seen = here
		}
	}
	snap(&seen.RequestFirst, earlier.RequestFirst, here.RequestFirst, later.RequestFirst)
	snap(&seen.RequestLast, earlier.RequestLast, here.RequestLast, later.RequestLast)
	snap(&seen.ResponseFirst, later.ResponseFirst, here.ResponseFirst, earlier.ResponseFirst)
	snap(&seen.ResponseLast, later.ResponseLast, here.ResponseLast, earlier.ResponseLast)
	return seen
}

// timesOf returns the times of an observation in Unix time.
func timesOf(o *observe.Observation) Times {
	start, _ := o.Extent()
	wall := func(at uint64) int64 {
		if at == 0 {
			return 0
		}
		return o.Wall + int64(at-start)
	}
	return Times{wall(o.Request.First), wall(o.Request.Last), wall(o.Response.First), wall(o.Response.Last)}
}

// differences returns by how much times are off, those that are not flagged as guessed. A
// time that only one side has is off by very much.
func differences(truth, seen Times, flags observe.Flags) []time.Duration {
	pairs := [][2]int64{
		{truth.RequestFirst, seen.RequestFirst}, {truth.RequestLast, seen.RequestLast},
		{truth.ResponseFirst, seen.ResponseFirst}, {truth.ResponseLast, seen.ResponseLast},
	}
	if flags&observe.FlagEndGuessed != 0 {
		pairs = [][2]int64{pairs[0], pairs[2]}
	}
	off := make([]time.Duration, 0, len(pairs))
	for _, pair := range pairs {
		if (pair[0] == 0) != (pair[1] == 0) {
			off = append(off, time.Hour)
			continue
		}
		off = append(off, time.Duration(pair[0]-pair[1]).Abs())
	}
	return off
}

func (t *Truth) describe(of []int, point lab.Point, o *observe.Observation) string {
	text := fmt.Sprintf("trace %s, span %s, %v to %v, join %s, bytes %d and %d, times %v", o.Context.TraceID, o.Context.SpanID,
		o.Client, o.Server, o.Join, o.Request.Bytes, o.Response.Bytes, timesOf(o))
	if i, _ := t.nearest(of, point, o); i >= 0 {
		a := &t.Attempts[i]
		return text + fmt.Sprintf("; truth: %s, status %d, number %d, times %v", a.Path, a.Status, a.Number, t.At(a, point))
	}
	return text + "; no such attempt"
}

// count sums up what was joined of each attempt.
func (t *Truth) count(seen *Seen, joined map[string]map[int]observe.Join, wrong map[string]int, excuses Excuses) {
	answered := map[connection]bool{} // since agents watched
	points := map[string]*PointSeen{}
	for _, point := range lab.Points() {
		points[point.Name] = &PointSeen{Point: point.Name, Wrong: wrong[point.Name]}
		seen.Wrong += wrong[point.Name]
	}
	for i := range t.Attempts {
		a := &t.Attempts[i]
		if !a.Sampled {
			continue // it has no record
		}
		excused := excuses.Lost[a.TraceID+a.SpanID]
		if excuses.From > 0 {
			begun := t.At(a, lab.Path(a.From, a.To)[0]).RequestFirst
			// What was open before is known to be encrypted when both ends have sent something.
			answered[a.connection] = answered[a.connection] || begun >= excuses.From && !a.Response.Empty()
			excused = excused || begun < excuses.From || !answered[a.connection]
		}
		if excused {
			seen.Excused++
			continue
		}
		missing, byTime := 0, 0
		path := lab.Path(a.From, a.To)
		var inferred [2]int // at the side of the sender and of the receiver
		for at, point := range path {
			p := points[point.Name]
			p.Passed++
			switch joined[point.Name][i] {
			case observe.JoinExact:
				p.Exact++
			case observe.JoinTime:
				p.Time++
				byTime++
			case observe.JoinInferred:
				p.Inferred++
				inferred[2*at/len(path)]++
			default:
				p.Missing++
				missing++
				seen.example("missing at %s: trace %s, span %s, %v to %v, number %d, %s, status %d, times %v",
					point.Name, a.TraceID, a.SpanID, a.client, a.server, a.Number, a.Path, a.Status, t.At(a, point))
			}
		}
		switch {
		case 2*max(inferred[0], inferred[1]) == len(path):
			seen.Inferred++
		case missing > 0:
			seen.Missing++
		case byTime > 0:
			seen.Time++
		default:
			seen.Exact++
		}
	}
	for _, point := range lab.Points() {
		seen.Points = append(seen.Points, *points[point.Name])
	}
	slices.Sort(seen.off)
	for name, q := range map[string]float64{"p50": 0.5, "p99": 0.99, "max": 1} {
		seen.TimesOff[name] = float64(stats.Quantile(seen.off, q)) / float64(time.Millisecond)
	}
}

func (s *Seen) example(format string, args ...any) {
	if len(s.Examples) < 40 {
		s.Examples = append(s.Examples, fmt.Sprintf(format, args...))
	}
}
