// SPDX-License-Identifier: Apache-2.0

// Package printable keeps what others wrote (names, messages, responses of servers) from
// controlling the terminal that it is printed on: from moving the cursor, changing colours, the
// title or the direction of writing.
package printable

import (
	"bytes"
	"io"
	"strings"
	"unicode"
)

// Rune returns r, or U+FFFD instead of one that is no letter, mark, number, punctuation, symbol
// or ASCII space.
func Rune(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return unicode.ReplacementChar
}

// Text returns text with Rune of each character: one line.
func Text(text string) string { return strings.Map(Rune, text) }

// Writer passes lines of text on, with Rune of each character but line breaks and tabs. Each
// Write must have whole characters.
type Writer struct{ To io.Writer }

// Write implements io.Writer.
func (w Writer) Write(text []byte) (int, error) {
	clean := bytes.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		return Rune(r)
	}, text)
	if _, err := w.To.Write(clean); err != nil {
		return 0, err
	}
	return len(text), nil
}
