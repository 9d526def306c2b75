// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/layertrace/layertrace/internal/observe"
	terminal "github.com/layertrace/layertrace/internal/printable"
)

// This file has what text and page share: formats, names, tables, hops.

// Duration writes a time in ns as reports do: with three digits in a suitable unit.
func Duration(ns int64) string { return duration(ns) }

// Share writes a share of 1 as reports do, in percent.
func Share(share float64) string { return percent(share) }

// duration writes ns with three digits in a suitable unit.
func duration(ns int64) string {
	sign, value := "", float64(ns)
	if ns < 0 {
		sign, value = "-", -value
	}
	units := [...]string{"ns", "µs", "ms", "s"}
	unit := 0
	for unit < len(units)-1 && round3(value) >= 1000 {
		value /= 1000
		unit++
	}
	value = round3(value)
	digits := 0
	switch {
	case unit == 0 || value >= 100:
	case value >= 10:
		digits = 1
	default:
		digits = 2
	}
	return sign + strconv.FormatFloat(value, 'f', digits, 64) + " " + units[unit]
}

// round3 rounds to three digits.
func round3(v float64) float64 {
	if v == 0 {
		return 0
	}
	scale := math.Pow(10, 2-math.Floor(math.Log10(v)))
	return math.Round(v*scale) / scale
}

// signedDuration writes ns with three digits and always a sign, except for 0.
func signedDuration(ns int64) string {
	if ns > 0 {
		return "+" + duration(ns)
	}
	return duration(ns)
}

// exact writes all digits of a time.
func exact(ns int64) string { return strconv.FormatInt(ns, 10) + " ns" }

// printable replaces characters that would control a terminal: names come from whoever sent
// the spans.
func printable(text string) string { return terminal.Text(text) }

const (
	timeFormat      = "2006-01-02 15:04:05"
	traceTimeFormat = "2006-01-02 15:04:05.000000 UTC"
	unattributed    = "not attributed"
	attributedTwice = "attributed twice"
	childHops       = "waits for child hops"
)

// layerStyle is how a layer is drawn: as a letter in text, in one of the terminal's
// colours, and by a class on the page.
type layerStyle struct {
	layer  observe.Layer
	letter byte
	color  byte // SGR, '0' to '7'
}

// layerStyles of the layers, from the process outwards.
var layerStyles = []layerStyle{
	{observe.Application, 'A', '2'},
	{observe.ProtocolStack, 'P', '3'},
	{observe.VirtualNetwork, 'V', '6'},
	{observe.NodeDriver, 'D', '5'},
	{observe.RelayNetwork, 'R', '4'},
}

func styleOf(l observe.Layer) layerStyle {
	for _, s := range layerStyles {
		if s.layer == l {
			return s
		}
	}
	return layerStyle{layer: l, letter: '?'}
}

// class is the style of a layer on the page.
func (s layerStyle) class() string {
	if s.letter == '?' {
		return "lx"
	}
	return "l" + string(s.letter-'A'+'a')
}

// others returns the layers merged with the first.
func others(first observe.Layer, merged []observe.Layer) (layers []observe.Layer) {
	for _, l := range merged {
		if l != first {
			layers = append(layers, l)
		}
	}
	return layers
}

// layerTitles are the titles of a layer and of those merged with it.
func layerTitles(first observe.Layer, merged []observe.Layer) []string {
	titles := []string{first.Title()}
	for _, l := range others(first, merged) {
		titles = append(titles, l.Title())
	}
	return titles
}

// title describes the trace and how long it took.
func (r *Report) title() string {
	name := strings.TrimSpace(r.Service + ": " + r.Operation)
	if r.Service == "" && r.Operation == "" {
		name = "A request whose first span is unknown"
	}
	title := name + " took " + duration(r.Total)
	if r.isOpen() {
		title = name + " is " + openText(r.Total)
	}
	switch {
	case r.Total == 0 && r.isOpen():
		return title
	case r.Total == 0:
		return name + ", of unknown duration"
	case r.Baseline.Traces == 0:
		return title + "; no baseline to compare with"
	}
	return fmt.Sprintf("%s, baseline %s (median of %s)", title, duration(r.Baseline.BaselineTotal), counted(r.Baseline.Traces, "trace", "traces"))
}

