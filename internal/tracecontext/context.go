// SPDX-License-Identifier: Apache-2.0

// Package tracecontext defines the trace contexts that layertrace knows: names
// of the headers, formats of their values, and a parser in plain Go. The BPF
// parser (bpf/) follows the same definition, docs/trace-context.md, and shares
// no code with this one.
package tracecontext

import (
	"encoding/hex"
	"fmt"
)

// TraceID is a 128-bit trace ID; 64-bit IDs stand in the low half.
type TraceID [16]byte

// String returns 32 lower-case hex digits.
func (t TraceID) String() string { return hex.EncodeToString(t[:]) }

// IsZero reports whether the ID is all zero, which no format allows.
func (t TraceID) IsZero() bool { return t == TraceID{} }

// SpanID is a 64-bit span ID.
type SpanID [8]byte

// String returns 16 lower-case hex digits.
func (s SpanID) String() string { return hex.EncodeToString(s[:]) }

// IsZero reports whether the ID is all zero, which no format allows.
func (s SpanID) IsZero() bool { return s == SpanID{} }

// Sampling is the sampling decision that a context carries.
type Sampling uint8

// Sampling decisions. Deferred (B3 without a decision) counts as sampled, as
// a receiver that records is allowed to.
const (
	Deferred Sampling = iota
	Denied
	Accepted
)

// Format is the way in which a context is written.
type Format uint8

// Formats, with the numbers of the BPF side (bpf/include/trace_context.h).
const (
	FormatNone    Format = iota
	FormatW3C            // traceparent (W3C Trace Context)
	FormatB3             // b3 (openzipkin B3 propagation, single header)
	FormatB3Multi        // x-b3-traceid, x-b3-spanid, x-b3-sampled, x-b3-flags
	FormatJaeger         // uber-trace-id (Jaeger client libraries)
	FormatDatadog        // x-datadog-trace-id, -parent-id, -sampling-priority
	FormatSW8            // sw8 (SkyWalking cross-process propagation v3)
)

var formatNames = [...]string{"none", "w3c", "b3", "b3multi", "jaeger", "datadog", "sw8"}

// String returns the name as in configuration and JSON output.
func (f Format) String() string {
	if int(f) < len(formatNames) {
		return formatNames[f]
	}
	return fmt.Sprintf("format(%d)", uint8(f))
}

// ParseFormat is the inverse of String.
func ParseFormat(name string) (Format, error) {
	for i, n := range formatNames {
		if n == name {
			return Format(i), nil
		}
	}
	return FormatNone, fmt.Errorf("unknown trace context format %q (known: %v)", name, formatNames[1:])
}

// FormatNames returns the names of all formats.
func FormatNames() []string { return formatNames[1:] }

// Context is a trace context as read from one request head.
type Context struct {
	TraceID  TraceID
	SpanID   SpanID
	Sampling Sampling
	Format   Format
}
