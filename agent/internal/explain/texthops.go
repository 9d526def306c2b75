// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"strconv"
	"strings"
)

// Columns of the list of hops; the bar has the rest.
const (
	hopColumns    = 40
	statusColumns = 4
	barColumns    = width - hopColumns - timeColumns - statusColumns - 5
	// deepest is the depth from which on hops are not indented any more.
	deepest = 8
)

// writeHops writes the tree of hops: a line with a bar for each, and what took
// most of its time.
func (r *Report) writeHops(b *strings.Builder, p paint) {
	if len(r.Hops) == 0 {
		return
	}
	from, to := r.extent()
	left, end := duration(from), duration(to)
	axis := left + right(end, barColumns+2-len([]rune(left)))
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
		indent := strings.Repeat("  ", min(h.Depth, deepest))
		b.WriteString(fit(indent+h.From+" → "+h.To, hopColumns) + " " + right(duration(h.Total), timeColumns) + " " +
			p.in(sgr, right(status, statusColumns)) + " |" + strip(p, lane(r.Hops, i, from, to, barColumns)) + "|\n")
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

// details says where the hop went, and what took most of its time.
func (h *Hop) details() string {
	var words []string
	if way := h.way(); way != "" {
		words = append(words, way)
	}
	for _, big := range h.biggest(3) {
		text := string(big.Layer) + also(big.Layer, big.MergedLayers) + " " + duration(big.Time)
		if big.Baseline >= 0 {
			text += " (typically " + duration(big.Baseline) + ")"
		}
		words = append(words, text)
	}
	if float64(h.Unattributed) >= worthSaying*float64(h.Total) && h.Unattributed > 0 {
		words = append(words, "not attributed "+duration(h.Unattributed))
	}
	if !h.OnCriticalPath {
		words = append(words, "the trace did not wait for it")
	}
	return strings.Join(words, ", ")
}

// way is the hop's way between nodes, "" when no node is known.
func (h *Hop) way() string {
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
	return fmt.Sprintf("%s → %s", from, to)
}
