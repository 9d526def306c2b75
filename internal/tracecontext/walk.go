// SPDX-License-Identifier: Apache-2.0

package tracecontext

import (
	"bytes"

	"github.com/layertrace/layertrace/internal/tracecontext/formats"
)

// DeepMaxLine is Options.MaxLine of the deep search.
const DeepMaxLine = formats.DeepMaxLine

// Default windows in bytes: of the search in a request's first segment, and of the
// deep search in any number of segments.
const (
	DefaultPrefixWindow = 1024
	DefaultDeepWindow   = 65536
)

// Options limit the search of Parse.
type Options struct {
	// Window is the number of bytes searched; 0: all.
	Window int
	// Headers are configured names, matched after the built-in ones.
	Headers []ContextHeader
	// MaxLine is the length in bytes above which lines are skipped; 0: no limit.
	MaxLine int
}

// Outcome is how the walk over a request head ended.
type Outcome uint8

// Outcomes, named as in docs/trace-context.md.
const (
	None       Outcome = iota // end of the head, no context
	Found                     // a context, sampled or deferred
	Unsampled                 // a context that denies sampling, or a lone denial
	Truncated                 // end of the window before the end of the head
	Unparsable                // not an HTTP/1.x request line
)

var outcomeNames = [...]string{"none", "found", "unsampled", "truncated", "unparsable"}

// String returns the name in the documentation.
func (o Outcome) String() string { return outcomeNames[o] }

// Result is the result of a walk over a request head.
type Result struct {
	// BeginsRequest: the first bytes are a method. If not, all else is zero.
	BeginsRequest bool
	Outcome       Outcome
	// Context is zero unless one was found. A lone denial has none.
	Context Context
	// Offset of the line that started the context, in bytes.
	Offset uint32
	// Malformed counts the malformed values.
	Malformed int
	// Final: further bytes cannot change the result.
	Final bool
}

var methods = []string{
	"GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "CONNECT ", "OPTIONS ", "TRACE ", "PATCH ",
}

// BeginsRequest reports whether a segment with this payload begins a request.
func BeginsRequest(payload []byte) bool {
	for _, m := range methods {
		if bytes.HasPrefix(payload, []byte(m)) {
			return true
		}
	}
	return false
}

// Parse walks over a request head, given from its first byte on, by the rules of
// docs/trace-context.md.
func Parse(head []byte, opts Options) Result {
	if !BeginsRequest(head) {
		return Result{}
	}
	window, atLimit := head, false
	if opts.Window > 0 && len(head) >= opts.Window {
		window, atLimit = head[:opts.Window], true
	}
	w := walk{headers: opts.Headers, b3: parts{format: FormatB3Multi}, datadog: parts{format: FormatDatadog}}
	ended := w.lines(window, opts.MaxLine)
	if !ended {
		w.finish(Truncated)
	}
	w.result.BeginsRequest = true
	w.result.Final = ended || atLimit
	return w.result
}

// walk is the state between two lines of a head.
type walk struct {
	headers []ContextHeader
	b3      parts
	datadog parts
	result  Result
}

