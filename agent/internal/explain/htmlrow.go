// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"html/template"

	"github.com/layertrace/layertrace/agent/internal/layer"
)

// rowView is a layer in a table, with its bars.
type rowView struct {
	Class, Layer, Place string
	Time, Exact         string
	Typical, Excess     string
	Share               string
	Blamed              bool
	Bar, UsualBar, Mark template.CSS
}

// rowOf prepares a layer; the bar of longest goes over all of its room.
func rowOf(s *Share, blamed bool, longest int64) rowView {
	row := rowView{
		Class: class(s.Layer), Layer: layers(s.Layer, s.Covers), Place: s.Place,
		Time: duration(s.Time), Exact: exact(s.Time), Share: percent(s.Share), Blamed: blamed,
		Bar: place(0, s.Time, 0, longest),
	}
	if s.Typical >= 0 {
		row.Typical, row.Excess = duration(s.Typical), difference(s.Time-s.Typical)
		row.UsualBar, row.Mark = place(0, s.Typical, 0, longest), mark(s.Typical, longest)
	}
	return row
}

// comparisonView is a comparison as its template takes it.
type comparisonView struct {
	Service           string
	Summary           []string
	Verdict           verdictView
	Layers            []rowView
	Covers            string
	SlowTraces, Notes []string
}

func comparisonOf(c *Comparison) *comparisonView {
	v := &comparisonView{
		Service: c.Service, Summary: c.summary(), Verdict: verdictOf(&c.Verdict, 0, true),
		SlowTraces: c.SlowTraces, Notes: c.Notes,
	}
	longest := int64(0)
	var covers []layer.Layer
	for _, d := range c.Layers {
		longest = max(longest, d.Slow, d.Typical)
		covers = append(covers, d.Covers...)
	}
	v.Covers = untold(covers)
	for _, d := range c.Layers {
		s := Share{Layer: d.Layer, Place: d.Place, Time: d.Slow, Typical: d.Typical, Share: d.Share, Covers: d.Covers}
		v.Layers = append(v.Layers, rowOf(&s, c.Verdict.blames() && d.Layer == c.Verdict.Layer && d.Place == c.Verdict.Place, longest))
	}
	return v
}
