// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestInsert(t *testing.T) {
	names, err := NewNames(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	lists := NewLists(names)
	for _, test := range []struct{ in, want string }{
		{"", "b3=0 tracestate="},
		{":path=/ host=a x=1", ":path=/ host=a b3=0 tracestate= x=1"},
		{"x=1 y=", "b3=0 tracestate= x=1 y="},
		{":path=/ :method=GET", ":path=/ :method=GET b3=0 tracestate="},
	} {
		pairs := encode(headers(test.in))
		if _, outcome := lists.Front(pairs); outcome != Absent {
			t.Fatalf("Front(%s): %v, want Absent", test.in, outcome)
		}
		got := decode(lists.Insert(pairs, headers("b3=0 tracestate=")))
		if diff := cmp.Diff(headers(test.want), got); diff != "" {
			t.Errorf("Insert into %q (-want +got):\n%s", test.in, diff)
		}
	}
}

func TestFind(t *testing.T) {
	names, err := NewNames([]string{"b3"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	lists := NewLists(names)
	pairs := encode(headers("x=1 Y=2 y=3 traceparent=p"))
	lists.Front(pairs)
	if i := lists.Find(pairs, "y"); i != 1 || string(lists.Value(pairs, i)) != "2" {
		t.Errorf("Find(y) = %d, want 1 with value 2", i)
	}
	if i := lists.Find(pairs, "z"); i != -1 {
		t.Errorf("Find(z) = %d, want -1", i)
	}
	all, err := NewNames(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if lists.Any(pairs, names) || !lists.Any(pairs, all) {
		t.Error("Any: want traceparent among all names, and not among those of b3")
	}
}
