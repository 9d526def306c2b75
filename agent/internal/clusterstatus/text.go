// SPDX-License-Identifier: Apache-2.0

package clusterstatus

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/layertrace/layertrace/agent/internal/install"
	"github.com/layertrace/layertrace/agent/internal/unseen"
	"github.com/layertrace/layertrace/internal/printable"
	"github.com/layertrace/layertrace/internal/screen"
)

// WriteJSON writes the status as one JSON object.
func (s *Status) WriteJSON(out io.Writer) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(s)
}

// WriteText writes the status as text in a width in columns, 0 for any.
func (s *Status) WriteText(out io.Writer, width int) error {
	var b strings.Builder
	write := func(level install.Level, check, text string) {
		b.WriteString(install.Finding{Level: level, Check: check, Text: text}.Line(width))
	}
	for _, f := range s.Findings {
		write(f.Level, f.Check, f.Text)
	}
	write(install.Fine, "reorder", s.Reorder)
	if limits := s.Limits.String(); limits != "" {
		write(install.Fine, "limits", limits)
	}
	b.WriteByte('\n')
	s.writeAgents(&b, width)
	s.writeWorkloads(&b, width)
	s.writeEncrypted(&b, width)
	if len(s.Problems) == 0 {
		b.WriteString("No problems found.\n")
	} else {
		b.WriteString("Problems:\n")
		for _, p := range s.Problems {
			b.WriteString(screen.Wrap("- ", p, width))
		}
	}
	// Pods choose their names and their last words, and agents' metrics have names of interfaces.
	_, err := io.WriteString(printable.Writer{To: out}, b.String())
	return err
}

func (s *Status) writeAgents(b *strings.Builder, width int) {
	if len(s.Agents) == 0 {
		return
	}
	table := screen.NewTable("NODE", "AGENT", "READY", "INTERFACES", "REQUESTS", "CONTEXTS IN PREFIX", "SPANS SENT", "LOST")
	for _, a := range s.Agents {
		table.Row(a.Node, a.Pod, yes(a.Ready), strconv.Itoa(a.Interfaces), whole(a.Requests), a.String(), whole(a.SpansExported), whole(a.SpansLost))
	}
	b.WriteString(table.Text(width) + "\n")
	s.writeSavings(b, width)
	s.writeUnseen(b, width)
}

// writeSavings writes what the agents search because trace headers come late, if nothing
// moves them. It is no problem: the contexts are found.
func (s *Status) writeSavings(b *strings.Builder, width int) {
	if s.Reorder != install.ReorderNone {
		return
	}
	var lines []string
	for _, a := range s.Agents {
		if saved := a.savings(); saved != "" {
			lines = append(lines, a.Node+": "+saved)
		}
	}
	writeList(b, "What a --reorder other than none would save the agents (see docs/reordering.md):", lines, width)
}

// writeUnseen names what the agents passed over. It is no problem by itself: parts of
// every cluster speak TLS.
func (s *Status) writeUnseen(b *strings.Builder, width int) {
	var lines []string
	for _, a := range s.Agents {
		for _, line := range unseen.Lines(a.Unseen) {
			lines = append(lines, a.Node+": "+line)
		}
	}
	writeList(b, "Not read (see docs/not-read.md):", lines, width)
}

// writeList writes a title and its lines, nothing without any.
func writeList(b *strings.Builder, title string, lines []string, width int) {
	if len(lines) == 0 {
		return
	}
	b.WriteString(screen.Wrap("", title, width))
	for _, line := range lines {
		b.WriteString(screen.Wrap("- ", line, width))
	}
	b.WriteByte('\n')
}

func (s *Status) writeWorkloads(b *strings.Builder, width int) {
	if len(s.Workloads) == 0 {
		return
	}
	table := screen.NewTable("WORKLOAD", "PODS", "SIDECARS", "TRACING", "REORDERED", "CONTEXTS IN PREFIX ON ITS NODES", "PROBLEM")
	table.Remarks = true
	for _, w := range s.Workloads {
		table.Row(w.Namespace+"/"+w.Name, strconv.Itoa(w.Pods), strconv.Itoa(w.Sidecars), w.Tracing.String(), optional(w.Reordered), w.Traffic.String(), w.Problem)
	}
	b.WriteString(table.Text(width) + "\n")
}

// writeEncrypted writes what became of encrypted requests, if the proxies report them.
func (s *Status) writeEncrypted(b *strings.Builder, width int) {
	if s.MTLS == "" || len(s.Workloads) == 0 {
		return
	}
	table := screen.NewTable("WORKLOAD", "REPORTS", "DROPPED BY PROXIES", "RECORDS", "JOINED", "AMBIGUOUS", "UNMATCHED", "ON ITS NODES: ENCRYPTED CONNECTIONS", "REFUSED", "WHY NOT")
	table.Remarks = true
	for _, w := range s.Workloads {
		why := strings.Trim(w.Reports.Reason+"; "+w.Encrypted.why(), "; ")
		e := w.Encrypted
		table.Row(w.Namespace+"/"+w.Name, yes(w.Reports.On), optional(w.RecordsDropped), whole(e.Received), whole(e.Joined), whole(e.Ambiguous), whole(e.Unmatched),
			whole(e.Connections), whole(e.Refused), why)
	}
	b.WriteString(table.Text(width) + "\n")
}

// String returns the share of contexts in the prefix window, with its counts.
func (t Traffic) String() string {
	share, known := t.Share()
	if !known {
		return "-"
	}
	return fmt.Sprintf("%.1f %% (%.0f of %.0f)", 100*share, t.inPrefix(), t.Found+t.Missed)
}

// String returns the sampling and the providers, or "off".
func (t Tracing) String() string {
	if !t.On {
		return "off"
	}
	return fmt.Sprintf("%v %% %v", t.Sampling, t.Providers)
}

// optional returns a count, "-" without one.
func optional(n *float64) string {
	if n == nil {
		return "-"
	}
	return whole(*n)
}

// whole returns a count.
func whole(n float64) string { return fmt.Sprintf("%.0f", n) }

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
