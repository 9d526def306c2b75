// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"strings"

	"github.com/layertrace/layertrace/internal/observe"
)

// Columns of the tables of layers.
const (
	layerColumns = 21
	placeColumns = 22
	timeColumns  = 8
	shareColumns = 5
)

// writeLayers writes the layers of all hops, with a bar for each.
func (r *Report) writeLayers(b *strings.Builder, p paint) {
	if len(r.Layers) == 0 {
		return
	}
	typical := r.Baseline.Traces > 0
	head := []string{fit("LAYER", layerColumns), fit("PLACE", placeColumns), right("TIME", timeColumns)}
	if typical {
		head = append(head, right("TYPICAL", timeColumns), right("EXCESS", timeColumns))
	}
	head = append(head, right("SHARE", shareColumns))
	title := strings.Join(head, " ")
	if typical {
		title += "  (| typical)"
	}
	b.WriteString("\n" + p.in(bold, title) + "\n")
	longest, columns := r.Unattributed, width-len(strings.Join(head, " "))-1
	for _, s := range r.Layers {
		longest = max(longest, s.Time, s.Baseline)
	}
	for i := range r.Layers {
		s := &r.Layers[i]
		blamed := r.Verdict.blames() && s.Layer == r.Verdict.Layer && s.Location == r.Verdict.Location
		b.WriteString(s.line(p, typical, blamed) + " " + gauge(p, lookOf(s.Layer).ansi, s.Time, s.Baseline, longest, columns) + "\n")
	}
	if r.Unattributed > 0 {
		rest := Share{Layer: "not attributed", Time: r.Unattributed, Baseline: -1}
		if r.Total > 0 {
			rest.Share = float64(r.Unattributed) / float64(r.Total)
		}
		b.WriteString(rest.line(p, typical, false) + " " + p.in(faint, gauge(false, "", rest.Time, -1, longest, columns)) + "\n")
	}
	if text := coversText(r.covers()); text != "" {
		b.WriteString(wrap("", text))
	}
}

// line is a row without its bar.
func (s *Share) line(p paint, typical, blamed bool) string {
	letter := byte(' ')
	if l := lookOf(s.Layer); l.letter != '?' {
		letter = l.letter
	}
	cells := []string{
		p.in(lookSGR(letter), string(letter)) + " " + fit(string(s.Layer)+also(s.Layer, s.MergedLayers), layerColumns-2),
		fit(s.Location, placeColumns), right(duration(s.Time), timeColumns),
	}
	if typical {
		usual, excess := "", ""
		if s.Baseline >= 0 {
			usual, excess = duration(s.Baseline), difference(s.Time-s.Baseline)
		}
		excess = right(excess, timeColumns)
		if blamed {
			excess = p.in(alarm, excess)
		}
		cells = append(cells, right(usual, timeColumns), excess)
	}
	return strings.Join(append(cells, right(percent(s.Share), shareColumns)), " ")
}

func lookSGR(letter byte) string {
	for _, l := range looks {
		if l.letter == letter {
			return l.ansi
		}
	}
	return "0"
}

// covers are the layers that were put to another one somewhere.
func (r *Report) covers() []observe.Layer {
	var all []observe.Layer
	for i := range r.Layers {
		all = append(all, r.Layers[i].MergedLayers...)
	}
	for i := range r.Hops {
		for _, part := range r.Hops[i].Segments {
			all = append(all, part.MergedLayers...)
		}
	}
	return all
}

// coversText says what "+V" means, "" when it does not occur.
func coversText(all []observe.Layer) string {
	if len(all) == 0 {
		return ""
	}
	return "+ and a letter: that layer is in the time too. No capture point stands between them."
}
