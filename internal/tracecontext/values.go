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

// parseValue reads the value of a header with a whole context. The caller
// rejects IDs that are all zero, and sets the format.
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
	}
	return Context{}, false
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
	return Context{
		TraceID:  traceIDFromHex(trace),
		SpanID:   spanIDFromHex(span),
		Sampling: decision(lowBit(flags)),
	}, true
}

// parseB3 reads the single b3 header (openzipkin B3 propagation). The caller
// handles a lone "0", which is not a context.
func parseB3(value string) (Context, bool) {
	parts := strings.Split(value, "-")
	if len(parts) < 2 || len(parts) > 4 || !isB3TraceID(parts[0]) || !consistsOf(parts[1], hexDigits, 16, 16) {
		return Context{}, false
	}
	c := Context{TraceID: traceIDFromHex(parts[0]), SpanID: spanIDFromHex(parts[1])}
	if len(parts) > 2 {
		switch parts[2] {
		case "0":
			c.Sampling = Denied
		case "1", "d":
			c.Sampling = Accepted
		default:
			return Context{}, false
		}
	}
	if len(parts) > 3 && !consistsOf(parts[3], hexDigits, 16, 16) {
		return Context{}, false
	}
	return c, true
}

func isB3TraceID(s string) bool {
	return consistsOf(s, hexDigits, 16, 16) || consistsOf(s, hexDigits, 32, 32)
}

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
	return Context{
		TraceID:  traceIDFromHex(trace),
		SpanID:   spanIDFromHex(span),
		Sampling: decision(lowBit(flags)),
	}, true
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

// parsePartTraceID reads the header of a B3 or Datadog trace ID.
func parsePartTraceID(format Format, value string) (id TraceID, ok bool) {
	if format == FormatDatadog {
		low, ok := parseDecimal(value)
		copy(id[8:], low[:])
		return id, ok
	}
	if !isB3TraceID(value) {
		return id, false
	}
	return traceIDFromHex(value), true
}

// parsePartSpanID reads the header of a B3 or Datadog span ID.
func parsePartSpanID(format Format, value string) (id SpanID, ok bool) {
	if format == FormatDatadog {
		return parseDecimal(value)
	}
	if !consistsOf(value, hexDigits, 16, 16) {
		return id, false
	}
	return spanIDFromHex(value), true
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

// decisions are the values of the headers with a sampling decision. Deferred is a
// valid value without a decision.
var decisions = map[formats.Kind]map[string]Sampling{
	formats.Sampled:  {"0": Denied, "false": Denied, "1": Accepted, "true": Accepted, "d": Accepted},
	formats.B3Flags:  {"0": Deferred, "1": Accepted},
	formats.Priority: {"-1": Denied, "0": Denied, "1": Accepted, "2": Accepted},
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
