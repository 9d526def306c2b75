// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/layertrace/layertrace/wasm-filter/reorder/reordertest"
)

// headers reads "name=value name=value ..." as a header list.
func headers(s string) [][2]string {
	var list [][2]string
	for _, field := range strings.Fields(s) {
		name, value, _ := strings.Cut(field, "=")
		list = append(list, [2]string{name, value})
	}
	return list
}

func TestFront(t *testing.T) {
	for _, test := range []struct {
		name, in, want string
	}{
		{"empty", "", ""},
		{"no trace context", ":authority=a :path=/ x=1 y=2", ":authority=a :path=/ x=1 y=2"},
		{"b3, zipkin's own order", ":authority=a :path=/ x=1 x-b3-traceid=t x-b3-spanid=s x-b3-parentspanid=p x-b3-sampled=1",
			":authority=a :path=/ x-b3-traceid=t x-b3-spanid=s x-b3-parentspanid=p x-b3-sampled=1 x=1"},
		{"w3c", ":method=GET x=1 traceparent=p tracestate= y=2", ":method=GET traceparent=p tracestate= x=1 y=2"},
		{"tracestate ahead of traceparent", "tracestate=1 x=1 traceparent=p tracestate=2", "traceparent=p tracestate=1 tracestate=2 x=1"},
		{"tracestate after the last traceparent", "x=1 traceparent=p traceparent=q b3=0 tracestate=1", "traceparent=p traceparent=q tracestate=1 b3=0 x=1"},
		{"tracestate alone is ordinary", ":path=/ x=1 tracestate=1 b3=0", ":path=/ b3=0 x=1 tracestate=1"},
		{"repeated headers keep their order", "x=1 cookie=b x=2 cookie=a b3=0 x=3", "b3=0 x=1 cookie=b x=2 cookie=a x=3"},
		{"repeated trace headers too", "x=1 b3=2 b3=1 b3=3", "b3=2 b3=1 b3=3 x=1"},
		{"leading host", "host=a x=1 sw8=0", "host=a sw8=0 x=1"},
		{"host after pseudo headers", ":path=/ host=a x=1 sw8=0", ":path=/ host=a sw8=0 x=1"},
		{"host elsewhere is ordinary", "x=1 host=a sw8=0", "sw8=0 x=1 host=a"},
		{"pseudo header after others", "x=1 :path=/ uber-trace-id=u", ":path=/ uber-trace-id=u x=1"},
		{"datadog, by prefix", "x=1 x-datadog-trace-id=1 x-datadog-parent-id=2 x-datadog-origin=o", "x-datadog-trace-id=1 x-datadog-parent-id=2 x-datadog-origin=o x=1"},
		{"any case", "X=1 TraceParent=p X-B3-TraceId=t TraceState=s", "TraceParent=p TraceState=s X-B3-TraceId=t X=1"},
		{"configured", "x=1 x-own=2 x-other=3", "x-own=2 x=1 x-other=3"},
		{"near misses stay", "x=1 traceparent2=p b33=1 xx-b3-traceid=1 x-b3=1", "x=1 traceparent2=p b33=1 xx-b3-traceid=1 x-b3=1"},
		{"gRPC: te, grpc-timeout and content-type first", ":path=/ content-type=application/grpc user-agent=u te=trailers grpc-timeout=1S x=1 traceparent=p",
			":path=/ te=trailers grpc-timeout=1S content-type=application/grpc traceparent=p user-agent=u x=1"},
		{"gRPC with a subtype", "traceparent=p tracestate=s TE=trailers Content-Type=application/grpc+proto",
			"TE=trailers Content-Type=application/grpc+proto traceparent=p tracestate=s"},
		{"gRPC, without a context", ":path=/ content-type=application/grpc te=trailers", ":path=/ content-type=application/grpc te=trailers"},
		{"gRPC, in its order", ":path=/ te=trailers grpc-timeout=1S content-type=application/grpc b3=0 x=1", ":path=/ te=trailers grpc-timeout=1S content-type=application/grpc b3=0 x=1"},
		{"gRPC-Web", "te=trailers content-type=application/grpc-web b3=0", "b3=0 te=trailers content-type=application/grpc-web"},
		{"no gRPC", "te=trailers grpc-timeout=1S content-type=text/plain b3=0", "b3=0 te=trailers grpc-timeout=1S content-type=text/plain"},
		{"already first", ":authority=a host=a traceparent=p tracestate=s b3=0 x=1 y=2", ":authority=a host=a traceparent=p tracestate=s b3=0 x=1 y=2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			names, err := NewNames(nil, []string{"X-Own"})
			if err != nil {
				t.Fatal(err)
			}
			got, outcome := reordered(NewList(names), headers(test.in))
			if diff := cmp.Diff(headers(test.want), got); diff != "" {
				t.Errorf("Reorder(%s) (-want +got):\n%s", test.in, diff)
			}
			want := Reordered
			switch {
			case !slices.ContainsFunc(headers(test.in), func(h [2]string) bool { return names.Has(h[0]) }):
				want = NoContext
			case test.in == test.want:
				want = AlreadyFirst
			}
			if outcome != want {
				t.Errorf("Reorder(%s) says %v, want %v", test.in, outcome, want)
			}
		})
	}
}

func TestNewNamesRefuses(t *testing.T) {
	for _, name := range []string{"", ":path", "x y", "x:", "é", "Host"} {
		if _, err := NewNames(nil, []string{"x-fine", name}); err == nil {
			t.Errorf("NewNames(%q): no error", name)
		}
	}
}