// lines reads line after line and reports whether the walk ended inside the
// window.
func (w *walk) lines(window []byte, maxLine int) (ended bool) {
	for start := 0; ; {
		length := bytes.IndexByte(window[start:], '\n')
		if length < 0 {
			return false
		}
		line := bytes.TrimSuffix(window[start:start+length], []byte("\r"))
		switch {
		case maxLine > 0 && len(line) > maxLine:
			// skipped
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

// isRequestLine reports whether the line ends with a version of HTTP/1.
func isRequestLine(line []byte) bool {
	const version = " HTTP/1."
	digit := len(line) - 1
	return digit > 0 && line[digit] >= '0' && line[digit] <= '9' && bytes.HasSuffix(line[:digit], []byte(version))
}

// line reads one header line and reports whether it ended the walk.
func (w *walk) line(line []byte, offset uint32) (done bool) {
	lower := lowerASCII(line)
	for _, p := range []*parts{&w.b3, &w.datadog} {
		if p.hasIDs() && !bytes.HasPrefix(lower, []byte(p.format.Info().Prefix)) {
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

// header reads the value of one header, its name in lower case, and reports
// whether that ended the walk.
func (w *walk) header(name, value string, offset uint32) (done bool) {
	h, ok := builtin[name]
	switch {
	case !ok:
		for _, h := range w.headers {
			if string(lowerASCII([]byte(h.Name))) == name {
				return w.single(h.Format, value, offset)
			}
		}
		return false
	case !h.isPart:
		return w.single(h.format, value, offset)
	case h.format == FormatDatadog:
		return w.part(&w.datadog, h.kind, value, offset)
	}
	return w.part(&w.b3, h.kind, value, offset)
}

// builtin are the headers of the table of formats.
var builtin = map[string]builtinHeader{}

type builtinHeader struct {
	format Format
	isPart bool
	kind   formats.Kind // of a part
}

func init() {
	for _, f := range formats.All() {
		info := f.Info()
		if info.Header != "" {
			builtin[info.Header] = builtinHeader{format: f}
		}
		for _, p := range info.Parts {
			builtin[p.Header] = builtinHeader{format: f, isPart: true, kind: p.Kind}
		}
	}
}

// single reads a context in a single header.
func (w *walk) single(format Format, value string, offset uint32) (done bool) {
	if format == FormatB3 && value == "0" {
		w.result.Outcome = Unsampled
		return true
	}
	c, ok := parseValue(format, value)
	if !ok || c.TraceID.IsZero() || c.SpanID.IsZero() {
		w.result.Malformed++
		return false
	}
	c.Format = format
	w.take(c, offset)
	return true
}

// part reads one header of a context in several.
func (w *walk) part(p *parts, kind formats.Kind, value string, offset uint32) (done bool) {
	hadID := p.hasTrace || p.hasSpan
	if !p.read(kind, value) {
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

// take ends the walk with a context.
func (w *walk) take(c Context, offset uint32) {
	w.result.Context, w.result.Offset = c, offset
	w.result.Outcome = Found
	if c.Sampling == Denied {
		w.result.Outcome = Unsampled
	}
}

// finish ends the walk at the end of the head or the window: with a context
// whose IDs are complete, with a lone denial, or with the given outcome.
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

// trimBlanks returns a value without the blanks at its ends. With too many of
// them it returns an empty value, which is malformed in every format.
func trimBlanks(value []byte) string {
	right := bytes.TrimRight(value, " \t")
	both := bytes.TrimLeft(right, " \t")
	if len(value)-len(right) > formats.MaxBlanks || len(right)-len(both) > formats.MaxBlanks {
		return ""
	}
	return string(both)
}

// lowerASCII changes ASCII letters only. Unicode's rules would turn letters of
// other scripts into those of a header name, such as U+0130 into "i".
func lowerASCII(b []byte) []byte {
	lower := bytes.Clone(b)
	for i, c := range lower {
		if c >= 'A' && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	return lower
}

// parts collects a context in several headers.
type parts struct {
	format   Format
	trace    TraceID
	span     SpanID
	hasTrace bool
	hasSpan  bool
	sampling Sampling
	offset   uint32 // of the first line that gave an ID
}

func (p *parts) hasIDs() bool { return p.hasTrace && p.hasSpan }

func (p *parts) context() Context {
	return Context{TraceID: p.trace, SpanID: p.span, Sampling: p.sampling, Format: p.format}
}

// read reads one value and reports whether it is valid. The first valid value of
// a kind counts.
func (p *parts) read(kind formats.Kind, value string) bool {
	switch kind {
	case formats.TraceID:
		id, ok := parsePartTraceID(p.format, value)
		if !ok || id.IsZero() {
			return false
		}
		if !p.hasTrace {
			p.trace, p.hasTrace = id, true
		}
		return true
	case formats.SpanID:
		id, ok := parsePartSpanID(p.format, value)
		if !ok || id.IsZero() {
			return false
		}
		if !p.hasSpan {
			p.span, p.hasSpan = id, true
		}
		return true
	}
	sampling, ok := decisions[kind][value]
	if p.sampling == Deferred {
		p.sampling = sampling
	}
	return ok
}
