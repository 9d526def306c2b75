// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/layertrace/layertrace/internal/tracecontext/formats"
)

const (
	traceparent = formats.TraceParent
	tracestate  = formats.TraceState // not among the names: it follows a traceparent
)

// Names are the names of the headers that carry a trace context. Make one with
// NewNames.
type Names struct {
	exact, prefixes []string  // in lower case; few, so they are compared one by one
	begins          [256]bool // the bytes that one of them begins with
}

// NewNames returns the headers of the formats (nil: of all) and extra ones. They
// match in any case of ASCII letters. It rejects invalid field names (RFC 9110,
// section 5.1), and host, which always precedes the trace context.
func NewNames(chosen, extra []string) (*Names, error) {
	n := &Names{}
	groups := formats.Groups()
	for _, g := range groups {
		if chosen == nil || slices.Contains(chosen, g.Name) {
			n.exact = append(n.exact, g.Headers...)
			n.prefixes = append(n.prefixes, g.Prefixes...)
		}
	}
	for _, name := range chosen {
		if !slices.ContainsFunc(groups, func(g formats.Group) bool { return g.Name == name }) {
			return nil, errors.New(strconv.Quote(name) + " is not a format (known: " + known(groups) + ")")
		}
	}
	for _, name := range extra {
		if !formats.IsToken(name) {
			return nil, errors.New(strconv.Quote(name) + " is not a header name (RFC 9110: letters, digits and !#$%&'*+-.^_`|~)")
		}
		if strings.EqualFold(name, "host") {
			return nil, errors.New(strconv.Quote(name) + " cannot be moved: it always precedes the trace context")
		}
		n.exact = append(n.exact, strings.ToLower(name))
	}
	for _, name := range slices.Concat(n.exact, n.prefixes) {
		n.begins[name[0]] = true
	}
	return n, nil
}

// known returns the names of the groups as text.
func known(groups []formats.Group) string {
	var names []string
	for _, g := range groups {
		names = append(names, g.Name)
	}
	return strings.Join(names, ", ")
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

// equalFold reports whether name is want, which is in lower case. It compares
// from the end: different names mostly differ there (x-envoy-..., x-forwarded-...)
// or in length.
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