// summary describes what is compared.
func (c *Comparison) summary() []string {
	if c.Traces == 0 {
		return []string{c.Service + ": no traces were found."}
	}
	lines := []string{fmt.Sprintf("%s: %s from %s to %s UTC", c.Service, counted(c.Traces, "trace", "traces"), c.From.UTC().Format(timeFormat), c.To.UTC().Format(timeFormat))}
	if c.Slow+c.Baseline > 0 {
		slow := counted(c.Slow, "slow trace", "slow traces")
		if c.Threshold > 0 {
			slow += ", above " + duration(c.Threshold) + ","
		}
		line := fmt.Sprintf("%s took %s (median); no baseline to compare with", slow, duration(c.SlowTotal))
		if c.Baseline > 0 {
			line = fmt.Sprintf("%s took %s; %s took %s (medians)",
				slow, duration(c.SlowTotal), counted(c.Baseline, "baseline trace", "baseline traces"), duration(c.BaselineTotal))
		}
		lines = append(lines, line)
	}
	if c.Unattributed != 0 {
		lines = append(lines, remainderText(c.Unattributed, c.SlowTotal)+" (medians of the slow traces)")
	}
	if c.Skipped > 0 {
		var reasons []string
		for _, reason := range slices.Sorted(maps.Keys(c.SkippedReasons)) {
			reasons = append(reasons, fmt.Sprintf("%d %s", c.SkippedReasons[reason], reason))
		}
		lines = append(lines, strings.TrimSuffix(fmt.Sprintf("%d skipped: %s", c.Skipped, strings.Join(reasons, ", ")), ": "))
	}
	return lines
}

// blames reports whether the verdict names a layer.
func (v *Verdict) blames() bool { return v.Layer != "" && v.Layer != observe.NoLayer }

// sentence is the verdict as one sentence.
func (v *Verdict) sentence() string {
	switch {
	case v.Text != "":
		return v.Text
	case !v.blames():
		return "No layer is slower than the baseline."
	}
	return fmt.Sprintf("The %s of %s took %s.", v.Layer.Title(), v.Location, duration(v.Time))
}

// mergedNote explains rows of several layers.
const mergedNote = "A row of several layers has their time together: no capture point separates them."

// minShown is the share of a whole from which on a part is worth mentioning.
const minShown = 0.02

// maxIndent is the depth from which on hops are not indented further.
const maxIndent = 8

// details describes a hop: its route, and what took most of its time.
func (h *Hop) details(names names) string {
	var parts []string
	if route := h.route(); route != "" {
		parts = append(parts, route)
	}
	largest := h.largest(3)
	for _, s := range largest {
		text := strings.Join(layerTitles(s.Layer, s.MergedLayers), " + ")
		if slices.ContainsFunc(largest, func(o Segment) bool {
			return o.Layer == s.Layer && (o.Location != s.Location || o.Namespace != s.Namespace)
		}) {
			text += " of " + names.place(s.Layer, s.Location, s.Namespace)
		}
		text += " " + duration(s.Time)
		if way := s.wayText(); way != "" {
			text += " (" + way + ")"
		}
		if s.Baseline >= 0 {
			text += " (baseline " + duration(s.Baseline) + ")"
		}
		parts = append(parts, text)
	}
	if h.Unattributed != 0 && h.Total > 0 {
		parts = append(parts, remainderText(h.Unattributed, h.Total))
	}
	if !h.OnCriticalPath {
		parts = append(parts, "not on the critical path")
	}
	return strings.Join(parts, ", ")
}

// remainderText describes the part of a whole that no layer has, or that several have.
func remainderText(ns, whole int64) string {
	if ns < 0 {
		return duration(-ns) + " of " + duration(whole) + " " + attributedTwice + ": times contradict each other"
	}
	return duration(ns) + " of " + duration(whole) + " " + unattributed
}

// ends names the services at both ends of a hop.
func (h *Hop) ends(names names) string {
	return names.service(h.From, h.FromNamespace) + " → " + names.service(h.To, h.ToNamespace)
}

// timeText is how long the hop took, as far as it is known.
func (h *Hop) timeText() string {
	if h.Total == 0 && len(h.Segments) == 0 {
		return "?"
	}
	return duration(h.Total)
}

// openText says for how long an exchange that is still open has lasted. Without any response
// that is unknown.
func openText(ns int64) string {
	if ns == 0 {
		return "still open, without a response so far"
	}
	return "still open, " + duration(ns) + " so far"
}

