// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/layertrace/layertrace/internal/tracecontext"
)

// listValue is a flag that holds a list: comma-separated and repeatable. The
// first Set replaces the default, later ones append.
type listValue[T any] struct {
	dst   *[]T
	parse func(string) (T, error)
	kind  string
	text  []string
	set   bool
}

func newList[T any](dst *[]T, kind string, parse func(string) (T, error), defaults ...string) *listValue[T] {
	v := &listValue[T]{dst: dst, parse: parse, kind: kind}
	if err := v.Replace(defaults); err != nil {
		panic(fmt.Sprintf("default of a flag: %v", err)) // a programming error, seen by every test
	}
	return v
}

// Set reads one comma-separated list.
func (v *listValue[T]) Set(s string) error {
	items := splitList(s)
	if v.set {
		items = append(append([]string{}, v.text...), items...)
	}
	v.set = true
	return v.Replace(items)
}

// Replace sets the whole list.
func (v *listValue[T]) Replace(items []string) error {
	parsed := make([]T, 0, len(items))
	for _, item := range items {
		p, err := v.parse(item)
		if err != nil {
			return err
		}
		parsed = append(parsed, p)
	}
	*v.dst, v.text = parsed, items
	return nil
}

// Append adds one item.
func (v *listValue[T]) Append(item string) error {
	return v.Replace(append(append([]string{}, v.text...), item))
}

// GetSlice returns the items as text.
func (v *listValue[T]) GetSlice() []string { return v.text }

// String returns the list as it would be written behind the flag.
func (v *listValue[T]) String() string { return strings.Join(v.text, ",") }

// Type names the items in help texts.
func (v *listValue[T]) Type() string { return v.kind }

func splitList(s string) []string {
	var items []string
	for _, item := range strings.Split(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

func parseText(s string) (string, error) { return s, nil }

func parsePort(s string) (uint16, error) {
	p, err := strconv.ParseUint(s, 10, 16)
	if err != nil || p == 0 {
		return 0, fmt.Errorf("%q is no TCP port (1 to 65535)", s)
	}
	return uint16(p), nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%q is no address or prefix (such as 10.244.0.0/16)", s)
	}
	return p.Masked(), nil
}

// configurable are the formats of one header, which a configured name can have.
var configurable = []tracecontext.Format{
	tracecontext.FormatW3C, tracecontext.FormatB3, tracecontext.FormatJaeger, tracecontext.FormatSW8,
}

func parseContextHeader(s string) (ContextHeader, error) {
	name, format, ok := strings.Cut(s, "=")
	if !ok {
		return ContextHeader{}, fmt.Errorf("%q is not NAME=FORMAT (such as x-trace=w3c)", s)
	}
	if len(name) == 0 || len(name) > 31 || !isToken(name) {
		return ContextHeader{}, fmt.Errorf("%q is no header name of 1 to 31 bytes", name)
	}
	for _, f := range configurable {
		if f.String() == format {
			return ContextHeader{Name: name, Format: f}, nil
		}
	}
	return ContextHeader{}, fmt.Errorf("format %q of header %s is not one of %v", format, name, configurable)
}

// isToken reports whether s is a token (RFC 9110, 5.6.2), as header names are.
func isToken(s string) bool {
	for _, c := range []byte(s) {
		alnum := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !alnum && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return true
}

func parseKeyValue(s string) (KeyValue, error) {
	k, v, ok := strings.Cut(s, "=")
	if !ok || k == "" {
		return KeyValue{}, fmt.Errorf("a header is written KEY=VALUE")
	}
	return KeyValue{Key: strings.TrimSpace(k), Value: strings.TrimSpace(v)}, nil
}
