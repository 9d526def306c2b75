// SPDX-License-Identifier: Apache-2.0

package clusterstatus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/layertrace/layertrace/agent/internal/install"
	"github.com/layertrace/layertrace/agent/internal/unseen"
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
	fmt.Fprintf(&b, "%-9s %-17s %s\n\n", install.Fine, "reorder", s.Reorder)
	s.writeAgents(&b)
	s.writeWorkloads(&b)
	if len(s.Problems) == 0 {
		fmt.Fprintln(&b, "No problems found.")
	} else {
		fmt.Fprintln(&b, "Problems:")
		for _, p := range s.Problems {
			fmt.Fprintln(&b, "- "+p)
		}
	}
	_, err := out.Write(b.Bytes())
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
	s.writeUnseen(b)
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
		reordered := "-"
		if w.Reordered != nil {
			reordered = fmt.Sprintf("%.0f", *w.Reordered)
		}
		fmt.Fprintf(table, "%s/%s\t%d\t%d\t%s\t%s\t%s\t%s\n",
			w.Namespace, w.Name, w.Pods, w.Sidecars, w.Tracing, reordered, w.Traffic, w.Problem)
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
	return fmt.Sprintf("%.1f %% (%.0f of %.0f)", 100*share, t.Found, t.Found+t.Missed)
}

// String returns the sampling and the providers, or "off".
func (t Tracing) String() string {
	if !t.On {
		return "off"
	}
	return fmt.Sprintf("%v %% %v", t.Sampling, t.Providers)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
