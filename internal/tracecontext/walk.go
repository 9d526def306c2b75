// SPDX-License-Identifier: Apache-2.0

package tracecontext

import "bytes"

// walk is the state between two lines of a head.
type walk struct {
	headers []ContextHeader
	b3      parts
	datadog parts
	result  Result
}

// lines reads line after line and reports whether the walk came to its end
// inside the window.
func (w *walk) lines(window []byte, maxLine int) (ended bool) {
	for start := 0; ; {
		length := bytes.IndexByte(window[start:], '\n')
		if length < 0 {
			return false
		}
		line := bytes.TrimSuffix(window[start:start+length], []byte("\r"))
		switch {
		case maxLine > 0 && len(line) > maxLine:
			// As if it were not there.
		case start == 0:
			if !isRequestLine(line) {
				w.result.Outcome = Unparsable
				return true
			}
		case len(line) == 0:
			w.finish(None)
			return true
		case w.line(line, uint32(start)):
			return true
		}
		start += length + 1
	}
}

// isRequestLine reports whether the line ends with the version of HTTP/1.
func isRequestLine(line []byte) bool {
	const version = " HTTP/1."
	digit := len(line) - 1
	return digit > 0 && isDigit(line[digit]) && bytes.HasSuffix(line[:digit], []byte(version))
}

// line reads one header line and reports whether it ended the walk.
func (w *walk) line(line []byte, offset uint32) (done bool) {
	lower := lowerASCII(line)
	for _, p := range []*parts{&w.b3, &w.datadog} {
		if p.hasIDs() && !bytes.HasPrefix(lower, []byte(p.prefix())) {
			w.take(p.context(), p.offset)
			return true
		}
	}
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok {
		return false
	}
	return w.header(string(lowerASCII(name)), trimBlanks(value), offset)
}

// maxBlanks is how many SP and HTAB may stand at either end of a value.
const maxBlanks = 64

// trimBlanks returns a value without the blanks at its ends. Where there are
// too many it returns an empty value, which fits no form.
func trimBlanks(value []byte) string {
	right := bytes.TrimRight(value, " \t")
	both := bytes.TrimLeft(right, " \t")
	if len(value)-len(right) > maxBlanks || len(right)-len(both) > maxBlanks {
		return ""
	}
	return string(both)
}

// take ends the walk with a context.
func (w *walk) take(c Context, offset uint32) {
	w.result.Context, w.result.Offset = c, offset
	w.result.Outcome = Found
	if c.Sampling == Denied {
		w.result.Outcome = Unsampled
	}
}

// finish ends the walk where the head or the window ends: with the context
// whose IDs are complete, with a denial that stands alone, or as given.
func (w *walk) finish(otherwise Outcome) {
	for _, p := range []*parts{&w.b3, &w.datadog} {
		if p.hasIDs() {
			w.take(p.context(), p.offset)
			return
		}
	}
	w.result.Outcome = otherwise
	if w.b3.sampling == Denied || w.datadog.sampling == Denied {
		w.result.Outcome = Unsampled
	}
}
