// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/printable"
)

// maxRows is the number of rows that are sorted by time, and whose contents give the
// widths of the columns. More are printed in blocks of as many.
const maxRows = 20_000

// exchangeTable writes a table for people. It sorts exchanges by the time of the request.
type exchangeTable struct {
	out    *bufio.Writer
	width  int // of the terminal; 0: any
	rows   []observe.Observation
	widths []int // known after the first block
}

// columns of the table. What does not fit is cut, from the columns with the lowest rank
// first, down to their least width.
var columns = []struct {
	title string
	least int
	rank  int // 0: never cut
	right bool
	cell  func(*observe.Observation) string
}{
	{"TIME", 0, 0, false, func(o *observe.Observation) string {
		return time.Unix(0, int64(o.Request.First)).Local().Format("15:04:05.000")
	}},
	{"CLIENT > SERVER", 17, 3, false, func(o *observe.Observation) string { return o.Client.String() + " > " + o.Server.String() }},
	{"REQUEST", 8, 2, false, func(o *observe.Observation) string { return printable.Text(strings.TrimSpace(o.Method + " " + o.Path)) }},
	{"STS", 0, 0, true, func(o *observe.Observation) string {
		if o.Status == 0 {
			return "-"
		}
		return strconv.Itoa(o.Status)
	}},
	{"TTFB", 0, 0, true, func(o *observe.Observation) string { return between(o.Request.First, o.Response.First) }},
	{"TOTAL", 0, 0, true, func(o *observe.Observation) string { return between(o.Extent()) }},
	{"BYTES", 0, 0, true, func(o *observe.Observation) string { return size(o.Response.Bytes) }},
	{"TRACE ID", 9, 1, false, func(o *observe.Observation) string {
		if !o.HasContext() {
			return "-"
		}
		return o.Context.TraceID.String()
	}},
	{"FLAGS", 5, 4, false, func(o *observe.Observation) string { return strings.Join(o.Flags.Names(), ",") }},
}

func (t *exchangeTable) write(o observe.Observation) error {
	t.rows = append(t.rows, o)
	if len(t.rows) < maxRows {
		return nil
	}
	return t.block()
}

func (t *exchangeTable) flush() error {
	err := t.block()
	if flushErr := t.out.Flush(); err == nil {
		err = flushErr
	}
	return err
}

// block prints the rows so far.
func (t *exchangeTable) block() error {
	slices.SortStableFunc(t.rows, func(a, b observe.Observation) int { return cmp.Compare(a.Request.First, b.Request.First) })
	cells := make([][]string, 0, len(t.rows))
	for i := range t.rows {
		row := make([]string, len(columns))
		for n, c := range columns {
			row[n] = c.cell(&t.rows[i])
		}
		cells = append(cells, row)
	}
	if len(cells) > 0 && t.widths == nil {
		t.widths = fitColumns(cells, t.width)
		titles := make([]string, len(columns))
		for n, c := range columns {
			titles[n] = c.title
		}
		cells = slices.Insert(cells, 0, titles)
	}
	t.rows = t.rows[:0]
	for _, row := range cells {
		if _, err := t.out.WriteString(t.line(row) + "\n"); err != nil {
			return err
		}
	}
	return nil
}

// line returns a row in its widths, without blanks at its end.
func (t *exchangeTable) line(row []string) string {
	var line strings.Builder
	for n, cell := range row {
		if n > 0 {
			line.WriteByte(' ')
		}
		if columns[n].right {
			fmt.Fprintf(&line, "%*s", t.widths[n], cell)
		} else {
			fmt.Fprintf(&line, "%-*s", t.widths[n], shorten(cell, t.widths[n]))
		}
	}
	text := strings.TrimRight(line.String(), " ")
	if t.width > 0 {
		text = shorten(text, t.width)
	}
	return text
}

// fitColumns returns the widths of the columns in a terminal of a width, 0 for any.
func fitColumns(cells [][]string, width int) []int {
	widths := make([]int, len(columns))
	sum := len(columns) - 1
	for n, c := range columns {
		widths[n] = utf8.RuneCountInString(c.title)
		for _, row := range cells {
			widths[n] = max(widths[n], utf8.RuneCountInString(row[n]))
		}
		sum += widths[n]
	}
	for rank := 1; width > 0 && sum > width && rank <= len(columns); rank++ {
		for n, c := range columns {
			if c.rank == rank && widths[n] > c.least {
				cut := min(sum-width, widths[n]-c.least)
				widths[n] -= cut
				sum -= cut
			}
		}
	}
	return widths
}

// shorten cuts a text to a width, with an ellipsis for what is left out.
func shorten(text string, width int) string {
	runes := []rune(text)
	if len(runes) <= width {
		return text
	}
	return string(runes[:max(width-1, 0)]) + "…"
}

// between formats the time between two times in ns, "-" if one is unknown.
func between(from, to uint64) string {
	if from == 0 || to == 0 {
		return "-"
	}
	switch ms := float64(max(to, from)-from) / 1e6; {
	case ms < 1:
		return fmt.Sprintf("%.0fµs", 1000*ms)
	case ms < 1000:
		return fmt.Sprintf("%.4gms", ms)
	default:
		return fmt.Sprintf("%.4gs", ms/1000)
	}
}

// size formats a number of bytes.
func size(bytes uint64) string {
	switch {
	case bytes < 10_000:
		return strconv.FormatUint(bytes, 10)
	case bytes < 10_000_000:
		return fmt.Sprintf("%dk", bytes/1000)
	}
	return fmt.Sprintf("%dM", bytes/1_000_000)
}
