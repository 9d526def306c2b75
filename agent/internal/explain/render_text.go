// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/layertrace/layertrace/internal/observe"
)

// Columns. Text is at most width wide; bars have what the tables leave.
const (
	width           = 100
	layerColumns    = 21
	locationColumns = 22
	timeColumns     = 8
	shareColumns    = 5
	hopColumns      = 40
	statusColumns   = 4
	barColumns      = width - hopColumns - timeColumns - statusColumns - 5
)

// WriteText writes the report for people, 100 columns wide: the verdict, the layers
// and the hops.
func (r *Report) WriteText(w io.Writer, color bool) error {
	p := paint(color)
	var b strings.Builder
	r.Verdict.writeText(&b, p)
	b.WriteByte('\n')
	b.WriteString(wrap("", r.title()))
	b.WriteString(p.in(faint, fmt.Sprintf("trace %s, %s", printable(r.TraceID), r.Start.UTC().Format(traceTimeFormat))) + "\n")
	table := r.layerTable()
	table.writeText(&b, p, "TIME")
	r.writeHops(&b, p)
	writeNotes(&b, r.Notes)
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteText writes the comparison for people, 100 columns wide.
func (c *Comparison) WriteText(w io.Writer, color bool) error {
	p := paint(color)
	var b strings.Builder
	c.Verdict.writeText(&b, p)
	b.WriteByte('\n')
	for _, line := range c.summary() {
		b.WriteString(wrap("", line))
	}
	table := c.layerTable()
	table.writeText(&b, p, "SLOW")
	if len(c.SlowTraces) > 0 {
		b.WriteString("\n" + p.in(bold, "Slowest traces") + " (layertrace explain TRACE_ID)\n")
		for _, id := range c.SlowTraces {
			b.WriteString(printable(id) + "\n")
		}
	}
	writeNotes(&b, c.Notes)
	_, err := io.WriteString(w, b.String())
	return err
}

func (v *Verdict) writeText(b *strings.Builder, p paint) {
	const head = "VERDICT  "
	sgr := alarm
	if !v.blames() {
		sgr = bold
	}
	text := strings.TrimPrefix(wrap(head, v.sentence()), head)
	b.WriteString(p.in(sgr, "VERDICT") + "  " + p.in(bold, strings.TrimSuffix(text, "\n")) + "\n")
	indent := strings.Repeat(" ", len(head))
	if v.Confidence != "" {
		b.WriteString(indent + "confidence: " + printable(string(v.Confidence)) + "\n")
	}
	for _, each := range v.Evidence {
		b.WriteString(wrap(indent+"- ", each))
	}
}

func writeNotes(b *strings.Builder, notes []string) {
	if len(notes) == 0 {
		return
	}
	b.WriteString("\nNotes\n")
	for _, note := range notes {
		b.WriteString(wrap("- ", note))
	}
}

// writeText writes the table of layers, with a bar for each row. timeTitle is the
// title of the column of times.
func (t *layerTable) writeText(b *strings.Builder, p paint, timeTitle string) {
	if len(t.rows) == 0 {
		return
	}
	head := []string{fit("LAYER", layerColumns), fit("LOCATION", locationColumns), right(timeTitle, timeColumns)}
	if t.compared {
		head = append(head, right("BASELINE", timeColumns), right("EXCESS", timeColumns))
	}
	title := strings.Join(append(head, right("SHARE", shareColumns)), " ")
	columns := width - len(title) - 1
	if t.compared {
		title += "  (| baseline)"
	}
	b.WriteString("\n" + p.in(bold, title) + "\n")
	for i := range t.rows {
		row := &t.rows[i]
		b.WriteString(row.text(p, t.compared) + " " + row.bar(p, t.longest, columns) + "\n")
	}
	if len(t.merged) > 0 {
		b.WriteString(wrap("", mergedNote+" "+letters(t.merged)))
	}
}

// text is the row without its bar.
func (r *layerRow) text(p paint, compared bool) string {
	mark := " "
	if s := styleOf(r.Layer); s.letter != '?' {
		mark = p.in(s.background(), string(s.letter))
	}
	cells := []string{mark + " " + fit(nameWithLetters(r.Layer, r.MergedLayers), layerColumns-2), fit(r.Location, locationColumns), right(r.TimeText, timeColumns)}
	if compared {
		excess := right(r.ExcessText, timeColumns)
		if r.Blamed {
			excess = p.in(alarm, excess)
		}
		cells = append(cells, right(r.BaselineText, timeColumns), excess)
	}
	return strings.Join(append(cells, right(r.ShareText, shareColumns)), " ")
}

// nameWithLetters names a layer, and the layers merged with it by their letters, as
// "protocol stack+V".
func nameWithLetters(first observe.Layer, merged []observe.Layer) string {
	name := first.Title()
	for _, l := range others(first, merged) {
		name += "+" + string(styleOf(l).letter)
	}
	return name
}

// letters explains the letters of layers, each once.
func letters(layers []observe.Layer) string {
	var list []string
	for _, s := range layerStyles {
		if slices.Contains(layers, s.layer) {
			list = append(list, "+"+string(s.letter)+": "+s.layer.Title())
		}
	}
	return strings.Join(list, ", ") + "."
}

// bar draws the time of a row, with a mark where the baseline ends.
func (r *layerRow) bar(p paint, longest int64, columns int) string {
	if longest <= 0 {
		return ""
	}
	cells := func(ns int64) int {
		return int(math.Round(float64(columns) * float64(min(max(ns, 0), longest)) / float64(longest)))
	}
	filled := cells(r.Time)
	if filled == 0 && r.Time > 0 {
		filled = 1
	}
	mark := -1
	if r.Baseline >= 0 {
		mark = min(cells(r.Baseline), columns-1)
	}
	style := styleOf(r.Layer)
	var b strings.Builder
	for c := range columns {
		switch {
		case c == mark && c < filled:
			b.WriteString(p.in(style.background(), "|"))
		case c == mark:
			b.WriteString("|")
		case c < filled:
			b.WriteString(p.in(style.foreground(), "█"))
		case c > mark:
			return b.String()
		default:
			b.WriteByte(' ')
		}
	}
	return b.String()
}

// writeHops writes the tree of hops: a line with a lane for each, and below it what
// took most of its time.
func (r *Report) writeHops(b *strings.Builder, p paint) {
	if len(r.Hops) == 0 {
		return
	}
	from, to := r.extent()
	left, end := duration(from), duration(to)
	axis := left + right(end, barColumns+2-utf8.RuneCountInString(left))
	b.WriteString("\n" + p.in(bold, fit("HOPS", hopColumns)+" "+right("TIME", timeColumns)+" "+right("HTTP", statusColumns)) + " " + p.in(faint, axis) + "\n")
	for i := range r.Hops {
		h := &r.Hops[i]
		status := ""
		if h.Status != 0 {
			status = strconv.Itoa(h.Status)
		}
		sgr := "0"
		if h.Status >= 500 {
			sgr = alarm
		}
		indent := strings.Repeat("  ", min(h.Depth, maxIndent))
		b.WriteString(fit(indent+h.From+" → "+h.To, hopColumns) + " " + right(duration(h.Total), timeColumns) + " " +
			p.in(sgr, right(status, statusColumns)) + " |" + paintLane(p, lane(r.Hops, i, from, to, barColumns)) + "|\n")
		h.writeDetails(b, p, indent+"  ")
	}
	b.WriteString("\n" + legend(p))
}

// writeDetails writes the lines below a hop.
func (h *Hop) writeDetails(b *strings.Builder, p paint, indent string) {
	if text := h.details(); text != "" {
		b.WriteString(p.in(faint, strings.TrimSuffix(wrap(indent, text), "\n")) + "\n")
	}
	if h.Verdict.blames() {
		b.WriteString(p.in(alarm, strings.TrimSuffix(wrap(indent+"> ", h.Verdict.sentence()), "\n")) + "\n")
	}
	for _, note := range h.Notes {
		b.WriteString(wrap(indent+"note: ", note))
	}
}

// Cells of a lane without a layer.
const (
	cellOutside      = ' ' // before or after the hop
	cellChild        = '-' // waits for child hops
	cellUnattributed = '.'
)

// lane draws a hop over the time of the trace, in cells of equal time. Each cell
// has the letter of what took most of it.
func lane(hops []Hop, i int, from, to int64, cells int) []byte {
	hop := &hops[i]
	inside := children(hops, i)
	drawn := make([]byte, cells)
	span := float64(max(to-from, 1))
	edge := func(c int) float64 { return float64(from) + span*float64(c)/float64(cells) }
	for c := range drawn {
		low, high := edge(c), edge(c+1)
		own := overlap(low, high, hop.Start, hop.Start+hop.Total)
		if own < (high-low)/2 && !(own > 0 && float64(hop.Total) < high-low) {
			drawn[c] = cellOutside
			continue
		}
		best, most, inSegments := byte(cellUnattributed), 0.0, 0.0
		for s := range hop.Segments {
			segment := &hop.Segments[s]
			o := 0.0
			for _, piece := range segment.pieces() {
				o += overlap(low, high, piece.start, piece.start+piece.time)
			}
			if inSegments += o; o > most {
				best, most = styleOf(segment.Layer).letter, o
			}
		}
		rest := own - inSegments
		waits := 0.0
		for _, child := range inside {
			waits += overlap(low, high, child.Start, child.Start+child.Total)
		}
		waits = min(waits, rest)
		if waits > most {
			best, most = cellChild, waits
		}
		if rest-waits > most {
			best = cellUnattributed
		}
		drawn[c] = best
	}
	return drawn
}

// overlap is the part of the time from start to end that is between low and high.
func overlap(low, high float64, start, end int64) float64 {
	return max(min(high, float64(end))-max(low, float64(start)), 0)
}

// paintLane writes a lane.
func paintLane(p paint, cells []byte) string {
	var b strings.Builder
	for start := 0; start < len(cells); {
		end := start
		for end < len(cells) && cells[end] == cells[start] {
			end++
		}
		text, sgr := string(cells[start:end]), faint
		if cells[start] == cellOutside {
			sgr = ""
		}
		for _, s := range layerStyles {
			if s.letter == cells[start] {
				sgr = s.background()
			}
		}
		b.WriteString(p.in(sgr, text))
		start = end
	}
	return b.String()
}

// legend explains the letters of lanes, in two lines.
func legend(p paint) string {
	var b strings.Builder
	for i, s := range layerStyles {
		if i > 0 {
			b.WriteString("  ")
		}
		b.WriteString(p.in(s.background(), string(s.letter)) + " " + s.layer.Title())
	}
	return b.String() + "\n" + string(rune(cellChild)) + " " + childHops + "  " + string(rune(cellUnattributed)) + " " + unattributed + "\n"
}

// paint writes in colours, or not.
type paint bool

// SGR parameters (ECMA-48).
const (
	bold    = "1"
	faint   = "2"
	inverse = "7"
	alarm   = "1;31"
)

func (p paint) in(sgr, text string) string {
	if !p || text == "" || sgr == "" {
		return text
	}
	return "\x1b[" + sgr + "m" + text + "\x1b[0m"
}

// background is black on the layer's colour.
func (s layerStyle) background() string {
	if s.color == 0 {
		return inverse
	}
	return "30;4" + string(s.color)
}

// foreground is the layer's colour.
func (s layerStyle) foreground() string {
	if s.color == 0 {
		return faint
	}
	return "3" + string(s.color)
}

// fit makes a text exactly so many columns wide: it cuts the end or adds spaces.
func fit(text string, columns int) string {
	text = printable(text)
	if utf8.RuneCountInString(text) > columns {
		text = string([]rune(text)[:max(columns-1, 0)]) + "…"
	}
	return text + strings.Repeat(" ", max(columns-utf8.RuneCountInString(text), 0))
}

// right aligns a text at the right.
func right(text string, columns int) string {
	return strings.Repeat(" ", max(columns-utf8.RuneCountInString(text), 0)) + text
}

// wrap breaks a text into lines. The first begins with first, the others with as
// many spaces.
func wrap(first, text string) string {
	indent := strings.Repeat(" ", utf8.RuneCountInString(first))
	var b strings.Builder
	line := first
	for i, word := range strings.Fields(printable(text)) {
		switch {
		case i == 0:
			line += word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width:
			b.WriteString(line + "\n")
			line = indent + word
		default:
			line += " " + word
		}
	}
	b.WriteString(line + "\n")
	return b.String()
}
