// SPDX-License-Identifier: Apache-2.0

package tracecontext

import (
	"encoding/hex"
	"strings"
)

const (
	decimalDigits  = "0123456789"
	lowerHexDigits = "0123456789abcdef"
	hexDigits      = "0123456789abcdefABCDEF"
)

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

// made reports whether s has shortest to longest bytes, all from the alphabet.
func made(s, alphabet string, shortest, longest int) bool {
	return len(s) >= shortest && len(s) <= longest && strings.Trim(s, alphabet) == ""
}

// fill writes hex digits right-aligned into dst. The digits have been checked
// and fit.
func fill(dst []byte, digits string) {
	padded := strings.Repeat("0", 2*len(dst)-len(digits)) + digits
	if _, err := hex.Decode(dst, []byte(padded)); err != nil {
		panic("tracecontext: unchecked hex digits: " + err.Error())
	}
}

func traceIDFromHex(digits string) (id TraceID) {
	fill(id[:], digits)
	return id
}

func spanIDFromHex(digits string) (id SpanID) {
	fill(id[:], digits)
	return id
}
