// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"bytes"
	"slices"
	"testing"
)

// FuzzFront gives any bytes to what runs inside the proxy: nothing of it may
// panic, and a result has the size and the bytes of what came in.
func FuzzFront(f *testing.F) {
	for _, list := range []string{
		"", ":path=/ x=1 b3=0", "x=1 traceparent=p tracestate= tracestate=s host=a",
		":authority=a x-request-id=1 x-envoy-decorator-operation=o",
	} {
		f.Add(encode(headers(list)))
	}
	f.Add([]byte{255, 255, 255, 255, 0, 0, 0, 0})
	names, err := NewNames(nil, []string{"x-own"})
	if err != nil {
		f.Fatal(err)
	}
	lists := NewLists(names)
	f.Fuzz(func(t *testing.T, pairs []byte) {
		before := slices.Clone(pairs)
		out, outcome := lists.Front(pairs)
		if !bytes.Equal(pairs, before) {
			t.Fatalf("Front wrote to its argument %q", before)
		}
		switch outcome {
		case Moved:
			if !slices.Equal(sorted(pairs), sorted(out)) {
				t.Fatalf("Front(%q) = %q, which has other bytes", pairs, out)
			}
			if _, again := lists.Front(out); again != InFront {
				t.Fatalf("Front is not idempotent: %q, then %v", out, again)
			}
		case Absent:
			with := slices.Clone(lists.Insert(pairs, [][2]string{{"b3", "0"}}))
			if _, outcome := lists.Front(with); outcome != InFront && outcome != Moved {
				t.Fatalf("Insert into %q gives %q, of which Front says %v", pairs, with, outcome)
			}
		}
	})
}

func sorted(b []byte) []byte {
	b = slices.Clone(b)
	slices.Sort(b)
	return b
}
