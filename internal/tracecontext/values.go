// SPDX-License-Identifier: Apache-2.0

package tracecontext

import (
	"encoding/binary"
	"encoding/hex"
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/layertrace/layertrace/internal/tracecontext/formats"
)

// parseValue reads the value of a header with a whole context. The caller sets
// the format. Of a valid value that is no context both IDs are zero.
func parseValue(format Format, value string) (Context, bool) {
	switch format {
	case FormatW3C:
		return parseW3C(value)
	case FormatB3:
		return parseB3(value)
	case FormatJaeger:
		return parseJaeger(value)
	case FormatSkyWalking:
		return parseSkyWalking(value)
	case FormatXRay:
		return parseXRay(value)
	case FormatGCP:
		return parseGCP(value)
	}
	return Context{}, false
}

// FromValues returns the trace context of a request whose header values are known one by
// one, as in a proxy's log: in W3C's format, B3's, or B3's with a header for each part, the
// first sampled one in the order of preferred, else the first. value returns the value of a
// header, "" if it is absent.
func FromValues(value func(header string) string, preferred []Format) (first Context, ok bool) {
	if len(preferred) == 0 {
		preferred = []Format{FormatW3C, FormatB3}
	}
	for _, format := range preferred {
		for _, c := range [...]Context{contextOf(format, value), contextOf(multiOf(format), value)} {
			switch {
			case !hasIDs(c):
			case c.Sampling != Denied:
				return c, true
			case !ok:
				first, ok = c, true
			}
		}
	}
	return first, ok
}

// multiOf returns the encoding of a format with a header for each part.
func multiOf(format Format) Format {
	if format == FormatB3 {
		return FormatB3Multi
	}
	return FormatNone
}

func contextOf(format Format, value func(header string) string) (c Context) {
	ok := false
	switch format {
	case FormatW3C:
		c, ok = parseW3C(value("traceparent"))
	case FormatB3:
		c, ok = parseB3(value("b3"))
	case FormatB3Multi:
		trace, okTrace := parsePartTraceID(format, value("x-b3-traceid"))
		span, okSpan := parsePartSpanID(format, value("x-b3-spanid"))
		c, ok = Context{TraceID: trace, SpanID: span}, okTrace && okSpan
		if sampled := value("x-b3-sampled"); sampled != "" {
			decided, known := parseDecision(formats.Sampled, sampled)
			c.Sampling, ok = decided.sampling, ok && known
		}
	}
	if !ok {
		return Context{}
	}
	c.Format = format
	return c
}

// parseW3C reads a traceparent value (W3C Trace Context, section 3.2).
func parseW3C(value string) (Context, bool) {
	const length = formats.TraceParentLen
	if len(value) > length {
		// Future versions may continue after a further "-".
		if strings.HasPrefix(value, "00") || value[length] != '-' {
			return Context{}, false
		}
		value = value[:length]
	}
	parts := strings.Split(value, "-")
	if len(parts) != 4 {
		return Context{}, false
	}
	version, trace, span, flags := parts[0], parts[1], parts[2], parts[3]
	if !consistsOf(version, lowerHexDigits, 2, 2) || version == "ff" ||
		!consistsOf(trace, lowerHexDigits, 32, 32) ||
		!consistsOf(span, lowerHexDigits, 16, 16) ||
		!consistsOf(flags, lowerHexDigits, 2, 2) {
		return Context{}, false
	}
	c := Context{
		TraceID:  traceIDFromHex(trace),
		SpanID:   spanIDFromHex(span),
		Sampling: decision(lowBit(flags)),
	}
	return c, hasIDs(c)
}

// parseB3 reads the single b3 header (openzipkin B3 propagation; a parent without a
// state: Brave's B3SingleFormat). The caller handles a lone "0".
func parseB3(value string) (Context, bool) {
	if value == "1" || value == "d" {
		return Context{}, true
	}
	parts := strings.Split(value, "-")
	if len(parts) < 2 || len(parts) > 4 || !isB3TraceID(parts[0]) || !consistsOf(parts[1], hexDigits, 16, 16) {
		return Context{}, false
	}
	c := Context{TraceID: traceIDFromHex(parts[0]), SpanID: spanIDFromHex(parts[1])}
	rest := parts[2:]
	if len(rest) > 0 && len(rest[0]) < 16 {
		switch rest[0] {
		case "0":
			c.Sampling = Denied
		case "1", "d":
			c.Sampling = Accepted
		default:
			return Context{}, false
		}
		rest = rest[1:]
	}
	if len(rest) > 1 || len(rest) == 1 && !consistsOf(rest[0], hexDigits, 16, 16) {
		return Context{}, false
	}
	return c, hasIDs(c)
}

