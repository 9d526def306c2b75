// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// WriteJSON writes the status as one JSON object.
func (s *Status) WriteJSON(out io.Writer) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(s)
}

// WriteText writes the status for people.
func (s *Status) WriteText(out io.Writer) error {
	var b bytes.Buffer
	for _, f := range s.Findings {
		fmt.Fprintf(&b, "%-9s %-17s %s\n", f.Level, f.Check, f.Text)
	}
	fmt.Fprintf(&b, "%-9s %-17s %s\n\n", Fine, "reorder", s.Reorder)
	s.writeAgents(&b)
	s.writeWorkloads(&b)
	if len(s.Problems) == 0 {
		fmt.Fprintln(&b, "All is well.")
	} else {
		fmt.Fprintln(&b, "What does not work:")
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
	fmt.Fprintln(table, "NODE\tAGENT\tREADY\tINTERFACES\tREQUESTS\tCONTEXTS IN FRONT\tSPANS SENT\tLOST")
	for _, a := range s.Agents {
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%.0f\t%s\t%.0f\t%.0f\n",
			a.Node, a.Pod, yes(a.Ready), a.Interfaces, a.Requests, a.Traffic, a.SpansExported, a.SpansLost)
	}
	endTable(table, b)
}

func (s *Status) writeWorkloads(b *bytes.Buffer) {
	if len(s.Workloads) == 0 {
		return
	}
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WORKLOAD\tPODS\tSIDECARS\tTRACING\tMOVED BY FILTER\tCONTEXTS IN FRONT ON ITS NODES\tPROBLEM")
	for _, w := range s.Workloads {
		moved := "-"
		if w.Reordered != nil {
			moved = fmt.Sprintf("%.0f", *w.Reordered)
		}
		fmt.Fprintf(table, "%s/%s\t%d\t%d\t%s\t%s\t%s\t%s\n",
			w.Namespace, w.Name, w.Pods, w.Sidecars, w.Tracing, moved, w.Traffic, w.Problem)
	}
	endTable(table, b)
}

// endTable writes a table to its buffer, which takes everything.
func endTable(table *tabwriter.Writer, b *bytes.Buffer) {
	if err := table.Flush(); err != nil {
		fmt.Fprintln(b, err)
	}
	fmt.Fprintln(b)
}

// String is the share with the counts that it comes from.
func (t Traffic) String() string {
	share, told := t.Share()
	if !told {
		return "-"
	}
	return fmt.Sprintf("%.1f %% (%.0f of %.0f)", 100*share, t.Found, t.Found+t.Missed)
}

// String is what the proxies trace.
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