func TestFormatsChooseHeaders(t *testing.T) {
	all := headers("traceparent=1 b3=2 x-b3-traceid=3 uber-trace-id=4 x-datadog-trace-id=5 sw8=6 x-amzn-trace-id=7 x-cloud-trace-context=8 x-own=9")
	for _, test := range []struct{ formats, want string }{
		{"w3c", "traceparent"},
		{"b3", "b3 x-b3-traceid"},
		{"jaeger", "uber-trace-id"},
		{"datadog", "x-datadog-trace-id"},
		{"skywalking", "sw8"},
		{"xray", "x-amzn-trace-id"},
		{"gcp", "x-cloud-trace-context"},
		{"w3c b3 jaeger datadog skywalking xray gcp", "traceparent b3 x-b3-traceid uber-trace-id x-datadog-trace-id sw8 x-amzn-trace-id x-cloud-trace-context"},
		{"", ""},
	} {
		names, err := NewNames(strings.Fields(test.formats), nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, h := range all {
			if names.Has(h[0]) {
				got = append(got, h[0])
			}
		}
		if diff := cmp.Diff(strings.Join(got, " "), test.want); diff != "" {
			t.Errorf("headers of %q (-got +want):\n%s", test.formats, diff)
		}
	}
	if _, err := NewNames([]string{"W3C"}, nil); err == nil {
		t.Error("NewNames of an unknown format: no error")
	}
}

// Without w3c, traceparent and tracestate are ordinary headers.
func TestTraceStateNeedsItsFormat(t *testing.T) {
	names, err := NewNames([]string{"b3"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	in := headers("x=1 traceparent=p tracestate=s b3=0")
	got, _ := reordered(NewList(names), in)
	if diff := cmp.Diff(headers("b3=0 x=1 traceparent=p tracestate=s"), got); diff != "" {
		t.Errorf("Reorder (-want +got):\n%s", diff)
	}
}

// TestFrontRefusesWhatIsNoList truncates a list at each byte and changes each of its
// numbers.
func TestFrontRefusesWhatIsNoList(t *testing.T) {
	names, err := NewNames(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	list := NewList(names)
	good := reordertest.Encode(headers(":path=/ x=1 b3=0"))
	if _, outcome := list.Reorder(good); outcome != Reordered {
		t.Fatalf("the list itself: %v, want Reordered", outcome)
	}
	for size := range good {
		if out, outcome := list.Reorder(good[:size]); outcome != Malformed || out != nil {
			t.Errorf("the first %d bytes: %v %q, want Malformed", size, outcome, out)
		}
	}
	if _, outcome := list.Reorder(append(slices.Clone(good), 0)); outcome != Malformed {
		t.Errorf("a byte after the list: %v, want Malformed", outcome)
	}
	for at := 0; at < 4+3*8; at += 4 {
		for _, number := range []uint32{0, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 29} {
			bent := slices.Clone(good)
			binary.LittleEndian.PutUint32(bent[at:], number)
			if _, outcome := list.Reorder(bent); outcome != Malformed {
				t.Errorf("%d at %d: %v, want Malformed", number, at, outcome)
			}
		}
	}
}

// Once the buffers have their size, a request allocates nothing.
func TestFrontAllocatesNothing(t *testing.T) {
	names, err := NewNames(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	list := NewList(names)
	pairs := reordertest.Encode(headers(":path=/ x=1 traceparent=p y=2 tracestate=s b3=0"))
	if n := testing.AllocsPerRun(100, func() { list.Reorder(pairs) }); n != 0 {
		t.Errorf("Reorder allocates %v times, want 0", n)
	}
}

func TestInsert(t *testing.T) {
	names, err := NewNames(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	list := NewList(names)
	for _, test := range []struct{ in, want string }{
		{"", "b3=0 tracestate="},
		{":path=/ host=a x=1", ":path=/ host=a b3=0 tracestate= x=1"},
		{"x=1 y=", "b3=0 tracestate= x=1 y="},
		{":path=/ :method=GET", ":path=/ :method=GET b3=0 tracestate="},
		{":path=/ content-type=application/grpc x=1 te=trailers", ":path=/ te=trailers content-type=application/grpc b3=0 tracestate= x=1"},
		{"te=trailers content-type=application/grpc", "te=trailers content-type=application/grpc b3=0 tracestate="},
	} {
		pairs := reordertest.Encode(headers(test.in))
		if _, outcome := list.Reorder(pairs); outcome != NoContext {
			t.Fatalf("Reorder(%s): %v, want NoContext", test.in, outcome)
		}
		got := reordertest.Decode(list.Insert(pairs, headers("b3=0 tracestate=")))
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
	list := NewList(names)
	pairs := reordertest.Encode(headers("x=1 Y=2 y=3 traceparent=p"))
	list.Reorder(pairs)
	if i := list.Find(pairs, "y"); i != 1 || string(list.Value(pairs, i)) != "2" {
		t.Errorf("Find(y) = %d, want 1 with value 2", i)
	}
	if i := list.Find(pairs, "z"); i != -1 {
		t.Errorf("Find(z) = %d, want -1", i)
	}
	all, err := NewNames(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if list.Any(pairs, names) || !list.Any(pairs, all) {
		t.Error("Any: want traceparent among all names, and not among those of b3")
	}
}
