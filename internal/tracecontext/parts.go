// SPDX-License-Identifier: Apache-2.0

package tracecontext

// parts collects a context that stands in several lines.
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

// prefix is what the names of the format's lines begin with.
func (p *parts) prefix() string {
	if p.format == FormatDatadog {
		return "x-datadog-"
	}
	return "x-b3-"
}

// partReader reads one value into the parts and reports whether it fits its
// form. What is there already stays: the first valid value counts.
type partReader func(p *parts, value string) bool

var partReaders = map[string]partReader{
	"x-b3-traceid":                readB3TraceID,
	"x-b3-spanid":                 readB3SpanID,
	"x-b3-sampled":                readB3Sampled,
	"x-b3-flags":                  readB3Flags,
	"x-datadog-trace-id":          readDatadogTraceID,
	"x-datadog-parent-id":         readDatadogParentID,
	"x-datadog-sampling-priority": readDatadogPriority,
}

func (p *parts) setTrace(id TraceID) bool {
	if id.IsZero() {
		return false
	}
	if !p.hasTrace {
		p.trace, p.hasTrace = id, true
	}
	return true
}

func (p *parts) setSpan(id SpanID) bool {
	if id.IsZero() {
		return false
	}
	if !p.hasSpan {
		p.span, p.hasSpan = id, true
	}
	return true
}

func (p *parts) decide(s Sampling) bool {
	if p.sampling == Deferred {
		p.sampling = s
	}
	return true
}
