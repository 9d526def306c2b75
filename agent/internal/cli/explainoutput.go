// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"

	"github.com/layertrace/layertrace/agent/internal/explain"
)

// output is where answers go, and in which forms.
type output struct {
	stdout io.Writer
	json   bool
	html   string // a file, "-" for stdout instead of text, "" for none
}

// reports writes all reports, and one page of them.
func (o output) reports(reports []*explain.Report) error {
	if err := o.page(func(w io.Writer) error { return explain.WriteHTML(w, reports...) }); err != nil {
		return err
	}
	for i, r := range reports {
		if i > 0 && !o.json && o.html != "-" {
			fmt.Fprintln(o.stdout)
		}
		if err := o.answer(r); err != nil {
			return err
		}
	}
	return nil
}

func (o output) comparison(c *explain.Comparison) error {
	if err := o.page(c.WriteHTML); err != nil {
		return err
	}
	return o.answer(c)
}

// answer writes text or JSON, unless the page takes their place.
func (o output) answer(a interface {
	WriteJSON(io.Writer) error
	WriteText(io.Writer, bool) error
}) error {
	switch {
	case o.html == "-":
		return nil
	case o.json:
		return a.WriteJSON(o.stdout)
	}
	return a.WriteText(o.stdout, colorful(o.stdout))
}

// page writes the page to where it shall go.
func (o output) page(write func(io.Writer) error) error {
	switch o.html {
	case "":
		return nil
	case "-":
		return write(o.stdout)
	}
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return err
	}
	if err := os.WriteFile(o.html, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the page: %w; correct --html", err)
	}
	return nil
}

// colorful says whether a writer is a terminal that shows colours, and nobody
// asked for none (no-color.org).
func colorful(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(file.Fd()))
}
