// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
		{"tracestate behind the last traceparent", "x=1 traceparent=p traceparent=q b3=0 tracestate=1", "traceparent=p traceparent=q tracestate=1 b3=0 x=1"},
		{"tracestate alone is ordinary", ":path=/ x=1 tracestate=1 b3=0", ":path=/ b3=0 x=1 tracestate=1"},
		{"repeated headers keep their order", "x=1 cookie=b x=2 cookie=a b3=0 x=3", "b3=0 x=1 cookie=b x=2 cookie=a x=3"},
		{"repeated trace headers too", "x=1 b3=2 b3=1 b3=3", "b3=2 b3=1 b3=3 x=1"},
		{"leading host", "host=a x=1 sw8=0", "host=a sw8=0 x=1"},
		{"host behind pseudo headers", ":path=/ host=a x=1 sw8=0", ":path=/ host=a sw8=0 x=1"},
		{"host elsewhere is ordinary", "x=1 host=a sw8=0", "sw8=0 x=1 host=a"},
		{"pseudo header behind others", "x=1 :path=/ uber-trace-id=u", ":path=/ uber-trace-id=u x=1"},
		{"datadog, by prefix", "x=1 x-datadog-trace-id=1 x-datadog-parent-id=2 x-datadog-origin=o", "x-datadog-trace-id=1 x-datadog-parent-id=2 x-datadog-origin=o x=1"},
		{"any case", "X=1 TraceParent=p X-B3-TraceId=t TraceState=s", "TraceParent=p TraceState=s X-B3-TraceId=t X=1"},
		{"configured", "x=1 x-own=2 x-other=3", "x-own=2 x=1 x-other=3"},
		{"near misses stay", "x=1 traceparent2=p b33=1 xx-b3-traceid=1 x-b3=1", "x=1 traceparent2=p b33=1 xx-b3-traceid=1 x-b3=1"},
		{"in front already", ":authority=a host=a traceparent=p tracestate=s b3=0 x=1 y=2", ":authority=a host=a traceparent=p tracestate=s b3=0 x=1 y=2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			names, err := NewNames("X-Own")
			if err != nil {
				t.Fatal(err)
			}
			got, moved := names.Front(headers(test.in))
			if diff := cmp.Diff(headers(test.want), got); diff != "" {
				t.Errorf("Front(%s) (-want +got):\n%s", test.in, diff)
			}
			if want := test.in != test.want; moved != want {
				t.Errorf("Front(%s) says moved %v, want %v", test.in, moved, want)
			}
		})
	}
}

func TestNewNamesRefuses(t *testing.T) {
	for _, name := range []string{"", ":path", "x y", "x:", "é", "Host"} {
		if _, err := NewNames("x-fine", name); err == nil {
			t.Errorf("NewNames(%q): no error", name)
		}
	}
}
