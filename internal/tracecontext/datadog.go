// SPDX-License-Identifier: Apache-2.0

package tracecontext

import (
	"encoding/binary"
	"strconv"
)

// parseDecimal reads a Datadog ID: 1 to 20 decimal digits below 2^64.
func parseDecimal(value string) (id SpanID, ok bool) {
	if !made(value, decimalDigits, 1, 20) {
		return id, false
	}
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return id, false
	}
	binary.BigEndian.PutUint64(id[:], n)
	return id, true
}

func readDatadogTraceID(p *parts, value string) bool {
	low, ok := parseDecimal(value)
	if !ok {
		return false
	}
	var id TraceID
	copy(id[8:], low[:])
	return p.setTrace(id)
}

func readDatadogParentID(p *parts, value string) bool {
	id, ok := parseDecimal(value)
	return ok && p.setSpan(id)
}

func readDatadogPriority(p *parts, value string) bool {
	switch value {
	case "-1", "0":
		return p.decide(Denied)
	case "1", "2":
		return p.decide(Accepted)
	}
	return false
}
