// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"strings"
	"testing"

	"github.com/layertrace/layertrace/e2e/reorder"
)

func TestOrderOfAHead(t *testing.T) {
	for names, want := range map[string]order{
		"host traceparent tracestate x-filler accept": leading,
		"Host Traceparent x-filler":                   leading,
		"host x-filler traceparent tracestate":        last,
		"host x-filler traceparent":                   last,
		"host traceparent x-filler tracestate":        scattered,
		"host accept traceparent x-filler":            scattered,
		"x-filler traceparent accept":                 scattered,
		"host x-filler":                               missing,
	} {
		var head reorder.Head
		for _, name := range strings.Fields(names) {
			head.Fields = append(head.Fields, reorder.Field{Name: name})
		}
		if got := orderOf(head); got != want {
			t.Errorf("%s: %s, want %s", names, got, want)
		}
	}
}

// Envoy removes a counter with its listener, and begins anew.
func TestRejectionsSince(t *testing.T) {
	for name, test := range map[string]struct {
		then []rejections
		want []bool
	}{
		"one more":         {[]rejections{{"a": 1}, {"a": 2}}, []bool{false, true}},
		"another":          {[]rejections{{"a": 1}, {"b": 1}}, []bool{false, true}},
		"gone":             {[]rejections{{"a": 1}, {}, {}}, []bool{false, false, false}},
		"gone, then again": {[]rejections{{"a": 1}, {}, {"a": 1}}, []bool{false, false, true}},
	} {
		before := rejections{"a": 1}
		for i, now := range test.then {
			if got := now.since(before); got != test.want[i] {
				t.Errorf("%s: poll %d: %v", name, i, got)
			}
		}
	}
}
