// SPDX-License-Identifier: Apache-2.0

// Package formats is the one table of the trace context formats: their public
// names, the headers that carry them, and their limits. The Go parser and the
// Wasm filter import it; the tables of the BPF programs and of the Lua script
// are generated from it (go generate ./internal/tracecontext/...). It imports
// next to nothing, to keep the Wasm module small.
package formats

import "strconv"

//go:generate go run ../generate -root=../../..

// Format is an encoding of a trace context in request headers.
type Format uint8

// The formats. The BPF programs use the same numbers.
const (
	None       Format = iota
	W3C               // W3C Trace Context
	B3                // openzipkin B3 propagation, single header
	B3Multi           // openzipkin B3 propagation, a header per part
	Jaeger            // Jaeger client libraries
	Datadog           // Datadog propagation, a header per part
	SkyWalking        // SkyWalking cross-process propagation v3
	XRay              // AWS X-Ray
	GCP               // Google Cloud Trace
)

// Info describes a format. It has either Header or Prefix and Parts.
type Info struct {
	// Name is the public name: in flags, configuration, JSON and attributes.
	Name string
	// Header is the name of the single header with the whole context.
	Header string
	// Prefix starts the names of all headers of the format; Parts are those that
	// the parsers read.
	Prefix string
	Parts  []Part
}

// Part is a header with one part of a context.
type Part struct {
	Header string
	Kind   Kind
}

// Kind is what the value of a part is.
type Kind uint8

// Kinds of parts.
const (
	TraceID Kind = iota
	SpanID
	Sampled  // the sampling decision
	B3Flags  // B3's debug flag, which implies the decision to sample
	Priority // Datadog's sampling priority
	Tags     // Datadog's tags, one of which is the high half of the trace ID
)

// Header names that other packages use too. All header names are in lower case;
// they match in any case.
const (
	TraceParent = "traceparent"
	TraceState  = "tracestate" // accompanies traceparent, carries no context by itself
	B3TraceID   = "x-b3-traceid"
	B3SpanID    = "x-b3-spanid"
	B3Sampled   = "x-b3-sampled"
)

var table = [...]Info{
	None: {Name: "none"},
	W3C:  {Name: "w3c", Header: TraceParent},
	B3:   {Name: "b3", Header: "b3"},
	B3Multi: {Name: "b3multi", Prefix: "x-b3-", Parts: []Part{
		{B3TraceID, TraceID}, {B3SpanID, SpanID}, {B3Sampled, Sampled}, {"x-b3-flags", B3Flags},
	}},
	Jaeger: {Name: "jaeger", Header: "uber-trace-id"},
	Datadog: {Name: "datadog", Prefix: "x-datadog-", Parts: []Part{
		{"x-datadog-trace-id", TraceID}, {"x-datadog-parent-id", SpanID}, {"x-datadog-sampling-priority", Priority},
		{"x-datadog-tags", Tags},
	}},
	SkyWalking: {Name: "skywalking", Header: "sw8"},
	XRay:       {Name: "xray", Header: "x-amzn-trace-id"},
	GCP:        {Name: "gcp", Header: "x-cloud-trace-context"},
}

// Limits of the parsers and of configured headers.
const (
	MaxContextHeaders   = 4  // configured header names
	MaxContextHeaderLen = 31 // bytes of such a name

	MaxBlanks   = 64  // SP and HTAB at either end of a value
	DeepMaxLine = 512 // bytes; the deep search skips longer lines

	TraceParentLen       = 55  // bytes of a traceparent of version 00
	MaxSkyWalkingID      = 256 // bytes of a trace or segment ID
	MaxSkyWalkingSpanLen = 8   // digits of a span's index
	MaxXRayFields        = 16
	MaxDatadogTags       = 32

	MaxMethod = 31 // bytes
)

// All returns the formats in the order of their numbers, without None.
func All() []Format {
	all := make([]Format, 0, len(table)-1)
	for f := None + 1; int(f) < len(table); f++ {
		all = append(all, f)
	}
	return all
}

// Parse returns the format of a public name.
func Parse(name string) (Format, bool) {
	for i := range table {
		if table[i].Name == name {
			return Format(i), true
		}
	}
	return None, false
}

// Info returns the description of a format.
func (f Format) Info() Info { return table[f] }

// String returns the public name.
func (f Format) String() string {
	if int(f) < len(table) {
		return table[f].Name
	}
	return "format(" + strconv.Itoa(int(f)) + ")"
}

// Group is a choice of the filters that reorder headers: the headers of one
// format, or of both encodings of B3, which go by the name b3 there.
type Group struct {
	Name     string
	Headers  []string // whole names
	Prefixes []string
}

// Groups returns the choices of the filters.
func Groups() []Group {
	var groups []Group
	for _, f := range All() {
		i := f.Info()
		if f != B3Multi {
			groups = append(groups, Group{Name: i.Name})
		}
		g := &groups[len(groups)-1]
		if i.Header != "" {
			g.Headers = append(g.Headers, i.Header)
		} else {
			g.Prefixes = append(g.Prefixes, i.Prefix)
		}
	}
	return groups
}

// IsToken reports whether s is a token (RFC 9110, section 5.6.2), as header
// names are.
func IsToken(s string) bool {
	for i := range len(s) {
		if !isTokenChar(s[i]) {
			return false
		}
	}
	return s != ""
}

func isTokenChar(c byte) bool {
	switch c {
	case '!', '#', '$', '%', '&', '\'', '*', '+', '-', '.', '^', '_', '`', '|', '~':
		return true
	}
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}