func isB3TraceID(s string) bool {
	return consistsOf(s, hexDigits, 16, 16) || consistsOf(s, hexDigits, 32, 32)
}

func hasIDs(c Context) bool { return !c.TraceID.IsZero() && !c.SpanID.IsZero() }

// parseJaeger reads an uber-trace-id value (Jaeger client libraries,
// "Propagation Format"). Some clients escape the colons.
func parseJaeger(value string) (Context, bool) {
	value = strings.NewReplacer("%3A", ":", "%3a", ":").Replace(value)
	parts := strings.Split(value, ":")
	if len(parts) != 4 {
		return Context{}, false
	}
	trace, span, parent, flags := parts[0], parts[1], parts[2], parts[3]
	if !consistsOf(trace, hexDigits, 1, 32) || !consistsOf(span, hexDigits, 1, 16) ||
		!consistsOf(parent, hexDigits, 0, 16) || !consistsOf(flags, hexDigits, 1, 2) {
		return Context{}, false
	}
	c := Context{
		TraceID:  traceIDFromHex(trace),
		SpanID:   spanIDFromHex(span),
		Sampling: decision(lowBit(flags)),
	}
	return c, hasIDs(c)
}

// parseSkyWalking reads an sw8 value (SkyWalking Cross Process Propagation
// Headers Protocol, version 3). Its IDs are free text, so their hashes are used.
func parseSkyWalking(value string) (Context, bool) {
	parts := strings.SplitN(value, "-", 5)
	if len(parts) < 4 {
		return Context{}, false
	}
	sampled, trace, segment, index := parts[0], parts[1], parts[2], parts[3]
	if !consistsOf(sampled, "01", 1, 1) ||
		!consistsOf(trace, base64Alphabet, 1, formats.MaxSkyWalkingID) ||
		!consistsOf(segment, base64Alphabet, 1, formats.MaxSkyWalkingID) ||
		!consistsOf(index, decimalDigits, 1, formats.MaxSkyWalkingSpanLen) {
		return Context{}, false
	}
	c := Context{Sampling: decision(sampled == "1")}
	copy(c.TraceID[:8], fnv1a(trace))
	copy(c.TraceID[8:], fnv1a("\x00"+trace))
	copy(c.SpanID[:], fnv1a(segment+"-"+index))
	if c.TraceID.IsZero() {
		c.TraceID[15] = 1
	}
	if c.SpanID.IsZero() {
		c.SpanID[7] = 1
	}
	return c, true
}

// fnv1a returns the 64-bit FNV-1a hash, big-endian.
func fnv1a(s string) []byte {
	h := fnv.New64a()
	h.Write([]byte(s)) // never fails: hash.Hash
	return h.Sum(nil)
}

// parseXRay reads an x-amzn-trace-id value (AWS X-Ray, "Tracing header").
func parseXRay(value string) (Context, bool) {
	list := strings.Split(value, ";")
	if len(list) > formats.MaxXRayFields {
		return Context{}, false
	}
	fields := map[string]string{}
	for _, field := range list {
		name, text, ok := strings.Cut(strings.TrimPrefix(field, " "), "=")
		if _, again := fields[name]; ok && !again {
			fields[name] = text
		}
	}
	var c Context
	if root, ok := fields["Root"]; ok {
		parts := strings.Split(root, "-")
		if len(parts) != 3 || parts[0] != "1" || !consistsOf(parts[1], hexDigits, 8, 8) || !consistsOf(parts[2], hexDigits, 24, 24) {
			return Context{}, false
		}
		if c.TraceID = traceIDFromHex(parts[1] + parts[2]); c.TraceID.IsZero() {
			return Context{}, false
		}
	}
	if parent, ok := fields["Parent"]; ok {
		if !consistsOf(parent, hexDigits, 16, 16) {
			return Context{}, false
		}
		if c.SpanID = spanIDFromHex(parent); c.SpanID.IsZero() {
			return Context{}, false
		}
	}
	switch fields["Sampled"] {
	case "", "?":
	case "0":
		c.Sampling = Denied
	case "1":
		c.Sampling = Accepted
	default:
		return Context{}, false
	}
	if !hasIDs(c) {
		return Context{}, true
	}
	return c, true
}

