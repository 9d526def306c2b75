// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"math"
	"strings"
)

// gauge draws a time as a bar of at most so many columns, with a mark where the
// typical one ends; below 0 there is none.
func gauge(p paint, sgr string, time, typical, longest int64, columns int) string {
	if longest <= 0 {
		return ""
	}
	cells := func(ns int64) int {
		return int(math.Round(float64(columns) * float64(min(max(ns, 0), longest)) / float64(longest)))
	}
	filled := cells(time)
	if filled == 0 && time > 0 {
		filled = 1
	}
	mark := -1
	if typical >= 0 {
		mark = min(cells(typical), columns-1)
	}
	var b strings.Builder
	for c := range columns {
		switch {
		case c == mark && c < filled:
			b.WriteString(p.in(sgr, "|"))
		case c == mark:
			b.WriteString("|")
		case c < filled:
			b.WriteString(p.in(foreground(sgr), "█"))
		case c > mark:
			return b.String()
		default:
			b.WriteByte(' ')
		}
	}
	return b.String()
}

// foreground is the colour of a look in a character, not behind it.
func foreground(sgr string) string { return strings.Replace(sgr, "30;4", "3", 1) }

// strip writes a lane, in colours or not.
func strip(p paint, cells []byte) string {
	var b strings.Builder
	for start := 0; start < len(cells); {
		end := start
		for end < len(cells) && cells[end] == cells[start] {
			end++
		}
		text, sgr := string(cells[start:end]), ""
		for _, l := range looks {
			if l.letter == cells[start] {
				sgr = l.ansi
			}
		}
		switch {
		case sgr != "":
			text = p.in(sgr, text)
		case cells[start] != cellOutside:
			text = p.in(faint, text)
		}
		b.WriteString(text)
		start = end
	}
	return b.String()
}

// legend says what letters mean, in two lines.
func legend(p paint) string {
	var b strings.Builder
	for i, l := range looks {
		if i > 0 {
			b.WriteString("  ")
		}
		b.WriteString(p.in(l.ansi, string(l.letter)) + " " + string(l.layer))
	}
	return b.String() + "\n" + string(rune(cellInside)) + " waits for hops inside  " + string(rune(cellUnattributed)) + " not attributed\n"
}
