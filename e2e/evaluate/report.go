// SPDX-License-Identifier: Apache-2.0

package evaluate

import (
	"bytes"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// page is what the templates of the report show.
type page struct {
	Results
	Findings  []Finding
	Rates     []rateRow
	Ratios    []ratioRow
	Quantiles []quantileRow
	Figures   []drawn
	Pictures  []drawn
	Data      []dataFile
	JSON      []byte
	// Seconds is how long a run takes at each rate.
	Seconds string
}

// drawn is a figure with its files.
type drawn struct {
	Name, Title, Alt string
	// SVG and DarkSVG are for light and dark pages; PNG is light. A picture has
	// only PNG.
	SVG, DarkSVG, PNG []byte
}

// Write writes the report: evaluation.json and evaluation.html in dir, and figures and
// data in the directory of the measurements.
func (r Results) Write(dir string) error {
	p, err := r.page()
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := htmlTemplate.Execute(&text, p); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	files := map[string][]byte{
		filepath.Join(dir, "evaluation.json"): p.JSON, filepath.Join(dir, "evaluation.html"): text.Bytes(),
	}
	for _, f := range p.Figures {
		files[filepath.Join(r.Dir, f.Name+".svg")] = f.SVG
		files[filepath.Join(r.Dir, f.Name+"-dark.svg")] = f.DarkSVG
		files[filepath.Join(r.Dir, f.Name+".png")] = f.PNG
	}
	for _, d := range p.Data {
		files[filepath.Join(r.Dir, d.Name)] = d.Content
	}
	return writeFiles(files)
}

// WriteDocs writes the report as Markdown, evaluation.md in dir, with its figures and
// data in the directory evaluation beside it.
func (r Results) WriteDocs(dir string) error {
	p, err := r.page()
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := markdownTemplate.Execute(&text, p); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	beside := filepath.Join(dir, "evaluation")
	if err := os.MkdirAll(beside, 0o755); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	files := map[string][]byte{filepath.Join(dir, "evaluation.md"): text.Bytes()}
	for _, f := range p.Figures {
		files[filepath.Join(beside, f.Name+".svg")] = f.SVG
		files[filepath.Join(beside, f.Name+"-dark.svg")] = f.DarkSVG
	}
	for _, f := range p.Pictures {
		files[filepath.Join(beside, f.Name+".png")] = f.PNG
	}
	for _, d := range p.Data {
		if d.Name != requestsFile {
			files[filepath.Join(beside, d.Name)] = d.Content
		}
	}
	return writeFiles(files)
}

func writeFiles(files map[string][]byte) error {
	var errs []error
	for path, content := range files {
		if err := writeFile(path, content); err != nil {
			errs = append(errs, fmt.Errorf("write the report: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Check returns an error unless the reordered mesh gave every trace context at every
// point: then the evaluation is complete, but something is wrong.
func (r Results) Check() error {
	if err := exact(r.Reordered); err != nil {
		return fmt.Errorf("reordered, the agents should acquire every request once: %w", err)
	}
	return nil
}

func (r Results) page() (p page, err error) {
	s, err := r.Summarize()
	if err != nil {
		return p, err
	}
	p = page{Results: r, Rates: r.rateRows(s)}
	var parts []string
	for _, rate := range Rates {
		parts = append(parts, fmt.Sprintf("%.0f s", float64(r.Settings.Requests)/rate))
	}
	p.Seconds = strings.Join(parts, " and ")
	if p.Findings, err = r.findings(s); err != nil {
		return p, err
	}
	if p.Ratios, err = r.ratioRows(); err != nil {
		return p, err
	}
	if p.Quantiles, err = r.quantileRows(); err != nil {
		return p, err
	}
	for _, f := range r.figures(s) {
		d := drawn{Name: f.Name, Title: f.Title, Alt: f.Alt}
		if d.SVG, d.PNG, err = f.save(light); err != nil {
			return p, err
		}
		if d.DarkSVG, _, err = f.save(dark); err != nil {
			return p, err
		}
		p.Figures = append(p.Figures, d)
	}
	if p.Pictures, err = r.pictures(); err != nil {
		return p, err
	}
	if p.Data, err = r.dataFiles(s); err != nil {
		return p, err
	}
	p.JSON, err = json.MarshalIndent(s, "", "  ")
	p.JSON = append(p.JSON, '\n')
	return p, err
}

func (r Results) pictures() (pictures []drawn, err error) {
	for _, d := range []drawn{
		{Name: "figure7", Title: "Figure 7. One trace in Zipkin, with the spans of the mesh alone",
			Alt: fmt.Sprintf("Zipkin's page of a trace with %d spans of Envoys.", r.Trace.Mesh)},
		{Name: "figure8", Title: "Figure 8. The same trace with layertrace's spans of the interfaces",
			Alt: fmt.Sprintf("Zipkin's page of the same trace, with %d spans of interfaces as well.", r.Trace.Interfaces)},
	} {
		if d.PNG, err = os.ReadFile(filepath.Join(r.Dir, d.Name+".png")); err != nil {
			return nil, fmt.Errorf("read a picture (start anew with --fresh): %w", err)
		}
		pictures = append(pictures, d)
	}
	return pictures, nil
}

// dataURL returns content as a URL, which a page without network can show.
func dataURL(kind string, content []byte) htmltemplate.URL {
	return htmltemplate.URL("data:" + kind + ";base64," + base64.StdEncoding.EncodeToString(content))
}

var functions = map[string]any{
	"dataURL": dataURL,
	// srcset is an attribute that html/template checks as a list of URLs.
	"srcset": func(kind string, content []byte) htmltemplate.Srcset {
		return htmltemplate.Srcset(dataURL(kind, content))
	},
	"markdown": code,
	"embedded": func(d dataFile) bool { return d.Name != requestsFile },
	"seconds":  func() string { return fmt.Sprintf("%.0f", leadIn.Seconds()) },
	"number":   thousands,
}

// code turns `text` in Markdown into HTML's code elements. Everything else is escaped.
func code(s string) htmltemplate.HTML {
	var out strings.Builder
	for i, part := range strings.Split(s, "`") {
		part = htmltemplate.HTMLEscapeString(part)
		if i%2 == 1 {
			part = "<code>" + part + "</code>"
		}
		out.WriteString(part)
	}
	return htmltemplate.HTML(out.String())
}

//go:embed report.html.tmpl
var htmlText string

//go:embed report.md.tmpl
var markdownText string

var (
	htmlTemplate     = htmltemplate.Must(htmltemplate.New("report").Funcs(functions).Parse(htmlText))
	markdownTemplate = template.Must(template.New("report").Funcs(functions).Parse(markdownText))
)
