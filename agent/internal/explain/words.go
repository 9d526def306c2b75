// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// width is how many columns text takes at most.
const width = 100

// printable takes out what would move a terminal's cursor or change its colours:
// names come from whoever sent the spans.
func printable(text string) string {
	return strings.Map(printableRune, text)
}

func printableRune(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return unicode.ReplacementChar
}

// fit makes a text so many columns wide: it cuts the end, or adds spaces.
func fit(text string, columns int) string {
	text = cut(printable(text), columns)
	return text + strings.Repeat(" ", max(columns-utf8.RuneCountInString(text), 0))
}

// cut makes a text no wider than the columns.
func cut(text string, columns int) string {
	if utf8.RuneCountInString(text) <= columns {
		return text
	}
	return string([]rune(text)[:max(columns-1, 0)]) + "…"
}

// right puts spaces in front.
func right(text string, columns int) string {
	return strings.Repeat(" ", max(columns-utf8.RuneCountInString(text), 0)) + text
}

// wrap breaks a text into lines: the first begins with first, all others with
// as many spaces.
func wrap(first, text string) string {
	indent := strings.Repeat(" ", utf8.RuneCountInString(first))
	var b strings.Builder
	line := first
	for i, word := range strings.Fields(printable(text)) {
		switch {
		case i == 0:
			line += word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width:
			b.WriteString(line + "\n")
			line = indent + word
		default:
			line += " " + word
		}
	}
	b.WriteString(line + "\n")
	return b.String()
}
