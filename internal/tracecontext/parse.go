// SPDX-License-Identifier: Apache-2.0

package tracecontext

import "bytes"

// Outcome is how the walk over a request head ended.
type Outcome uint8

// Outcomes, named as in docs/trace-context.md.
const (
	None       Outcome = iota // the head ended, no context in it
	Found                     // a context, sampled or not decided
	Unsampled                 // a context that denies sampling, or a lone denial
	Truncated                 // the window ended before the head did
	Unparsable                // no HTTP/1.x request line
)

var outcomeNames = [...]string{"none", "found", "unsampled", "truncated", "unparsable"}

// String returns the name as on the page.
func (o Outcome) String() string { return outcomeNames[o] }

// Options says how far and for what Parse looks.
type Options struct {
	// Window is the number of bytes looked at; 0: all that are given.
	Window int
	// Headers are the configured names, looked for after the built-in ones.
	Headers []ContextHeader
	// MaxLine is the length in bytes above which a line is skipped; 0: none
	// is. Deep mode has DeepMaxLine.
	MaxLine int
}

// DeepMaxLine is Options.MaxLine of deep mode.
const DeepMaxLine = 512

// Result is what a walk over a request head found.
type Result struct {
	// BeginsRequest: the first bytes are a method. All else is zero if not.
	BeginsRequest bool
	Outcome       Outcome
	// Context is zero unless one was found. A lone denial has none.
	Context Context
	// Offset is the place of the line in which the context began, in bytes.
	Offset uint32
	// Malformed counts the values that did not fit their form.
	Malformed int
	// Final: more bytes behind the given ones could not change the result.
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

// Parse walks over a request head, given from the first byte of the request
// on, by the rules of docs/trace-context.md.
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
