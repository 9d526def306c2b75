// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io"
	"strings"

	"github.com/layertrace/layertrace/internal/observe"
	terminal "github.com/layertrace/layertrace/internal/printable"
)

//go:embed page/*.tmpl
var templates embed.FS

//go:embed page/style.css
var style string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"class": func(l observe.Layer) string { return styleOf(l).class() }, "layers": layerList,
}).ParseFS(templates, "page/*.tmpl"))

// layerList names a layer and those merged with it on the page.
func layerList(first observe.Layer, merged []observe.Layer) string {
	return strings.Join(layerTitles(first, merged), ", ")
}

// The views are what the templates take.
type (
	pageView struct {
		Title      string
		Style      template.CSS
		Reports    []reportView
		Comparison *comparisonView
	}
	reportView struct {
		Heading, TraceID, Start string
		Verdict                 verdictView
		Legend                  []legendView
		Ticks                   []string
		Hops                    []hopView
		Layers                  tableView
		Notes                   []string
	}
	comparisonView struct {
		Service           string
		Summary           []string
		Verdict           verdictView
		Layers            tableView
		SlowTraces, Notes []string
	}
	// verdictView is a verdict; N is unique on the page.
	verdictView struct {
		Verdict
		N        int
		Blames   bool
		Excess   string
		Location string
	}
	legendView struct{ Class, Name string }
	tableView  struct {
		Compared   bool
		ShareTitle string
		Rows       []rowView
		MergedNote string
	}
	// rowView is a layer in the table, with its bars.
	rowView struct {
		layerRow
		Class, Name            string
		Bar, BaselineBar, Mark template.CSS
	}
	// hopView is a hop: a line of pieces, and a table of its segments.
	hopView struct {
		ID                     int
		Ends, SpanID, TimeText string
		Details                string
		Indent, Status         int
		Exact                  string
		OnCriticalPath, Blamed bool
		Verdict                verdictView
		Pieces                 []pieceView
		Segments               []segmentView
		Notes                  []string
	}
	// pieceView is a coloured piece of a hop's line.
	pieceView struct {
		Class, Title string
		Style        template.CSS
	}
	segmentView struct {
		Class, Name, Location, Between, Phase, Start, Time, Exact, Baseline string
	}
)

// WriteHTML writes one page of all reports. It needs no network and no script.
func WriteHTML(w io.Writer, reports ...*Report) error {
	v := pageView{Title: fmt.Sprintf("%d traces explained", len(reports))}
	hops := 0
	for i, r := range reports {
		v.Reports = append(v.Reports, r.view(i, hops))
		hops += len(r.Hops)
	}
	if len(reports) == 1 {
		v.Title = v.Reports[0].Heading
	}
	return v.write(w)
}

// WriteHTML writes the comparison as a page.
func (c *Comparison) WriteHTML(w io.Writer) error {
	table := c.layerTable()
	v := pageView{Title: "Slow traces of " + c.Service, Comparison: &comparisonView{
		Service: c.Service, Summary: c.summary(), Verdict: c.Verdict.view(0, c.names(), &table),
		Layers: table.view(), SlowTraces: c.SlowTraces, Notes: c.Notes,
	}}
	return v.write(w)
}

// write writes all or nothing.
func (v *pageView) write(w io.Writer) error {
	v.Style = template.CSS(style)
	var b bytes.Buffer
	if err := page.ExecuteTemplate(&b, "page", v); err != nil {
		return fmt.Errorf("make the page: %w", err)
	}
	_, err := w.Write(bytes.Map(visible, b.Bytes()))
	return err
}

// visible replaces unprintable characters, except for line breaks.
func visible(r rune) rune {
	if r == '\n' {
		return r
	}
	return terminal.Rune(r)
}

// view prepares report number n of the page. firstHop is the number of hops of the
// reports before.
func (r *Report) view(n, firstHop int) reportView {
	names, table := r.names(), r.layerTable()
	v := reportView{
		Heading: strings.TrimSpace(r.title()), TraceID: r.TraceID, Start: r.Start.UTC().Format(traceTimeFormat),
		Verdict: r.Verdict.view(n, names, &table), Layers: table.view(), Notes: r.Notes,
	}
	for _, s := range layerStyles {
		v.Legend = append(v.Legend, legendView{s.class(), s.layer.Title()})
	}
	v.Legend = append(v.Legend, legendView{"lwait", childHops}, legendView{"lrest", unattributed})
	from, to := r.extent()
	const ticks = 4
	for i := range int64(ticks + 1) {
		v.Ticks = append(v.Ticks, duration(from+(to-from)/ticks*i))
	}
	for i := range r.Hops {
		v.Hops = append(v.Hops, hopViewOf(r.Hops, i, firstHop+i, from, to, names))
	}
	return v
}

