// SPDX-License-Identifier: Apache-2.0

package tracecontext

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

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
	// MaxLine is the length in bytes above which lines are skipped that do not end within
	// the first MaxLineBehind bytes; 0: no limit.
	MaxLine, MaxLineBehind int
	// Preferred are the formats to read, the most preferred one first; none: all,
	// and the first sampled context on the wire is taken.
	Preferred []Format
}

// Outcome is how the walk over a request head ended.
type Outcome uint8

// Outcomes, named as in docs/trace-context.md.
const (
	None       Outcome = iota // end of the head, no context
	Found                     // a context, sampled or deferred
	Unsampled                 // a context that denies sampling, or a denial without one
	Truncated                 // end of the window before the end of the head
	Unparsable                // not an HTTP/1.x request line
)

var outcomeNames = [...]string{"none", "found", "unsampled", "truncated", "unparsable"}

// String returns the name in the documentation.
func (o Outcome) String() string { return outcomeNames[o] }

// Result is the result of a walk over a request head.
type Result struct {
	// BeginsRequest: the first bytes are those of a request. If not, all else is
	// zero.
	BeginsRequest bool
	Outcome       Outcome
	// Context is zero unless one was found. A denial may have none.
	Context Context
	// Offset of the line that started the context, in bytes.
	Offset uint32
	// Malformed counts the malformed values.
	Malformed int
	// Several: there are contexts with different IDs.
	Several bool
	// Settled: the deep search needs no further segment, although that could change
	// the result.
	Settled bool
	// Final: further bytes cannot change the result.
	Final bool
}

// methods are those whose segments count as unparsable without a request line
// (RFC 9110, RFC 5789).
var methods = []string{
	"GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "CONNECT ", "OPTIONS ", "TRACE ", "PATCH ",
}

func startsWithKnownMethod(payload []byte) bool {
	return slices.ContainsFunc(methods, func(m string) bool { return bytes.HasPrefix(payload, []byte(m)) })
}

