// SPDX-License-Identifier: Apache-2.0

package explain

import "strings"

// reportView is a report as its template takes it.
type reportView struct {
	Heading, TraceID, When string
	Verdict                verdictView
	Legend                 []legendView
	Ticks                  []string
	Hops                   []hopView
	Compared               bool
	Layers                 []rowView
	MergedLayers           string
	Notes                  []string
}

type legendView struct{ Class, Name string }

// verdictView is a verdict; N tells those of a page apart. Compared is set when
// there is a baseline.
type verdictView struct {
	Verdict
	N                int
	Blames, Compared bool
	Text             string
}

func verdictOf(v *Verdict, n int, compared bool) verdictView {
	return verdictView{Verdict: *v, N: n, Blames: v.blames(), Compared: compared, Text: v.sentence()}
}

// viewOf prepares the report that is number n of the page; hops counts those of
// all reports before.
func viewOf(r *Report, n int, hops *int) reportView {
	v := reportView{
		Heading: strings.TrimSpace(r.title()), TraceID: r.TraceID, When: r.Start.UTC().Format("2006-01-02 15:04:05.000000 UTC"),
		Verdict: verdictOf(&r.Verdict, n, r.Baseline.Traces > 0), Compared: r.Baseline.Traces > 0, MergedLayers: untold(r.covers()), Notes: r.Notes,
	}
	for _, l := range looks {
		v.Legend = append(v.Legend, legendView{class(l.layer), string(l.layer)})
	}
	v.Legend = append(v.Legend, legendView{"lwait", "waits for hops inside"}, legendView{"lrest", "not attributed"})
	from, to := r.extent()
	const ticks = 4
	for i := range int64(ticks + 1) {
		v.Ticks = append(v.Ticks, duration(from+(to-from)/ticks*i))
	}
	for i := range r.Hops {
		v.Hops = append(v.Hops, hopOf(r.Hops, i, *hops+i, from, to))
	}
	*hops += len(r.Hops)
	v.Layers = r.rows()
	return v
}

// rows are the layers of the report, and what none was given.
func (r *Report) rows() []rowView {
	longest := r.Unattributed
	for _, s := range r.Layers {
		longest = max(longest, s.Time, s.Baseline)
	}
	var rows []rowView
	for i := range r.Layers {
		s := &r.Layers[i]
		rows = append(rows, rowOf(s, r.Verdict.blames() && s.Layer == r.Verdict.Layer && s.Location == r.Verdict.Location, longest))
	}
	if r.Unattributed > 0 {
		rest := Share{Layer: "not attributed", Time: r.Unattributed, Baseline: -1}
		if r.Total > 0 {
			rest.Share = float64(r.Unattributed) / float64(r.Total)
		}
		row := rowOf(&rest, false, longest)
		row.Class = "lrest"
		rows = append(rows, row)
	}
	return rows
}