// view prepares a verdict. table has its figures, nil for that of a hop.
func (v *Verdict) view(n int, names names, table *layerTable) verdictView {
	view := verdictView{Verdict: v.asShown(names), N: n, Blames: v.blames(), Location: names.place(v.Layer, v.Location, v.Namespace)}
	if table != nil {
		view.Excess = table.excessText(v)
	}
	return view
}

func (t *layerTable) view() tableView {
	v := tableView{Compared: t.compared, ShareTitle: t.shareTitle}
	if len(t.merged) > 0 {
		v.MergedNote = mergedNote
	}
	for _, r := range t.rows {
		row := rowView{layerRow: r, Class: styleOf(r.Layer).class(), Name: layerList(r.Layer, r.MergedLayers), Bar: box(0, r.Time, 0, t.longest)}
		if r.Layer == unattributed || r.Layer == attributedTwice {
			row.Class = "lrest"
		}
		if r.Baseline >= 0 {
			row.BaselineBar, row.Mark = box(0, r.Baseline, 0, t.longest), mark(r.Baseline, t.longest)
		}
		v.Rows = append(v.Rows, row)
	}
	return v
}

// hopViewOf prepares a hop, whose line shows the time between from and to.
func hopViewOf(hops []Hop, i, id int, from, to int64, names names) hopView {
	h := &hops[i]
	v := hopView{
		ID: id, Ends: h.ends(names), SpanID: h.SpanID, TimeText: h.timeText(), Exact: exact(h.Total), Details: h.details(names),
		Indent: min(h.Depth, maxIndent), Status: h.Status, OnCriticalPath: h.OnCriticalPath,
		Blamed: h.Verdict.blames(), Verdict: h.Verdict.view(id, names, nil), Notes: h.allNotes(),
	}
	add := func(class, title string, start, time int64) {
		if !h.OnCriticalPath {
			class += " parallel"
		}
		v.Pieces = append(v.Pieces, pieceView{class, title, box(start, time, from, to)})
	}
	add("whole lrest", fmt.Sprintf("%s: %s, %s %s", v.Ends, exact(h.Total), unattributed, exact(h.Unattributed)), h.Start, h.Total)
	for _, c := range children(hops, i) {
		start, end := max(c.Start, h.Start), min(c.Start+c.Total, h.Start+h.Total)
		if end > start {
			add("lwait", fmt.Sprintf("waits for %s: %s", names.service(c.To, c.ToNamespace), exact(c.Total)), start, end-start)
		}
	}
	for k := range h.Segments {
		s := &h.Segments[k]
		row := segmentView{
			Class: styleOf(s.Layer).class(), Name: layerList(s.Layer, s.MergedLayers), Location: names.place(s.Layer, s.Location, s.Namespace), Between: s.Between, Phase: s.phaseText(),
			Start: duration(s.Start), Time: duration(s.Time), Exact: exact(s.Time),
		}
		title := fmt.Sprintf("%s, %s: %s from %s on (%s, %s)", row.Name, row.Location, row.Exact, exact(s.Start), row.Phase, s.Between)
		if s.Baseline >= 0 {
			row.Baseline = duration(s.Baseline)
			title += ", baseline " + exact(s.Baseline)
		}
		v.Segments = append(v.Segments, row)
		for _, piece := range s.pieces() {
			add(row.Class, title, piece.start, piece.time)
		}
	}
	return v
}

// box is the style of a piece on a line that shows the time between from and to.
func box(start, time, from, to int64) template.CSS {
	whole := float64(max(to-from, 1))
	left := min(max(float64(start-from)/whole, 0), 1)
	width := min(max(float64(time)/whole, 0), 1-left)
	return template.CSS(fmt.Sprintf("left:%.3f%%;width:%.3f%%", 100*left, 100*width))
}

// mark is the style of a mark at a time, on a bar whose full width is longest.
func mark(time, longest int64) template.CSS {
	share := min(float64(max(time, 0))/float64(max(longest, 1)), 1)
	return template.CSS(fmt.Sprintf("left:calc(%.3f%% - %.1fpx)", 100*share, 2*share))
}
