// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"html/template"

	"github.com/layertrace/layertrace/internal/observe"
)

// rowView is a layer in a table, with its bars.
type rowView struct {
	Class, Layer, Location string
	Time, Exact            string
	Baseline, Excess       string
	Share                  string
	Blamed                 bool
	Bar, UsualBar, Mark    template.CSS
}

// rowOf prepares a layer; the bar of longest goes over all of its room.
func rowOf(s *Share, blamed bool, longest int64) rowView {
	row := rowView{
		Class: class(s.Layer), Layer: layers(s.Layer, s.MergedLayers), Location: s.Location,
		Time: duration(s.Time), Exact: exact(s.Time), Share: percent(s.Share), Blamed: blamed,
		Bar: place(0, s.Time, 0, longest),
	}
	if s.Baseline >= 0 {
		row.Baseline, row.Excess = duration(s.Baseline), difference(s.Time-s.Baseline)
		row.UsualBar, row.Mark = place(0, s.Baseline, 0, longest), mark(s.Baseline, longest)
	}
	return row
}

// comparisonView is a comparison as its template takes it.
type comparisonView struct {
	Service           string
	Summary           []string
	Verdict           verdictView
	Layers            []rowView
	MergedLayers      string
	SlowTraces, Notes []string
}

func comparisonOf(c *Comparison) *comparisonView {
	v := &comparisonView{
		Service: c.Service, Summary: c.summary(), Verdict: verdictOf(&c.Verdict, 0, true),
		SlowTraces: c.SlowTraces, Notes: c.Notes,
	}
	longest := int64(0)
	var covers []observe.Layer
	for _, d := range c.Layers {
		longest = max(longest, d.Slow, d.Baseline)
		covers = append(covers, d.MergedLayers...)
	}
	v.MergedLayers = untold(covers)
	for _, d := range c.Layers {
		s := Share{Layer: d.Layer, Location: d.Location, Time: d.Slow, Baseline: d.Baseline, Share: d.Share, MergedLayers: d.MergedLayers}
		v.Layers = append(v.Layers, rowOf(&s, c.Verdict.blames() && d.Layer == c.Verdict.Layer && d.Location == c.Verdict.Location, longest))
	}
	return v
}
