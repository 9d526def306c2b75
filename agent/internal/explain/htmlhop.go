// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"html/template"
)

// hopView is a hop as the template takes it: a line, and a table behind it.
type hopView struct {
	ID                     int
	From, To, SpanID       string
	Phase, Details         string
	Indent, Status         int
	Total                  int64
	OnCriticalPath, Blamed bool
	Verdict                verdictView
	Segments               []segmentView
	Rows                   []partView
	Notes                  []string
}

// segmentView is a coloured piece of a hop's line.
type segmentView struct {
	Class, Title string
	Style        template.CSS
}

// partView is a part in the table of a hop.
type partView struct {
	Class, Layer, Location, Between, Phase, From, Time, Exact, Baseline string
}

// hopOf prepares a hop, whose line shows the time between from and to.
func hopOf(hops []Hop, i, id int, from, to int64) hopView {
	h := &hops[i]
	v := hopView{
		ID: id, From: h.From, To: h.To, SpanID: h.SpanID, Phase: h.way(), Details: h.details(),
		Indent: min(h.Depth, deepest), Status: h.Status, Total: h.Total, OnCriticalPath: h.OnCriticalPath,
		Blamed: h.Verdict.blames(), Verdict: verdictOf(&h.Verdict, id, true), Notes: h.Notes,
	}
	add := func(class, title string, start, time int64) {
		if !h.OnCriticalPath {
			class += " skipped"
		}
		v.Segments = append(v.Segments, segmentView{class, title, place(start, time, from, to)})
	}
	add("whole lrest", fmt.Sprintf("%s → %s: %s, not attributed %s", h.From, h.To, exact(h.Total), exact(h.Unattributed)), h.Start, h.Total)
	for _, c := range children(hops, i) {
		start, end := max(c.Start, h.Start), min(c.Start+c.Total, h.Start+h.Total)
		if end > start {
			add("lwait", fmt.Sprintf("waits for %s: %s", c.To, exact(c.Total)), start, end-start)
		}
	}
	for p := range h.Segments {
		part := &h.Segments[p]
		name := layers(part.Layer, part.MergedLayers)
		row := partView{
			Class: class(part.Layer), Layer: name, Location: part.Location, Between: part.Between, Phase: part.Phase,
			From: duration(part.Start), Time: duration(part.Time), Exact: exact(part.Time),
		}
		title := fmt.Sprintf("%s, %s: %s from %s on (%s, %s)", name, part.Location, exact(part.Time), exact(part.Start), part.Phase, part.Between)
		if part.Baseline >= 0 {
			row.Baseline = duration(part.Baseline)
			title += ", typically " + exact(part.Baseline)
		}
		v.Rows = append(v.Rows, row)
		for _, piece := range part.pieces() {
			add(row.Class, title, piece.start, piece.time)
		}
	}
	return v
}