// startsWithMethod reports whether the payload starts with any method, and the first
// byte of a request target.
func startsWithMethod(payload []byte) bool {
	length := len(payload) - len(bytes.TrimLeft(payload, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"))
	return length > 0 && length <= formats.MaxMethod && payload[0] >= 'A' && payload[0] <= 'Z' &&
		length+1 < len(payload) && payload[length] == ' ' && strings.IndexByte("/*hH", payload[length+1]) >= 0
}

// skipEmptyLine skips one empty line before a request (RFC 9112, section 2.2).
func skipEmptyLine(payload []byte) []byte { return bytes.TrimPrefix(payload, []byte("\r\n")) }

// BeginsRequest reports whether a segment with this payload begins a request. If its
// method is not one of RFC 9110 and RFC 5789, it has to have a whole request line.
func BeginsRequest(payload []byte) bool {
	payload = skipEmptyLine(payload)
	if startsWithKnownMethod(payload) {
		return true
	}
	if !startsWithMethod(payload) {
		return false
	}
	line, _, ends := bytes.Cut(payload, []byte("\n"))
	return ends && isRequestLine(bytes.TrimSuffix(line, []byte("\r")))
}

// Parse walks over a request head, given from the first byte of its segment on, by
// the rules of docs/trace-context.md.
func Parse(head []byte, opts Options) Result {
	head = skipEmptyLine(head)
	known := startsWithKnownMethod(head)
	if !known && !startsWithMethod(head) {
		return Result{}
	}
	window, atLimit := head, false
	if opts.Window > 0 && len(head) >= opts.Window {
		window, atLimit = head[:opts.Window], true
	}
	w := walk{
		opts: opts, ranks: Ranks(opts.Preferred),
		b3: parts{format: FormatB3Multi}, datadog: parts{format: FormatDatadog},
	}
	ended := w.lines(window)
	if !known && (w.result.Outcome == Unparsable || !w.hasLine) {
		return Result{}
	}
	w.result.BeginsRequest = true
	w.result.Final = ended || atLimit
	return w.result
}

// walk is the state between two lines of a head.
type walk struct {
	opts   Options
	ranks  []uint8
	single []candidate
	// traceparent is the candidate of the header of this name, of which there may be
	// only one.
	traceparent  *candidate
	traceparents int
	b3, datadog  parts
	hasLine      bool // the first line ends within the window
	result       Result
}

// lines reads line after line up to the end of the head or the window, or to a
// denial by the most preferred format, and sets the result. It reports whether more
// bytes cannot change it.
func (w *walk) lines(window []byte) (ended bool) {
	for start := 0; ; {
		length := bytes.IndexByte(window[start:], '\n')
		if length < 0 {
			w.finish(Truncated)
			return false
		}
		w.hasLine = true
		line := bytes.TrimSuffix(window[start:start+length], []byte("\r"))
		switch {
		case w.opts.MaxLine > 0 && len(line) > w.opts.MaxLine && start+length >= w.opts.MaxLineBehind:
			// skipped
		case start == 0:
			if !isRequestLine(line) {
				w.result.Outcome = Unparsable
				return true
			}
		case len(line) == 0, w.line(line, uint32(start)):
			w.finish(None)
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

// line reads one header line and reports whether it ends the walk.
func (w *walk) line(line []byte, offset uint32) (done bool) {
	lower := lowerASCII(line)
	for _, p := range []*parts{&w.b3, &w.datadog} {
		if w.ranks[p.format] == 1 && p.hasIDs() && p.decision.sampling == Denied &&
			!bytes.HasPrefix(lower, []byte(p.format.Info().Prefix)) {
			return true
		}
	}
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok {
		return false
	}
	return w.header(string(lowerASCII(name)), value, offset)
}

// reads reports whether the lines of a format are read.
func (w *walk) reads(f Format) bool { return len(w.opts.Preferred) == 0 || w.ranks[f] > 0 }

// header reads the value of one header, its name in lower case, and reports
// whether that ends the walk.
func (w *walk) header(name string, value []byte, offset uint32) (done bool) {
	h, ok := w.find(name)
	if !ok {
		return false
	}
	if name == formats.TraceParent && h == builtin[name] {
		// A second one invalidates the first (W3C trace-context,
		// test_traceparent_duplicated).
		w.traceparents++
		if w.traceparents > 1 {
			w.traceparent = nil
			w.result.Malformed++
			return false
		}
	}
	text, ok := trimBlanks(value)
	switch {
	case !ok:
		w.result.Malformed++
	case !h.isPart:
		return w.whole(h.format, text, offset, name == formats.TraceParent)
	case h.format == FormatDatadog:
		w.part(&w.datadog, h.kind, text, offset)
	default:
		w.part(&w.b3, h.kind, text, offset)
	}
	return false
}

// find returns the header of a name, if it is one that is read.
func (w *walk) find(name string) (h header, ok bool) {
	if h, ok = builtin[name]; ok && w.reads(h.format) {
		return h, true
	}
	for _, c := range w.opts.Headers {
		if string(lowerASCII([]byte(c.Name))) == name {
			return header{format: c.Format}, w.reads(c.Format)
		}
	}
	return header{}, false
}

// builtin are the headers of the table of formats.
var builtin = map[string]header{}

type header struct {
	format Format
	isPart bool
	kind   formats.Kind // of a part
}

func init() {
	for _, f := range formats.All() {
		info := f.Info()
		if info.Header != "" {
			builtin[info.Header] = header{format: f}
		}
		for _, p := range info.Parts {
			builtin[p.Header] = header{format: f, isPart: true, kind: p.Kind}
		}
	}
}

// candidate is a context of the request, or a denial without one.
type candidate struct {
	Context
	offset uint32
}

// whole reads a context in one header, and reports whether it ends the walk.
func (w *walk) whole(format Format, value string, offset uint32, traceparent bool) (done bool) {
	c, ok := parseValue(format, value)
	c.Format = format
	switch {
	case format == FormatB3 && value == "0":
		c.Sampling = Denied
	case !ok:
		w.result.Malformed++
		return false
	case !hasIDs(c):
		return false
	}
	if traceparent {
		w.traceparent = &candidate{c, offset}
	} else {
		w.single = append(w.single, candidate{c, offset})
	}
	return w.ranks[format] == 1 && c.Sampling == Denied
}

// part reads one header of a context in several.
func (w *walk) part(p *parts, kind formats.Kind, value string, offset uint32) {
	hadID := p.hasTrace || p.hasSpan
	if !p.read(kind, value) {
		w.result.Malformed++
	} else if !hadID && (p.hasTrace || p.hasSpan) {
		p.offset = offset
	}
}

// finish chooses among the contexts and denials, or sets the given outcome.
func (w *walk) finish(otherwise Outcome) {
	all := w.single
	if w.traceparent != nil {
		all = append(all, *w.traceparent)
		w.datadog.complete(w.traceparent.TraceID)
	}
	for _, p := range []*parts{&w.b3, &w.datadog} {
		switch {
		case p.hasIDs():
			all = append(all, candidate{p.context(), p.offset})
		case p.decision.sampling == Denied:
			all = append(all, candidate{Context: Context{Sampling: Denied, Format: p.format}})
		}
	}
	w.result.Outcome = otherwise
	if len(all) == 0 {
		return
	}
	chosen := slices.MinFunc(all, w.compare)
	w.result.Outcome = Found
	if chosen.Sampling == Denied {
		w.result.Outcome = Unsampled
	}
	if !chosen.TraceID.IsZero() {
		w.result.Context, w.result.Offset = chosen.Context, chosen.offset
	}
	w.result.Several = several(all)
	w.result.Settled = slices.ContainsFunc(all, func(c candidate) bool {
		return c.Sampling == Accepted && w.ranks[c.Format] <= 1
	})
}

// compare orders candidates, the one to take first.
func (w *walk) compare(a, b candidate) int {
	if c := cmp.Compare(w.ranks[a.Format], w.ranks[b.Format]); c != 0 {
		return c
	}
	if len(w.opts.Preferred) == 0 && (a.Sampling == Denied) != (b.Sampling == Denied) {
		if a.Sampling == Denied {
			return 1
		}
		return -1
	}
	if a.TraceID.IsZero() != b.TraceID.IsZero() { // a denial without a context last
		if a.TraceID.IsZero() {
			return 1
		}
		return -1
	}
	return cmp.Compare(a.offset, b.offset)
}

// several reports whether contexts differ in their span IDs or the low halves of
// their trace IDs.
func several(all []candidate) bool {
	contexts := slices.DeleteFunc(slices.Clone(all), func(c candidate) bool { return c.TraceID.IsZero() })
	return slices.ContainsFunc(contexts, func(c candidate) bool {
		return c.SpanID != contexts[0].SpanID || [8]byte(c.TraceID[8:]) != [8]byte(contexts[0].TraceID[8:])
	})
}

// trimBlanks returns a value without the blanks at its ends, and whether they are
// not too many.
func trimBlanks(value []byte) (text string, ok bool) {
	const blanks = " \t"
	for i := 0; i < formats.MaxBlanks && len(value) > 0 && strings.IndexByte(blanks, value[0]) >= 0; i++ {
		value = value[1:]
	}
	for i := 0; i < formats.MaxBlanks && len(value) > 0 && strings.IndexByte(blanks, value[len(value)-1]) >= 0; i++ {
		value = value[:len(value)-1]
	}
	return string(value), len(bytes.Trim(value, blanks)) == len(value)
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
	hasHigh  bool // a tag with the high half of trace was read
	decision choice
	offset   uint32 // of the first line that gave an ID
}

func (p *parts) hasIDs() bool { return p.hasTrace && p.hasSpan }

func (p *parts) context() Context {
	return Context{TraceID: p.trace, SpanID: p.span, Sampling: p.decision.sampling, Format: p.format}
}

// complete takes the high half of another trace ID if the low halves are the same
// and there is none yet.
func (p *parts) complete(id TraceID) {
	if p.hasIDs() && [8]byte(p.trace[:8]) == [8]byte{} && [8]byte(p.trace[8:]) == [8]byte(id[8:]) {
		p.trace = id
	}
}

// read reads one value and reports whether it is valid. The first valid value of
// a kind counts.
func (p *parts) read(kind formats.Kind, value string) bool {
	switch kind {
	case formats.TraceID:
		id, ok := parsePartTraceID(p.format, value)
		if ok && !p.hasTrace {
			copy(p.trace[8:], id[8:])
			if p.format != FormatDatadog {
				p.trace = id
			}
			p.hasTrace = true
		}
		return ok
	case formats.SpanID:
		id, ok := parsePartSpanID(p.format, value)
		if ok && !p.hasSpan {
			p.span, p.hasSpan = id, true
		}
		return ok
	case formats.Tags:
		high, ok := parseDatadogTags(value)
		if len(high) > 0 && !p.hasHigh {
			copy(p.trace[:8], high)
			p.hasHigh = true
		}
		return ok
	}
	c, ok := parseDecision(kind, value)
	if ok && (p.decision.sampling == Deferred || c.debug) {
		p.decision = c
	}
	return ok
}
