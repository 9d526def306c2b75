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

// Context is the trace context of one request.
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
	FormatXRay       = formats.XRay
	FormatGCP        = formats.GCP
)

// ParseFormat is the inverse of Format.String.
func ParseFormat(name string) (Format, error) {
	f, ok := formats.Parse(name)
	if !ok {
		return FormatNone, fmt.Errorf("unknown trace context format %q (known: %v)", name, formats.All())
	}
	return f, nil
}

// ParsePreference returns the format of one item of --context-format. Both
// encodings of B3 go by the name b3 there, as in the filters that reorder headers.
func ParsePreference(name string) (Format, error) {
	if !slices.Contains(PreferenceNames(), name) {
		return FormatNone, fmt.Errorf("%q is not a trace context format (known: %v)", name, PreferenceNames())
	}
	return ParseFormat(name)
}

// PreferenceNames returns the names that ParsePreference knows.
func PreferenceNames() (names []string) {
	for _, g := range formats.Groups() {
		names = append(names, g.Name)
	}
	return names
}

// ValidatePreferences checks that no format is listed twice.
func ValidatePreferences(preferred []Format) error {
	for i, f := range preferred {
		if slices.Contains(preferred[:i], f) {
			return fmt.Errorf("format %v is listed twice", f)
		}
	}
	return nil
}

// Ranks returns the place of each format, by its number, in an order of preference:
// 1 for the first one, 0 for formats that are not read. Without preferences all
// are 0, and all formats are read.
func Ranks(preferred []Format) []uint8 {
	ranks := make([]uint8, len(formats.All())+1)
	for i, f := range preferred {
		ranks[f] = uint8(i + 1)
		if f == FormatB3 {
			ranks[FormatB3Multi] = uint8(i + 1)
		}
	}
	return ranks
}

// FormatNames returns the names of all formats.
func FormatNames() (names []string) {
	for _, f := range formats.All() {
		names = append(names, f.String())
	}
	return names
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
	f, ok := formats.Parse(format)
	if !ok {
		return ContextHeader{}, fmt.Errorf("context header %q: format %q is not one of %v", s, format, SingleHeaderFormats())
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
