// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
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

func parseKeyValue(s string) (KeyValue, error) {
	k, v, ok := strings.Cut(s, "=")
	if !ok || k == "" {
		return KeyValue{}, fmt.Errorf("a header is written KEY=VALUE")
	}
	return KeyValue{Key: strings.TrimSpace(k), Value: strings.TrimSpace(v)}, nil
}