// parseGCP reads an x-cloud-trace-context value (Google Cloud Trace, "Legacy HTTP
// header").
func parseGCP(value string) (Context, bool) {
	value, options, hasOptions := strings.Cut(value, ";")
	trace, span, hasSpan := strings.Cut(value, "/")
	c := Context{}
	if hasOptions {
		digit, ok := strings.CutPrefix(options, "o=")
		if !ok || !consistsOf(digit, decimalDigits, 1, 1) {
			return Context{}, false
		}
		c.Sampling = decision(lowBit(digit))
	}
	if !consistsOf(trace, hexDigits, 32, 32) {
		return Context{}, false
	}
	if c.TraceID = traceIDFromHex(trace); c.TraceID.IsZero() {
		return Context{}, false
	}
	if hasSpan {
		var ok bool
		if c.SpanID, ok = parseDecimal(span); !ok {
			return Context{}, false
		}
	}
	if c.SpanID.IsZero() {
		return Context{}, true
	}
	return c, true
}

// parsePartTraceID reads the header of a B3 or Datadog trace ID.
func parsePartTraceID(format Format, value string) (id TraceID, ok bool) {
	if format == FormatDatadog {
		low, ok := parseDecimal(value)
		copy(id[8:], low[:])
		return id, ok && !id.IsZero()
	}
	if !consistsOf(value, hexDigits, 1, 32) {
		return id, false
	}
	id = traceIDFromHex(value)
	return id, !id.IsZero()
}

// parsePartSpanID reads the header of a B3 or Datadog span ID. Datadog's may be 0.
func parsePartSpanID(format Format, value string) (id SpanID, ok bool) {
	if format == FormatDatadog {
		return parseDecimal(value)
	}
	if !consistsOf(value, hexDigits, 1, 16) {
		return id, false
	}
	id = spanIDFromHex(value)
	return id, !id.IsZero()
}

// parseDatadogTags returns the high half of the trace ID, if the tags have it
// (dd-trace-go, "_dd.p.tid").
func parseDatadogTags(value string) (high []byte, ok bool) {
	list := strings.Split(value, ",")
	for _, tag := range list[:min(len(list), formats.MaxDatadogTags)] {
		if digits, found := strings.CutPrefix(tag, "_dd.p.tid="); found {
			if !consistsOf(digits, hexDigits, 16, 16) {
				return nil, false
			}
			id := spanIDFromHex(digits)
			return id[:], true
		}
	}
	return nil, true
}

// parseDecimal reads a Datadog ID: 1 to 20 decimal digits below 2^64.
func parseDecimal(value string) (id SpanID, ok bool) {
	if !consistsOf(value, decimalDigits, 1, 20) {
		return id, false
	}
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return id, false
	}
	binary.BigEndian.PutUint64(id[:], n)
	return id, true
}

// choice is what a header with a sampling decision says. It is empty for a valid
// value without a decision.
type choice struct {
	sampling Sampling
	debug    bool // wins over another decision
}

// parseDecision reads a header of one of the kinds with a sampling decision.
func parseDecision(kind formats.Kind, value string) (choice, bool) {
	switch kind {
	case formats.Sampled:
		if value == "d" {
			return choice{Accepted, true}, true
		}
		switch string(lowerASCII([]byte(value))) {
		case "0", "false":
			return choice{sampling: Denied}, true
		case "1", "true":
			return choice{sampling: Accepted}, true
		}
	case formats.B3Flags:
		switch value {
		case "0":
			return choice{}, true
		case "1":
			return choice{Accepted, true}, true
		}
	case formats.Priority:
		switch value {
		case "-1", "0":
			return choice{sampling: Denied}, true
		case "1", "2":
			return choice{sampling: Accepted}, true
		}
	}
	return choice{}, false
}

func decision(sampled bool) Sampling {
	if sampled {
		return Accepted
	}
	return Denied
}

// lowBit returns bit 0 of a number in hex digits.
func lowBit(digits string) bool {
	return strings.ContainsAny(digits[len(digits)-1:], "13579bBdDfF")
}

const (
	decimalDigits  = "0123456789"
	lowerHexDigits = "0123456789abcdef"
	hexDigits      = "0123456789abcdefABCDEF"
	base64Alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
)

// consistsOf reports whether s has shortest to longest bytes, all from the
// alphabet.
func consistsOf(s, alphabet string, shortest, longest int) bool {
	return len(s) >= shortest && len(s) <= longest && strings.Trim(s, alphabet) == ""
}

func traceIDFromHex(digits string) (id TraceID) {
	fill(id[:], digits)
	return id
}

func spanIDFromHex(digits string) (id SpanID) {
	fill(id[:], digits)
	return id
}

// fill writes valid hex digits that fit right-aligned into dst.
func fill(dst []byte, digits string) {
	padded := strings.Repeat("0", 2*len(dst)-len(digits)) + digits
	if _, err := hex.Decode(dst, []byte(padded)); err != nil {
		panic("tracecontext: unchecked hex digits: " + err.Error())
	}
}
