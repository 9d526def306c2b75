// SPDX-License-Identifier: Apache-2.0

package tracecontext

import "strings"

// parseJaeger reads an uber-trace-id value (Jaeger client libraries,
// "Propagation Format"); some clients escape the colons.
func parseJaeger(value string) (Context, bool) {
	value = strings.NewReplacer("%3A", ":", "%3a", ":").Replace(value)
	parts := strings.Split(value, ":")
	if len(parts) != 4 {
		return Context{}, false
	}
	trace, span, parent, flags := parts[0], parts[1], parts[2], parts[3]
	if !made(trace, hexDigits, 1, 32) || !made(span, hexDigits, 1, 16) ||
		!made(parent, hexDigits, 0, 16) || !made(flags, hexDigits, 1, 2) {
		return Context{}, false
	}
	return Context{
		TraceID:  traceIDFromHex(trace),
		SpanID:   spanIDFromHex(span),
		Sampling: decision(lowBit(flags)),
	}, true
}
