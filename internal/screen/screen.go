// SPDX-License-Identifier: Apache-2.0

// Package screen writes text in the width of a terminal: lines and tables that break
// between words. What others wrote does not control the terminal.
package screen

import (
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/layertrace/layertrace/internal/printable"
)

// DefaultWidth is the width of a terminal that does not report one, in columns.
const DefaultWidth = 80

// Width returns the columns for text that is written to w: those of COLUMNS, else those of
// the terminal that w is. It is 0 for a file or a pipe, whose reader may want whole lines.
func Width(w io.Writer) int {
	if columns, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && columns > 0 {
		return columns
	}
	file, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return 0
	}
	if columns, _, err := term.GetSize(int(file.Fd())); err == nil && columns > 0 {
		return columns
	}
	return DefaultWidth
}

// Wrap breaks a text into lines of at most width columns, 0: one line. The first begins with
// first, the others with as many spaces. Words that are longer than a line have one of their own.
func Wrap(first, text string, width int) string {
	indent := strings.Repeat(" ", utf8.RuneCountInString(first))
	var b strings.Builder
	line := first
	for i, word := range strings.FieldsFunc(text, isSpace) {
		word = printable.Text(word)
		switch {
		case i == 0:
			line += word
		case width > 0 && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width:
			b.WriteString(line + "\n")
			line = indent + word
		default:
			line += " " + word
		}
	}
	b.WriteString(strings.TrimRight(line, " ") + "\n")
	return b.String()
}

// WrapHead is Wrap of the first line of a text. The lines after it, which may be YAML to copy,
// stay as they are.
func WrapHead(first, text string, width int) string {
	head, rest, more := strings.Cut(text, "\n")
	wrapped := Wrap(first, head, width)
	if rest = strings.TrimRight(rest, "\n"); !more || rest == "" {
		return wrapped
	}
	var b strings.Builder
	_, _ = printable.Writer{To: &b}.Write([]byte(rest + "\n")) // never fails
	return wrapped + b.String()
}

// isSpace reports whether r is ASCII white space. What Unicode has besides controls terminals.
func isSpace(r rune) bool { return strings.ContainsRune(" \t\r\n", r) }

// Table is a table with titles.
type Table struct {
	// Remarks: the last column is text about its row. Where the table is wider than the
	// screen, it goes below the row.
	Remarks bool
	titles  []string
	rows    [][]string
}

// NewTable returns an empty table.
func NewTable(titles ...string) *Table { return &Table{titles: titles} }

// Row adds a row.
func (t *Table) Row(cells ...string) {
	row := make([]string, len(cells))
	for i, cell := range cells {
		row[i] = printable.Text(cell)
	}
	t.rows = append(t.rows, row)
}

// Widths of tables, in columns.
const (
	gap       = 2 // between two columns
	narrowGap = 1 // where the table does not fit otherwise
	leastCell = 8 // words of columns that are wider are cut, if nothing else helps
	remark    = 4 // indentation of remarks
	under     = 2 // indentation of what is under the first column
)

// layout is how a table is written.
type layout struct {
	widths []int // of the columns that stand beside each other
	gap    int
	below  bool // remarks are below their rows
	above  bool // the first column has lines of its own, and the others are under it
}

// columns returns the width of a row.
func (l layout) columns() int {
	total := -l.gap
	for _, w := range l.widths {
		total += w + l.gap
	}
	if l.above {
		total += under
	}
	return total
}

// layout finds how the table fits a width, with as little change as possible.
func (t *Table) layout(all [][]string, width int) layout {
	l := layout{widths: widest(all, whole), gap: gap}
	if width <= 0 || l.columns() <= width {
		return l
	}
	if l.below = t.Remarks; l.below {
		l.widths = l.widths[:len(l.widths)-1]
	}
	words, pieces := widest(all, strings.Fields), widest(all, pieces)
	if l.columns() <= width || l.shrink(words, width) || l.shrink(pieces, width) {
		return l
	}
	head := layout{widths: l.widths[1:], gap: gap, below: l.below, above: true}
	if len(head.widths) == 0 {
		return l
	}
	if head.shrink(words[1:], width) || head.shrink(pieces[1:], width) {
		return head
	}
	head.gap = narrowGap
	for i := range pieces {
		pieces[i] = min(pieces[i], leastCell)
	}
	head.shrink(pieces[1:], width)
	return head
}

