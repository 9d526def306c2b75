// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
)

// WritePage writes a score as Markdown that is also readable as plain text.
func (s Score) WritePage(out io.Writer, title string, notes ...string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n", title)
	for _, note := range notes {
		fmt.Fprintf(&b, "%s\n", note)
	}
	fmt.Fprintf(&b, "\n- Right layer and location: %s of the faults of 1 ms and more (without load %s, under load %s).\n",
		percent(s.Accuracy), percent(*s.ByLoad[false]), percent(*s.ByLoad[true]))
	fmt.Fprintf(&b, "- A layer blamed without a fault: %s.\n", percent(s.FalseBlame))
	fmt.Fprintf(&b, "- Wrong with high confidence: %d; of the requests by themselves: %d.\n", s.HighButWrong, s.SingleHighButWrong)
	fmt.Fprintf(&b, "- Resets in the middle of a response that the spans show by a flag: %s.\n", percent(s.Flagged))
	fmt.Fprintf(&b, "- Each request by itself: right %s, a layer blamed without a fault %s; in %s of these the client also waited longer, by half of the excess or more.\n",
		percent(s.SingleAccuracy), percent(s.SingleFalseBlame), percent(s.SingleSeen))
	fmt.Fprintf(&b, "- Excess within 5 %% or 200 µs of the injected time: %s of the right verdicts.\n", percent(s.Close))
	fmt.Fprintf(&b, "- Right queue of the protocol stack, if the fault was in one: %s of the right verdicts.\n", percent(s.Queue))
	fmt.Fprintf(&b, "- Unattributed time, median: %.2f %% of a request.\n", 100*s.Unattributed)
	fmt.Fprintf(&b, "- Faults of less than 1 ms, not counted: %d.\n", s.Small)
	rightVerdicts(&b)
	s.matrix(&b)
	s.groups(&b)
	s.wrong(&b)
	_, err := io.WriteString(out, b.String())
	return err
}

// rightVerdicts writes down which verdict is right for each kind of fault, and what
// measures the fault.
func rightVerdicts(b *strings.Builder) {
	b.WriteString("\n## Which verdict is right\n\nDecided before the runs. Nothing of layertrace takes part in a measurement.\n\n")
	rows := [][]string{{"fault", "right verdict", "measured by"}}
	for _, kind := range faults.Kinds {
		verdict, truth := kind.RightVerdict()
		rows = append(rows, []string{string(kind), verdict, truth})
	}
	writeTable(b, rows)
}

func (s Score) matrix(b *strings.Builder) {
	b.WriteString("\n## Confusion matrix\n\nRows: the layer of the fault. Columns: the layer of the verdict.\n\n")
	header := []string{"fault in"}
	for _, l := range faults.Layers {
		header = append(header, string(l))
	}
	rows := [][]string{append(header, "right layer, wrong location")}
	for _, fault := range faults.Layers {
		row := []string{string(fault)}
		for _, verdict := range faults.Layers {
			row = append(row, fmt.Sprint(s.Matrix[fault][verdict]))
		}
		rows = append(rows, append(row, fmt.Sprint(s.WrongLocation[fault])))
	}
	writeTable(b, rows)
}

func (s Score) groups(b *strings.Builder) {
	b.WriteString("\n## By kind and magnitude\n\n")
	rows := [][]string{{"fault", "magnitude", "right"}}
	for _, g := range s.Groups {
		magnitude := "varies"
		if g.MagnitudeUS > 0 {
			magnitude = (time.Duration(g.MagnitudeUS) * time.Microsecond).String()
		}
		rows = append(rows, []string{string(g.Kind), magnitude, percent(*s.ByGroup[g])})
	}
	writeTable(b, rows)
}

// wrong lists the wrong verdicts, at most fifty.
func (s Score) wrong(b *strings.Builder) {
	if len(s.Wrong) == 0 {
		return
	}
	b.WriteString("\n## Wrong verdicts\n\n")
	rows := [][]string{{"fault", "at", "injected ms", "verdict", "at", "measured ms", "confidence", "load", "trace"}}
	for _, r := range s.Wrong[:min(len(s.Wrong), 50)] {
		rows = append(rows, []string{
			string(r.Fault), r.Location, fmt.Sprintf("%.2f", float64(r.InjectedUS)/1000),
			string(r.VerdictLayer), r.VerdictLocation, fmt.Sprintf("%.2f", float64(r.MeasuredUS)/1000),
			r.Confidence, fmt.Sprint(r.Load), strings.Join(r.TraceIDs[:min(len(r.TraceIDs), 1)], ""),
		})
	}
	writeTable(b, rows)
}

func percent(s Share) string {
	return fmt.Sprintf("%.1f %% (%d of %d)", 100*s.Value(), s.Part, s.Of)
}

// writeTable writes a Markdown table with aligned columns. The first row is the head.
func writeTable(b *strings.Builder, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)), 3)
		}
	}
	for n, row := range rows {
		for i, cell := range row {
			fmt.Fprintf(b, "| %-*s ", widths[i], cell)
		}
		b.WriteString("|\n")
		if n == 0 {
			for _, width := range widths {
				b.WriteString("|" + strings.Repeat("-", width+2))
			}
			b.WriteString("|\n")
		}
	}
}
