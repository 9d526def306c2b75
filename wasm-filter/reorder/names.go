// SPDX-License-Identifier: Apache-2.0

// Package reorder holds the one idea of the filter: which headers carry a trace
// context, and where they should stand. It knows nothing of proxies, so that it
// can be tested natively.
package reorder

import (
	"fmt"
	"slices"
	"strings"
)

// exact and prefixes are the names of docs/trace-context.md. tracestate is not
// among them: it only ever follows a traceparent.
var (
	exact    = []string{traceparent, "b3", "uber-trace-id", "sw8"}
	prefixes = []string{"x-b3-", "x-datadog-"}
)

const (
	traceparent = "traceparent"
	tracestate  = "tracestate"
)

// Names tells which headers carry a trace context. Make one with NewNames.
type Names struct {
	exact []string // few: looking through them costs less than hashing each name
}

// NewNames returns the names of docs/trace-context.md together with extra ones,
// which match without regard to the case of ASCII letters. It refuses what
// cannot be a field name (RFC 9110, section 5.1), and host, which always stands
// in front of the trace context.
func NewNames(extra ...string) (*Names, error) {
	n := &Names{exact: slices.Clone(exact)}
	for _, name := range extra {
		if !isToken(name) {
			return nil, fmt.Errorf("%q is not a header name (RFC 9110: letters, digits and !#$%%&'*+-.^_`|~)", name)
		}
		if strings.EqualFold(name, "host") {
			return nil, fmt.Errorf("%q cannot be moved: it always stands in front of the trace context", name)
		}
		n.exact = append(n.exact, name)
	}
	return n, nil
}

// Has reports whether a header of this name carries a trace context by itself.
func (n *Names) Has(name string) bool {
	for _, e := range n.exact {
		if strings.EqualFold(name, e) {
			return true
		}
	}
	for _, p := range prefixes {
		if len(name) > len(p) && strings.EqualFold(name[:len(p)], p) {
			return true
		}
	}
	return false
}

func isToken(s string) bool {
	for _, c := range []byte(s) {
		alphanumeric := '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
		if !alphanumeric && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}
