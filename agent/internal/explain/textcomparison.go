// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/layertrace/layertrace/internal/observe"
)

// WriteText writes the comparison for people, 100 columns wide.
func (c *Comparison) WriteText(w io.Writer, color bool) error {
	p := paint(color)
	var b strings.Builder
	c.Verdict.writeText(&b, p)
	b.WriteByte('\n')
	for _, line := range c.summary() {
		b.WriteString(wrap("", line))
	}
	c.writeLayers(&b, p)
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

// summary says what was compared.
func (c *Comparison) summary() []string {
	if c.Traces == 0 {
		return []string{c.Service + ": no traces were found."}
	}
	lines := []string{fmt.Sprintf("%s: %d traces from %s to %s", c.Service, c.Traces, c.From.UTC().Format("2006-01-02 15:04:05"), c.To.UTC().Format("2006-01-02 15:04:05 UTC"))}
	if c.Slow+c.Baseline > 0 {
		lines = append(lines, fmt.Sprintf("%d slow ones, above %s, took %s; %d typical ones took %s (medians)",
			c.Slow, duration(c.Threshold), duration(c.SlowTotal), c.Baseline, duration(c.BaselineTotal)))
	}
	if c.Left > 0 {
		var reasons []string
		for _, reason := range slices.Sorted(maps.Keys(c.Reasons)) {
			reasons = append(reasons, fmt.Sprintf("%d %s", c.Reasons[reason], reason))
		}
		lines = append(lines, strings.TrimSuffix(fmt.Sprintf("%d left out: %s", c.Left, strings.Join(reasons, ", ")), ": "))
	}
	return lines
}

// writeLayers writes a bar of the slow traces for each layer, with a mark at
// the typical ones.
func (c *Comparison) writeLayers(b *strings.Builder, p paint) {
	if len(c.Layers) == 0 {
		return
	}
	head := strings.Join([]string{
		fit("LAYER", layerColumns), fit("PLACE", placeColumns), right("SLOW", timeColumns),
		right("TYPICAL", timeColumns), right("EXCESS", timeColumns), right("SHARE", shareColumns),
	}, " ")
	b.WriteString("\n" + p.in(bold, head) + "  (| typical)\n")
	longest := int64(0)
	for _, d := range c.Layers {
		longest = max(longest, d.Slow, d.Baseline)
	}
	var covers []observe.Layer
	for i := range c.Layers {
		d := &c.Layers[i]
		row := Share{Layer: d.Layer, Location: d.Location, Time: d.Slow, Baseline: d.Baseline, Share: d.Share, MergedLayers: d.MergedLayers}
		blamed := c.Verdict.blames() && d.Layer == c.Verdict.Layer && d.Location == c.Verdict.Location
		b.WriteString(row.line(p, true, blamed) + " " + gauge(p, lookOf(d.Layer).ansi, d.Slow, d.Baseline, longest, width-len(head)-1) + "\n")
		covers = append(covers, d.MergedLayers...)
	}
	if text := coversText(covers); text != "" {
		b.WriteString(wrap("", text))
	}
}
