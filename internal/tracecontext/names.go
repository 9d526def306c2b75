// SPDX-License-Identifier: Apache-2.0

package tracecontext

import (
	"bytes"
	"strings"
)

// header reads the value of one header, its name in lower case, and reports
// whether that ended the walk.
func (w *walk) header(name, value string, offset uint32) (done bool) {
	switch name {
	case "traceparent":
		return w.single(FormatW3C, value, offset)
	case "b3":
		return w.single(FormatB3, value, offset)
	case "uber-trace-id":
		return w.single(FormatJaeger, value, offset)
	case "sw8":
		return w.single(FormatSW8, value, offset)
	}
	if read, ok := partReaders[name]; ok {
		p := &w.b3
		if strings.HasPrefix(name, w.datadog.prefix()) {
			p = &w.datadog
		}
		return w.part(p, read, value, offset)
	}
	for _, h := range w.headers {
		if string(lowerASCII([]byte(h.Name))) == name {
			return w.single(h.Format, value, offset)
		}
	}
	return false
}

// single reads a context that stands in one line.
func (w *walk) single(format Format, value string, offset uint32) (done bool) {
	if format == FormatB3 && value == "0" {
		w.result.Outcome = Unsampled
		return true
	}
	var c Context
	var ok bool
	switch format {
	case FormatW3C:
		c, ok = parseW3C(value)
	case FormatB3:
		c, ok = parseB3(value)
	case FormatJaeger:
		c, ok = parseJaeger(value)
	case FormatSW8:
		c, ok = parseSW8(value)
	}
	if !ok || c.TraceID.IsZero() || c.SpanID.IsZero() {
		w.result.Malformed++
		return false
	}
	c.Format = format
	w.take(c, offset)
	return true
}

// part reads one line of a context that stands in several.
func (w *walk) part(p *parts, read partReader, value string, offset uint32) (done bool) {
	hadID := p.hasTrace || p.hasSpan
	if !read(p, value) {
		w.result.Malformed++
		return false
	}
	if !hadID && (p.hasTrace || p.hasSpan) {
		p.offset = offset
	}
	if p.hasIDs() && p.sampling != Deferred {
		w.take(p.context(), p.offset)
		return true
	}
	return false
}

// lowerASCII changes ASCII letters only: a name in another script must not
// turn into one of ours, as U+0130 turns into "i" by the rules of Unicode.
func lowerASCII(b []byte) []byte {
	lower := bytes.Clone(b)
	for i, c := range lower {
		if c >= 'A' && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	return lower
}
