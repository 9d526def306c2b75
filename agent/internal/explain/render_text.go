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
	"github.com/layertrace/layertrace/internal/screen"
)

// Widths of text, in columns. Tables are as wide as their longest names, and bars have
// the rest, if it is enough for them. Names are cut in tables that have no other room.
const (
	defaultWidth  = 100
	minWidth      = 72
	maxWidth      = 240
	timeColumns   = 8
	statusColumns = 4
	minBarColumns = 10
	minLane       = 20
)

// TextOptions describe where text is written to.
type TextOptions struct {
	Color bool
	// Width in columns, held between 72 and 240; 0: 100.
	Width int
}

func (o TextOptions) canvas() canvas {
	c := canvas{paint: paint(o.Color), width: defaultWidth}
	if o.Width > 0 {
		c.width = min(max(o.Width, minWidth), maxWidth)
	}
	return c
}

// canvas is the width and the colours of text.
type canvas struct {
	paint
	width int
}

// WriteText writes the report for people: the verdict, the layers and the hops.
func (r *Report) WriteText(w io.Writer, o TextOptions) error {
	p := o.canvas()
	var b strings.Builder
	names, table := r.names(), r.layerTable()
	r.Verdict.writeText(&b, p, names, table.excessText(&r.Verdict))
	b.WriteByte('\n')
	b.WriteString(p.wrap("", r.title()))
	b.WriteString(p.in(faint, fmt.Sprintf("trace %s, %s", printable(r.TraceID), r.Start.UTC().Format(traceTimeFormat))) + "\n")
	table.writeText(&b, p, "TIME")
	r.writeHops(&b, p, names)
	writeNotes(&b, p, r.Notes)
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteText writes the comparison for people.
func (c *Comparison) WriteText(w io.Writer, o TextOptions) error {
	p := o.canvas()
	var b strings.Builder
	table := c.layerTable()
	c.Verdict.writeText(&b, p, c.names(), table.excessText(&c.Verdict))
	b.WriteByte('\n')
	for _, line := range c.summary() {
		b.WriteString(p.wrap("", line))
	}
	table.writeText(&b, p, "SLOW")
	if len(c.SlowTraces) > 0 {
		b.WriteString("\n" + p.in(bold, "Slowest traces") + " (layertrace explain TRACE_ID)\n")
		for _, id := range c.SlowTraces {
			b.WriteString(printable(id) + "\n")
		}
	}
	writeNotes(&b, p, c.Notes)
	_, err := io.WriteString(w, b.String())
	return err
}

func (v *Verdict) writeText(b *strings.Builder, p canvas, names names, excess string) {
	const head = "VERDICT  "
	sgr := alarm
	if !v.blames() {
		sgr = bold
	}
	text := strings.TrimPrefix(p.wrap(head, names.sentence(v)), head)
	b.WriteString(p.in(sgr, "VERDICT") + "  " + p.in(bold, strings.TrimSuffix(text, "\n")) + "\n")
	indent := strings.Repeat(" ", len(head))
	if v.Confidence != "" {
		b.WriteString(indent + "confidence: " + printable(string(v.Confidence)) + "\n")
	}
	if excess != "" {
		b.WriteString(p.wrap(indent, excess))
	}
	for _, each := range v.Evidence {
		b.WriteString(p.wrap(indent+"- ", names.evidence(each)))
	}
}

func writeNotes(b *strings.Builder, p canvas, notes []string) {
	if len(notes) == 0 {
		return
	}
	b.WriteString("\nNotes\n")
	for _, note := range notes {
		b.WriteString(p.wrap("- ", note))
	}
}

// writeText writes the table of layers, with a bar for each row. timeTitle is the
// title of the column of times.
func (t *layerTable) writeText(b *strings.Builder, p canvas, timeTitle string) {
	if len(t.rows) == 0 {
		return
	}
	shareTitle := strings.ToUpper(t.shareTitle)
	layers, places := len("LAYER"), len("LOCATION")
	for i := range t.rows {
		layers = max(layers, 2+columnsOf(nameWithLetters(t.rows[i].Layer, t.rows[i].MergedLayers)))
		places = max(places, columnsOf(t.rows[i].Place))
	}
	numbers := []string{right(timeTitle, timeColumns)}
	if t.compared {
		numbers = append(numbers, right("BASELINE", timeColumns), right("EXCESS", timeColumns))
	}
	tail := strings.Join(append(numbers, shareTitle), " ")
	places = min(places, max(p.width-layers-columnsOf(tail)-2, len("LOCATION")))
	title := fit("LAYER", layers) + " " + fit("LOCATION", places) + " " + tail
	columns := p.width - columnsOf(title) - 1
	if text := "  (| baseline)"; t.compared && len(text) <= columns {
		title += text
	}
	b.WriteString("\n" + p.in(bold, title) + "\n")
	for i := range t.rows {
		row := &t.rows[i]
		line := row.text(p.paint, t.compared, layers, places, len(shareTitle))
		if bar := row.bar(p.paint, t.longest, columns); bar != "" {
			line += " " + bar
		}
		b.WriteString(line + "\n")
	}
	if len(t.merged) > 0 {
		b.WriteString(p.wrap("", mergedNote+" "+letters(t.merged)))
	}
}

// text is the row without its bar.
func (r *layerRow) text(p paint, compared bool, layers, places, shares int) string {
	mark := " "
	if s := styleOf(r.Layer); s.letter != '?' {
		mark = p.in(s.background(), string(s.letter))
	}
	cells := []string{mark + " " + fit(nameWithLetters(r.Layer, r.MergedLayers), layers-2), fit(r.Place, places), right(r.TimeText, timeColumns)}
	if compared {
		excess := right(r.ExcessText, timeColumns)
		if r.Blamed {
			excess = p.in(alarm, excess)
		}
		cells = append(cells, right(r.BaselineText, timeColumns), excess)
	}
	return strings.Join(append(cells, right(r.ShareText, shares)), " ")
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
	if longest <= 0 || columns < minBarColumns {
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
func (r *Report) writeHops(b *strings.Builder, p canvas, names names) {
	if len(r.Hops) == 0 {
		return
	}
	labels, longest := make([]string, len(r.Hops)), len("HOPS")
	for i := range r.Hops {
		h := &r.Hops[i]
		labels[i] = h.indent() + h.ends(names)
		longest = max(longest, columnsOf(labels[i]))
	}
	const besides = timeColumns + statusColumns + len("  ") + len(" ||")
	hops := min(longest, p.width-besides-minLane)
	bar := p.width - besides - hops
	from, to := r.extent()
	left, end := duration(from), duration(to)
	axis := left + right(end, bar+2-utf8.RuneCountInString(left))
	b.WriteString("\n" + p.in(bold, fit("HOPS", hops)+" "+right("TIME", timeColumns)+" "+right("HTTP", statusColumns)) + " " + p.in(faint, axis) + "\n")
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
		b.WriteString(fit(labels[i], hops) + " " + right(h.timeText(), timeColumns) + " " +
			p.in(sgr, right(status, statusColumns)) + " |" + paintLane(p.paint, lane(r.Hops, i, from, to, bar)) + "|\n")
		h.writeDetails(b, p, names, h.indent()+"  ")
	}
	b.WriteString("\n" + p.legend())
}

func (h *Hop) indent() string { return strings.Repeat("  ", min(h.Depth, maxIndent)) }

// writeDetails writes the lines below a hop.
func (h *Hop) writeDetails(b *strings.Builder, p canvas, names names, indent string) {
	if text := h.details(names); text != "" {
		b.WriteString(p.in(faint, strings.TrimSuffix(p.wrap(indent, text), "\n")) + "\n")
	}
	if h.Verdict.blames() {
		b.WriteString(p.in(alarm, strings.TrimSuffix(p.wrap(indent+"> ", names.sentence(&h.Verdict)), "\n")) + "\n")
	}
	for _, note := range h.allNotes() {
		b.WriteString(p.wrap(indent+"note: ", note))
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

// legend explains the letters of lanes: the layers, and in a line of its own the rest.
func (c canvas) legend() string {
	var b strings.Builder
	used := 0
	for _, s := range layerStyles {
		columns := len("A ") + columnsOf(s.layer.Title())
		switch {
		case used > 0 && used+len("  ")+columns > c.width:
			b.WriteByte('\n')
			used = 0
		case used > 0:
			b.WriteString("  ")
			used += len("  ")
		}
		b.WriteString(c.in(s.background(), string(s.letter)) + " " + s.layer.Title())
		used += columns
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

// columnsOf is the width of a text.
func columnsOf(text string) int { return utf8.RuneCountInString(printable(text)) }

// fit makes a text exactly so many columns wide: it adds spaces or cuts the middle, since
// names of a kind differ at their ends.
func fit(text string, columns int) string {
	text = printable(text)
	if all := []rune(text); len(all) > columns {
		end := max((columns-1)/2, 0)
		text = string(all[:max(columns-1-end, 0)]) + "…" + string(all[len(all)-end:])
	}
	return text + strings.Repeat(" ", max(columns-utf8.RuneCountInString(text), 0))
}

// right aligns a text at the right.
func right(text string, columns int) string {
	return strings.Repeat(" ", max(columns-utf8.RuneCountInString(text), 0)) + text
}

// wrap breaks a text into lines. The first begins with first, the others with as
// many spaces.
func (c canvas) wrap(first, text string) string {
	return screen.Wrap(first, printable(text), c.width)
}