// shrink takes columns from the widest ones that are above their least width, and reports
// whether a row then fits. If not, the widths are as before.
func (l *layout) shrink(least []int, width int) bool {
	before := slices.Clone(l.widths)
	for l.columns() > width {
		widest := -1
		for i := range l.widths {
			if l.widths[i] > least[i] && (widest < 0 || l.widths[i] > l.widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			if l.gap == gap {
				l.widths = before
			}
			return false
		}
		l.widths[widest]--
	}
	return true
}

// Text returns the table in a width, 0: as wide as it is.
func (t *Table) Text(width int) string {
	all := append([][]string{t.titles}, t.rows...)
	l := t.layout(all, width)
	var b strings.Builder
	for i, row := range all {
		cells, indent := row, ""
		if l.above {
			for _, line := range lines(row[0], width) {
				b.WriteString(line + "\n")
			}
			cells, indent = row[1:], strings.Repeat(" ", under)
		}
		writeRow(&b, indent, cells[:len(l.widths)], l)
		if note := row[len(row)-1]; l.below && i > 0 && note != "" {
			b.WriteString(Wrap(strings.Repeat(" ", remark), note, width))
		}
	}
	return b.String()
}

// widest returns the width of the widest part of the cells of each column.
func widest(rows [][]string, parts func(cell string) []string) []int {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			for _, part := range parts(cell) {
				widths[i] = max(widths[i], utf8.RuneCountInString(part))
			}
		}
	}
	return widths
}

func whole(cell string) []string { return []string{cell} }

// pieces returns the parts between which a cell may break: words, and parts of words that end
// in a punctuation mark.
func pieces(cell string) (all []string) {
	for _, word := range strings.Fields(cell) {
		for word != "" {
			end := len(word)
			if mark := strings.IndexFunc(word, isMark); mark >= 0 {
				end = mark + 1
			}
			all = append(all, word[:end])
			word = word[end:]
		}
	}
	return all
}

// writeRow writes the cells of a row, over as many lines as the highest one takes.
func writeRow(b *strings.Builder, indent string, row []string, l layout) {
	cells := make([][]string, len(row))
	height := 1
	for i, cell := range row {
		cells[i] = lines(cell, l.widths[i])
		height = max(height, len(cells[i]))
	}
	for n := range height {
		var line strings.Builder
		line.WriteString(indent)
		for i, cell := range cells {
			text := ""
			if n < len(cell) {
				text = cell[n]
			}
			line.WriteString(text + strings.Repeat(" ", l.widths[i]+l.gap-utf8.RuneCountInString(text)))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

// lines breaks a cell into lines. A word that is too long is cut after a punctuation mark, else
// anywhere.
func lines(cell string, width int) (all []string) {
	if utf8.RuneCountInString(cell) <= width {
		return []string{cell}
	}
	line := []rune{}
	for _, word := range strings.Fields(cell) {
		rest := []rune(word)
		if len(line) > 0 && len(line)+1+len(rest) <= width {
			line = append(append(line, ' '), rest...)
			continue
		}
		if len(line) > 0 {
			all = append(all, string(line))
		}
		for len(rest) > width {
			cut := width
			if mark := slices.IndexFunc(reversed(rest[:width]), isMark); mark >= 0 && mark < width-1 {
				cut = width - mark
			}
			all = append(all, string(rest[:cut]))
			rest = rest[cut:]
		}
		line = slices.Clone(rest)
	}
	return append(all, string(line))
}

func reversed(runes []rune) []rune {
	all := slices.Clone(runes)
	slices.Reverse(all)
	return all
}

// isMark reports whether a word may be cut after r.
func isMark(r rune) bool { return strings.ContainsRune("/-_", r) }
