// SPDX-License-Identifier: Apache-2.0

package tracecontext

import "strings"

// parseW3C reads a traceparent value (W3C Trace Context, section 3.2).
func parseW3C(value string) (Context, bool) {
	const length = len("00-") + 32 + len("-") + 16 + len("-00")
	if len(value) > length {
		// Versions to come may go on behind a further "-".
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
	if !made(version, lowerHexDigits, 2, 2) || version == "ff" ||
		!made(trace, lowerHexDigits, 32, 32) ||
		!made(span, lowerHexDigits, 16, 16) ||
		!made(flags, lowerHexDigits, 2, 2) {
		return Context{}, false
	}
	return Context{
		TraceID:  traceIDFromHex(trace),
		SpanID:   spanIDFromHex(span),
		Sampling: decision(lowBit(flags)),
	}, true
}

// lowBit returns bit 0 of a number in hex digits.
func lowBit(digits string) bool {
	return strings.ContainsAny(digits[len(digits)-1:], "13579bBdDfF")
}

func decision(sampled bool) Sampling {
	if sampled {
		return Accepted
	}
	return Denied
}
