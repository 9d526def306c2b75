// SPDX-License-Identifier: Apache-2.0

// Package tracecontext reads trace contexts from HTTP/1 request heads in plain
// Go, by the definition in docs/trace-context.md. The BPF parser (bpf/) follows
// the same definition and shares only the table of package formats with it.
package tracecontext

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/layertrace/layertrace/internal/tracecontext/formats"
)

// TraceID is a 128-bit trace ID; a 64-bit ID is in the low half.
type TraceID [16]byte

// String returns 32 lower-case hex digits.
func (t TraceID) String() string { return hex.EncodeToString(t[:]) }

// IsZero reports whether the ID is all zero, which is invalid in every format.
func (t TraceID) IsZero() bool { return t == TraceID{} }

// SpanID is a 64-bit span ID.
type SpanID [8]byte

// String returns 16 lower-case hex digits.
func (s SpanID) String() string { return hex.EncodeToString(s[:]) }

// IsZero reports whether the ID is all zero, which is invalid in every format.
func (s SpanID) IsZero() bool { return s == SpanID{} }

// Sampling is the sampling decision of a context.
type Sampling uint8

// Sampling decisions. Deferred (B3 without a decision) counts as sampled: the
// receiver may decide to record.
const (
	Deferred Sampling = iota
	Denied
	Accepted
)

<<<<<<< HEAD
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
=======
// Context is the trace context of one request.
>>>>>>> wasm
type Context struct {
	TraceID  TraceID
	SpanID   SpanID
	Sampling Sampling
	Format   Format
}

// Format is an encoding of a trace context in headers.
type Format = formats.Format

// The formats of package formats.
const (
	FormatNone       = formats.None
	FormatW3C        = formats.W3C
	FormatB3         = formats.B3
	FormatB3Multi    = formats.B3Multi
	FormatJaeger     = formats.Jaeger
	FormatDatadog    = formats.Datadog
	FormatSkyWalking = formats.SkyWalking
)

// ParseFormat is the inverse of Format.String.
func ParseFormat(name string) (Format, error) {
	f, ok := formats.Parse(name)
	if !ok {
		return FormatNone, fmt.Errorf("unknown trace context format %q (known: %v)", name, formats.All())
	}
	return f, nil
}

// Limits of configured headers.
const (
	MaxContextHeaders   = formats.MaxContextHeaders
	MaxContextHeaderLen = formats.MaxContextHeaderLen
)

// ContextHeader is a configured request header whose value is a whole trace
// context in one of the single-header formats.
type ContextHeader struct {
	Name   string
	Format Format
}

// ParseContextHeader parses NAME=FORMAT, the value of --context-header, and
// validates it.
func ParseContextHeader(s string) (ContextHeader, error) {
	name, format, ok := strings.Cut(s, "=")
	if !ok {
		return ContextHeader{}, fmt.Errorf("context header %q: want NAME=FORMAT, such as x-trace=w3c", s)
	}
	f, err := ParseFormat(format)
	if err != nil {
		return ContextHeader{}, fmt.Errorf("context header %q: %w", s, err)
	}
	h := ContextHeader{Name: name, Format: f}
	return h, h.Validate()
}

// String is the inverse of ParseContextHeader.
func (h ContextHeader) String() string { return h.Name + "=" + h.Format.String() }

// Validate checks that the name is a token within the limits, and that the
// format uses a single header.
func (h ContextHeader) Validate() error {
	if len(h.Name) < 1 || len(h.Name) > MaxContextHeaderLen {
		return fmt.Errorf("context header %q: the name must have 1 to %d bytes", h, MaxContextHeaderLen)
	}
	if !formats.IsToken(h.Name) {
		return fmt.Errorf("context header %q: %q is not a header name (RFC 9110, section 5.1)", h, h.Name)
	}
	if single := SingleHeaderFormats(); !slices.Contains(single, h.Format) {
		return fmt.Errorf("context header %q: format %q is not one of %v", h, h.Format, single)
	}
	return nil
}

// SingleHeaderFormats returns the formats that a ContextHeader may have.
func SingleHeaderFormats() []Format {
	return slices.DeleteFunc(formats.All(), func(f Format) bool { return f.Info().Header == "" })
}

// ValidateContextHeaders validates each header and their number.
func ValidateContextHeaders(headers []ContextHeader) error {
	if len(headers) > MaxContextHeaders {
		return fmt.Errorf("%d context headers: at most %d are possible", len(headers), MaxContextHeaders)
	}
	for _, h := range headers {
		if err := h.Validate(); err != nil {
			return err
		}
	}
	return nil
}
