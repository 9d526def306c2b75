// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"io"
	"strings"

	"github.com/layertrace/layertrace/internal/observe"
)

// WriteText writes the report for people, 100 columns wide: what is to blame,
// the layers, and each hop.
func (r *Report) WriteText(w io.Writer, color bool) error {
	p := paint(color)
	var b strings.Builder
	r.Verdict.writeText(&b, p)
	b.WriteByte('\n')
	b.WriteString(wrap("", r.title()))
	b.WriteString(p.in(faint, fmt.Sprintf("trace %s, %s", printable(r.TraceID), r.Start.UTC().Format("2006-01-02 15:04:05.000000 UTC"))) + "\n")
	r.writeLayers(&b, p)
	r.writeHops(&b, p)
	writeNotes(&b, r.Notes)
	_, err := io.WriteString(w, b.String())
	return err
}

// title says what the trace is, and how long it took.
func (r *Report) title() string {
	name := strings.TrimSpace(r.Service + ": " + r.Operation)
	if r.Service == "" && r.Operation == "" {
		name = "A request whose first span is not known"
	}
	title := name + " took " + duration(r.Total)
	switch {
	case r.Total == 0:
		return name + ", and nothing tells how long it took"
	case r.Baseline.Traces == 0:
		return title + "; no typical traces to compare with"
	case r.Baseline.Traces == 1:
		return title + ", the only typical trace " + duration(r.Baseline.BaselineTotal)
	}
	return fmt.Sprintf("%s, typically %s (median of %d traces)", title, duration(r.Baseline.BaselineTotal), r.Baseline.Traces)
}

func (v *Verdict) writeText(b *strings.Builder, p paint) {
	const head = "VERDICT  "
	sgr := alarm
	if !v.blames() {
		sgr = bold
	}
	text := strings.TrimPrefix(wrap(head, v.sentence()), head)
	b.WriteString(p.in(sgr, "VERDICT") + "  " + p.in(bold, strings.TrimSuffix(text, "\n")) + "\n")
	indent := strings.Repeat(" ", len(head))
	if v.Confidence != "" {
		b.WriteString(indent + "confidence: " + printable(string(v.Confidence)) + "\n")
	}
	for _, each := range v.Evidence {
		b.WriteString(wrap(indent+"- ", each))
	}
}

// blames says whether a layer stands out.
func (v *Verdict) blames() bool { return v.Layer != "" && v.Layer != observe.NoLayer }

// sentence is the verdict as one sentence.
func (v *Verdict) sentence() string {
	switch {
	case v.Text != "":
		return v.Text
	case !v.blames():
		return "Nothing stands out."
	}
	return fmt.Sprintf("%s of %s took %s.", v.Layer, v.Location, duration(v.Time))
}

func writeNotes(b *strings.Builder, notes []string) {
	if len(notes) == 0 {
		return
	}
	b.WriteString("\nNotes\n")
	for _, note := range notes {
		b.WriteString(wrap("- ", note))
	}
}