// flagWords are the words for flags that are no reason to doubt a time, see cutReasons.
var flagWords = []struct {
	flag observe.Flags
	text string
}{
	{observe.FlagNoResponse, "no response was seen"},
	{observe.FlagReset, "RST ended the connection before the exchange was complete"},
	{observe.FlagSeveralContexts, "the request has several trace contexts with different IDs: it may belong to another trace"},
	{observe.FlagOutsideWindow, "the trace context is outside of what an agent reads of a request"},
	{observe.FlagTraceLimited, "an agent left out requests of the trace: it had too many, or the agent kept within its CPU limit"},
	{observe.FlagUpgraded, "the connection became a tunnel: the time ends there"},
}

// allNotes are the hop's notes, and what its flags mean.
func (h *Hop) allNotes() (notes []string) {
	flags := observe.FlagsOf(h.Flags)
	if flags&observe.FlagStillOpen != 0 {
		notes = append(notes, openText(h.Total))
	}
	for _, r := range cutReasons {
		if flags&r.flag&^observe.FlagStillOpen != 0 {
			notes = append(notes, r.text)
		}
	}
	for _, w := range flagWords {
		if flags&w.flag != 0 && !slices.Contains(h.Notes, w.text) {
			notes = append(notes, w.text)
		}
	}
	return append(notes, h.Notes...)
}

// isOpen reports whether the trace waits for an exchange that is still open.
func (r *Report) isOpen() bool {
	return slices.ContainsFunc(r.Hops, func(h Hop) bool { return h.OnCriticalPath && observe.FlagsOf(h.Flags)&observe.FlagStillOpen != 0 })
}

// route describes the nodes of a hop, "" if both are unknown.
func (h *Hop) route() string {
	from, to := h.FromNode, h.ToNode
	switch {
	case from == "" && to == "":
		return ""
	case from == to:
		return "in " + from
	case from == "":
		return "to " + to
	case to == "":
		return "from " + from
	}
	return from + " → " + to
}

// largest returns the layers that took most of the hop's time, at most so many.
func (h *Hop) largest(most int) []Segment {
	var sums []Segment
	for _, s := range h.Segments {
		i := slices.IndexFunc(sums, func(o Segment) bool {
			return o.Layer == s.Layer && o.Location == s.Location && o.Namespace == s.Namespace && slices.Equal(o.MergedLayers, s.MergedLayers)
		})
		if i < 0 {
			sums = append(sums, s)
			continue
		}
		sums[i].Time += s.Time
		if s.Way != sums[i].Way {
			sums[i].Way = ""
		}
		sums[i].AtLeast += s.AtLeast
		if sums[i].Baseline < 0 || s.Baseline < 0 {
			sums[i].Baseline = -1
		} else {
			sums[i].Baseline += s.Baseline
		}
	}
	slices.SortStableFunc(sums, func(a, b Segment) int { return cmp.Compare(b.Time, a.Time) })
	for i := range sums {
		if i == most || float64(sums[i].Time) < minShown*float64(h.Total) {
			return sums[:i]
		}
	}
	return sums
}

// children returns the child hops of a hop.
func children(hops []Hop, i int) []Hop {
	var found []Hop
	for _, h := range hops[i+1:] {
		if h.Depth <= hops[i].Depth {
			break
		}
		if h.Depth == hops[i].Depth+1 {
			found = append(found, h)
		}
	}
	return found
}

// wayText says which message had most of a time of both, "" if that is unknown.
func (s *Segment) wayText() string {
	if s.Way == "" {
		return ""
	}
	return "at least " + duration(s.AtLeast) + " on the way of the " + string(s.Way)
}

// phaseText is the phase, and which message had most of a time of both.
func (s *Segment) phaseText() string {
	if way := s.wayText(); way != "" {
		return string(s.Phase) + ", " + way
	}
	return string(s.Phase)
}

// piece is a time that a segment is drawn over.
type piece struct{ start, time int64 }

// pieces are where a segment is drawn: a time of both messages in two halves, or on the
// way that had most of it.
func (s *Segment) pieces() []piece {
	if s.ResponseStart == 0 {
		return []piece{{s.Start, s.Time}}
	}
	return []piece{{s.Start, s.Time / 2}, {s.ResponseStart, s.Time - s.Time/2}}
}

// extent is the time of all hops and of the trace.
func (r *Report) extent() (from, to int64) {
	to = r.Total
	for i := range r.Hops {
		from = min(from, r.Hops[i].Start)
		to = max(to, r.Hops[i].Start+r.Hops[i].Total)
	}
	return from, to
}
