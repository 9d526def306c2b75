// SPDX-License-Identifier: Apache-2.0

package corpus

import (
	"bytes"
	"slices"
	"strings"
)

// line is a range of the head, its LF included.
type line struct{ start, end int }

func (m *mutator) lines() []line {
	var lines []line
	for start := 0; start < len(m.head); {
		end := len(m.head)
		if i := bytes.IndexByte(m.head[start:], '\n'); i >= 0 {
			end = start + i + 1
		}
		lines = append(lines, line{start, end})
		start = end
	}
	return lines
}

// contextLines returns the lines that look like a trace context's.
func (m *mutator) contextLines() []line {
	return slices.DeleteFunc(m.lines(), func(l line) bool {
		name, _, _ := strings.Cut(strings.ToLower(string(m.head[l.start:l.end])), ":")
		return !slices.ContainsFunc([]string{"trace", "b3", "sw8", "datadog"}, func(part string) bool {
			return strings.Contains(name, part)
		})
	})
}

// pick returns a line, mostly one of a trace context.
func (m *mutator) pick() line {
	lines := m.lines()
	if contexts := m.contextLines(); len(contexts) > 0 && m.IntN(3) > 0 {
		lines = contexts
	}
	return lines[m.IntN(len(lines))]
}

// place returns the start of a line behind the first one, mostly.
func (m *mutator) place() int {
	lines := m.lines()
	if len(lines) > 1 && m.IntN(10) > 0 {
		lines = lines[1:]
	}
	return lines[m.IntN(len(lines))].start
}

func (m *mutator) duplicateLine() {
	l := m.pick()
	m.head = slices.Insert(m.head, m.place(), bytes.Clone(m.head[l.start:l.end])...)
}

func (m *mutator) deleteLine() {
	l := m.pick()
	m.head = slices.Delete(m.head, l.start, l.end)
}

func (m *mutator) swapLines() {
	a, b := m.pick(), m.pick()
	if a.start > b.start {
		a, b = b, a
	}
	if a.end > b.start {
		return // the same one
	}
	m.head = slices.Concat(m.head[:a.start], m.head[b.start:b.end], m.head[a.end:b.start], m.head[a.start:a.end], m.head[b.end:])
}

// insertLong puts a long line somewhere, so that what follows lies behind the
// window, or the line is longer than deep mode reads, or just not.
func (m *mutator) insertLong() {
	length := []int{100, 400, 480, 500, 512, 600, 900, 1024, 3000}[m.IntN(9)] + m.IntN(40)
	text := "x-long: " + strings.Repeat("l", length) + "\r\n"
	m.head = slices.Insert(m.head, m.place(), []byte(text)...)
}
