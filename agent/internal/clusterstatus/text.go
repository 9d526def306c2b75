// SPDX-License-Identifier: Apache-2.0

package clusterstatus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/layertrace/layertrace/agent/internal/install"
	"github.com/layertrace/layertrace/agent/internal/unseen"
	"github.com/layertrace/layertrace/internal/printable"
)

// WriteJSON writes the status as one JSON object.
func (s *Status) WriteJSON(out io.Writer) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(s)
}

// WriteText writes the status as text.
func (s *Status) WriteText(out io.Writer) error {
	var b bytes.Buffer
	for _, f := range s.Findings {
		fmt.Fprintf(&b, "%-9s %-17s %s\n", f.Level, f.Check, f.Text)
	}
	fmt.Fprintf(&b, "%-9s %-17s %s\n", install.Fine, "reorder", s.Reorder)
	if limits := s.Limits.String(); limits != "" {
		fmt.Fprintf(&b, "%-9s %-17s %s\n", install.Fine, "limits", limits)
	}
	fmt.Fprintln(&b)
	s.writeAgents(&b)
	s.writeWorkloads(&b)
	s.writeEncrypted(&b)
	if len(s.Problems) == 0 {
		fmt.Fprintln(&b, "No problems found.")
	} else {
		fmt.Fprintln(&b, "Problems:")
		for _, p := range s.Problems {
			fmt.Fprintln(&b, "- "+p)
		}
	}
	// Pods choose their names and their last words, and agents' metrics have names of interfaces.
	_, err := printable.Writer{To: out}.Write(b.Bytes())
	return err
}

func (s *Status) writeAgents(b *bytes.Buffer) {
	if len(s.Agents) == 0 {
		return
	}
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tAGENT\tREADY\tINTERFACES\tREQUESTS\tCONTEXTS IN PREFIX\tSPANS SENT\tLOST")
	for _, a := range s.Agents {
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%.0f\t%s\t%.0f\t%.0f\n",
			a.Node, a.Pod, yes(a.Ready), a.Interfaces, a.Requests, a.Traffic, a.SpansExported, a.SpansLost)
	}
	endTable(table, b)
	s.writeSavings(b)
	s.writeUnseen(b)
}

// writeSavings writes what the agents search because trace headers come late, if nothing
// moves them. It is no problem: the contexts are found.
func (s *Status) writeSavings(b *bytes.Buffer) {
	if s.Reorder != install.ReorderNone {
		return
	}
	title := "What a --reorder other than none would save the agents (see docs/reordering.md):\n"
	for _, a := range s.Agents {
		if saved := a.savings(); saved != "" {
			fmt.Fprintf(b, "%s- %s: %s\n", title, a.Node, saved)
			title = ""
		}
	}
	if title == "" {
		fmt.Fprintln(b)
	}
}

// writeUnseen names what the agents passed over. It is no problem by itself: parts of
// every cluster speak TLS.
func (s *Status) writeUnseen(b *bytes.Buffer) {
	title := "Not read (see docs/not-read.md):\n"
	for _, a := range s.Agents {
		for _, line := range unseen.Lines(a.Unseen) {
			fmt.Fprintf(b, "%s- %s: %s\n", title, a.Node, line)
			title = ""
		}
	}
	if title == "" {
		fmt.Fprintln(b)
	}
}

func (s *Status) writeWorkloads(b *bytes.Buffer) {
	if len(s.Workloads) == 0 {
		return
	}
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WORKLOAD\tPODS\tSIDECARS\tTRACING\tREORDERED\tCONTEXTS IN PREFIX ON ITS NODES\tPROBLEM")
	for _, w := range s.Workloads {
		fmt.Fprintf(table, "%s/%s\t%d\t%d\t%s\t%s\t%s\t%s\n",
			w.Namespace, w.Name, w.Pods, w.Sidecars, w.Tracing, optional(w.Reordered), w.Traffic, w.Problem)
	}
	endTable(table, b)
}

// writeEncrypted writes what became of encrypted requests, if the proxies report them.
func (s *Status) writeEncrypted(b *bytes.Buffer) {
	if s.MTLS == "" || len(s.Workloads) == 0 {
		return
	}
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WORKLOAD\tREPORTS\tDROPPED BY PROXIES\tRECORDS\tJOINED\tAMBIGUOUS\tUNMATCHED\tON ITS NODES: ENCRYPTED CONNECTIONS\tREFUSED\tWHY NOT")
	for _, w := range s.Workloads {
		why := strings.Trim(w.Reports.Reason+"; "+w.Encrypted.why(), "; ")
		e := w.Encrypted
		fmt.Fprintf(table, "%s/%s\t%s\t%s\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%s\n", w.Namespace, w.Name, yes(w.Reports.On),
			optional(w.RecordsDropped), e.Received, e.Joined, e.Ambiguous, e.Unmatched, e.Connections, e.Refused, why)
	}
	endTable(table, b)
}

// endTable flushes a table into its buffer.
func endTable(table *tabwriter.Writer, b *bytes.Buffer) {
	if err := table.Flush(); err != nil {
		fmt.Fprintln(b, err)
	}
	fmt.Fprintln(b)
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
	return fmt.Sprintf("%.0f", *n)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
