// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

// format is a way to write a trace context into headers, as docs/trace-context.md
// has them.
type format struct {
	name            string
	exact, prefixes []string
}

// formats are all that there are. tracestate is not among the names: it only
// ever follows a traceparent.
var formats = []format{
	{name: "w3c", exact: []string{traceparent}},
	{name: "b3", exact: []string{"b3"}, prefixes: []string{"x-b3-"}},
	{name: "jaeger", exact: []string{"uber-trace-id"}},
	{name: "datadog", prefixes: []string{"x-datadog-"}},
	{name: "skywalking", exact: []string{"sw8"}},
}

const (
	traceparent = "traceparent"
	tracestate  = "tracestate"
)

// Names tells which headers carry a trace context. Make one with NewNames.
type Names struct {
	exact, prefixes []string  // in lower case; few, so they are compared one by one
	begins          [256]bool // the bytes that one of them begins with
}

// FormatNames returns the names of all formats.
func FormatNames() []string {
	var list []string
	for _, f := range formats {
		list = append(list, f.name)
	}
	return list
}

// NewNames returns the names of the formats (nil: of all) together with extra
// ones; both match without regard to the case of ASCII letters. It refuses what
// cannot be a field name (RFC 9110, section 5.1), and host, which always stands
// in front of the trace context.
func NewNames(chosen, extra []string) (*Names, error) {
	if chosen == nil {
		chosen = FormatNames()
	}
	n := &Names{}
	for _, name := range chosen {
		i := slices.IndexFunc(formats, func(f format) bool { return f.name == name })
		if i < 0 {
			return nil, errors.New(strconv.Quote(name) + " is not a format (known: " + strings.Join(FormatNames(), ", ") + ")")
		}
		n.exact = append(n.exact, formats[i].exact...)
		n.prefixes = append(n.prefixes, formats[i].prefixes...)
	}
	for _, name := range extra {
		if !isToken(name) {
			return nil, errors.New(strconv.Quote(name) + " is not a header name (RFC 9110: letters, digits and !#$%&'*+-.^_`|~)")
		}
		if strings.EqualFold(name, "host") {
			return nil, errors.New(strconv.Quote(name) + " cannot be moved: it always stands in front of the trace context")
		}
		n.exact = append(n.exact, strings.ToLower(name))
	}
	for _, name := range slices.Concat(n.exact, n.prefixes) {
		n.begins[name[0]] = true
	}
	return n, nil
}

// Has reports whether a header of this name carries a trace context by itself.
func (n *Names) Has(name string) bool { return n.has([]byte(name)) }

func (n *Names) has(name []byte) bool {
	if len(name) == 0 || !n.begins[lower(name[0])] {
		return false
	}
	for _, e := range n.exact {
		if equalFold(name, e) {
			return true
		}
	}
	for _, p := range n.prefixes {
		if len(name) > len(p) && equalFold(name[:len(p)], p) {
			return true
		}
	}
	return false
}

// equalFold reports whether name is want, which is in lower case. Names that
// differ mostly do so at the end (x-envoy-..., x-forwarded-...) or in length.
func equalFold(name []byte, want string) bool {
	if len(name) != len(want) {
		return false
	}
	for i := len(name) - 1; i >= 0; i-- {
		if lower(name[i]) != want[i] {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
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
