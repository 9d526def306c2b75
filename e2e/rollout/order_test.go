// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"strings"
	"testing"

	"github.com/layertrace/layertrace/e2e/reorder/upstream"
)

func TestOrderOfAHead(t *testing.T) {
	for names, want := range map[string]order{
		"host traceparent tracestate x-filler accept": front,
		"Host Traceparent x-filler":                   front,
		"host x-filler traceparent tracestate":        last,
		"host x-filler traceparent":                   last,
		"host traceparent x-filler tracestate":        scattered,
		"host accept traceparent x-filler":            scattered,
		"x-filler traceparent accept":                 scattered,
		"host x-filler":                               missing,
	} {
		var head upstream.Head
		for _, name := range strings.Fields(names) {
			head.Fields = append(head.Fields, upstream.Field{Name: name})
		}
		if got := orderOf(head); got != want {
			t.Errorf("%s: %s, want %s", names, got, want)
		}
	}
}
