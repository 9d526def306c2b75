// SPDX-License-Identifier: Apache-2.0

package tracecontext

import "strings"

// parseB3 reads the single b3 header (openzipkin B3 propagation); its lone "0"
// is not a context and dealt with before.
func parseB3(value string) (Context, bool) {
	parts := strings.Split(value, "-")
	if len(parts) < 2 || len(parts) > 4 || !isB3TraceID(parts[0]) || !made(parts[1], hexDigits, 16, 16) {
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
	if len(parts) > 3 && !made(parts[3], hexDigits, 16, 16) {
		return Context{}, false
	}
	return c, true
}

func isB3TraceID(s string) bool {
	return made(s, hexDigits, 16, 16) || made(s, hexDigits, 32, 32)
}

func readB3TraceID(p *parts, value string) bool {
	return isB3TraceID(value) && p.setTrace(traceIDFromHex(value))
}

func readB3SpanID(p *parts, value string) bool {
	return made(value, hexDigits, 16, 16) && p.setSpan(spanIDFromHex(value))
}

func readB3Sampled(p *parts, value string) bool {
	switch value {
	case "0", "false":
		return p.decide(Denied)
	case "1", "true", "d":
		return p.decide(Accepted)
	}
	return false
}

// readB3Flags reads x-b3-flags, where 1 means debug: sampled for sure.
func readB3Flags(p *parts, value string) bool {
	switch value {
	case "0":
		return true
	case "1":
		return p.decide(Accepted)
	}
	return false
}
