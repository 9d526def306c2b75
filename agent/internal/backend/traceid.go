// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"fmt"
	"strings"

	"go.opentelemetry.io/otel/trace"
)

// ParseTraceID reads a trace ID as people copy it: 32 hex digits, or 16 of a
// short one, in upper or lower case.
func ParseTraceID(text string) (trace.TraceID, error) {
	digits := strings.ToLower(strings.TrimSpace(text))
	if len(digits) != 32 && len(digits) != 16 {
		return trace.TraceID{}, fmt.Errorf("%q is no trace ID: it has 32 hex digits, or 16", text)
	}
	id, err := trace.TraceIDFromHex(pad(digits, 32))
	if err != nil {
		return id, fmt.Errorf("%q is no trace ID: it has 32 hex digits, not all of them 0", text)
	}
	return id, nil
}

// pad puts zeros in front of a short number.
func pad(digits string, length int) string {
	if len(digits) >= length {
		return digits
	}
	return strings.Repeat("0", length-len(digits)) + digits
}
