// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io"
	"strconv"

	"github.com/layertrace/layertrace/internal/observe"
)

//go:embed page/*.tmpl
var templates embed.FS

//go:embed page/style.css
var style string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"duration": duration, "percent": percent, "exact": exact, "class": class, "layers": layers,
}).ParseFS(templates, "page/*.tmpl"))

// pageView is what the page's template takes.
type pageView struct {
	Title      string
	Style      template.CSS
	Reports    []reportView
	Comparison *comparisonView
}

// WriteHTML writes one page of all reports. It needs no network and no script.
func WriteHTML(w io.Writer, reports ...*Report) error {
	v := pageView{Title: fmt.Sprintf("%d traces explained", len(reports))}
	hops := 0
	for i, r := range reports {
		v.Reports = append(v.Reports, viewOf(r, i, &hops))
	}
	if len(reports) == 1 {
		v.Title = v.Reports[0].Heading
	}
	return v.write(w)
}

// WriteHTML writes the report as a page of its own.
func (r *Report) WriteHTML(w io.Writer) error { return WriteHTML(w, r) }

// WriteHTML writes the comparison as a page of its own.
func (c *Comparison) WriteHTML(w io.Writer) error {
	v := pageView{Title: "Slow traces of " + c.Service, Comparison: comparisonOf(c)}
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

// class is the style of a layer.
func class(l observe.Layer) string {
	switch letter := lookOf(l).letter; letter {
	case '?':
		return "lx"
	default:
		return "l" + string(letter-'A'+'a')
	}
}

// layers names a layer and those that could not be told from it.
func layers(first observe.Layer, covers []observe.Layer) string {
	names := string(first)
	for _, l := range covers {
		if l != first {
			names += ", " + string(l)
		}
	}
	return names
}

// untold says what a row of several layers is, "" when there is none.
func untold(all []observe.Layer) string {
	if len(all) == 0 {
		return ""
	}
	return "Between a row names several layers, no capture point stands between them, so their times are one."
}

// exact writes a time in ns.
func exact(ns int64) string { return strconv.FormatInt(ns, 10) + " ns" }

// place is the style of what goes over a part of a line.
func place(start, time, from, to int64) template.CSS {
	whole := float64(max(to-from, 1))
	left := min(max(float64(start-from)/whole, 0), 1)
	wide := min(max(float64(time)/whole, 0), 1-left)
	return template.CSS(fmt.Sprintf("left:%.3f%%;width:%.3f%%", 100*left, 100*wide))
}

// mark is the style of a line at a time, on a bar of so much.
func mark(time, longest int64) template.CSS {
	share := min(float64(max(time, 0))/float64(max(longest, 1)), 1)
	return template.CSS(fmt.Sprintf("left:calc(%.3f%% - %.1fpx)", 100*share, 2*share))
}

// visible takes out what is no text, as would turn the direction of writing.
func visible(r rune) rune {
	if r == '\n' {
		return r
	}
	return printableRune(r)
}
