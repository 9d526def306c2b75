// SPDX-License-Identifier: Apache-2.0

package compact

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

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

// orderer reorders lists with a filter.
type orderer struct {
	host     fakeHost
	instance *instance
}

func newOrderer(t testing.TB, json string) *orderer {
	t.Helper()
	o := &orderer{host: fakeHost{json: json}}
	o.instance = start(t, &o.host)
	if len(o.host.warnings) > 0 {
		t.Fatalf("configuration %s: %q", json, o.host.warnings)
	}
	return o
}

// reorder returns what the filter makes of a list, and the counter that it counted in.
func (o *orderer) reorder(pairs []byte) (out []byte, counter string) {
	o.host.pairs, o.host.counted = pairs, nil
	o.instance.request(1)
	for name := range o.host.counted {
		counter += name
	}
	return o.host.pairs, counter
}

func TestOrder(t *testing.T) {
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
			out, counter := newOrderer(t, `{"headers":["X-Own"]}`).reorder(reordertest.Encode(headers(test.in)))
			if diff := cmp.Diff(headers(test.want), reordertest.Decode(out), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", test.in, diff)
			}
			want := counterReordered
			switch {
			case !slices.ContainsFunc(headers(test.in), func(h [2]string) bool { return isTraceHeader(h[0]) }):
				want = counterNoContext
			case test.in == test.want:
				want = counterFirst
			}
			if counter != want {
				t.Errorf("%s counts in %v, want %v", test.in, counter, want)
			}
		})
	}
}

func TestFormatsChooseHeaders(t *testing.T) {
	all := headers("x=0 traceparent=1 b3=2 x-b3-traceid=3 uber-trace-id=4 x-datadog-trace-id=5 sw8=6 x-amzn-trace-id=7 x-cloud-trace-context=8 x-own=9")
	for _, test := range []struct{ formats, want string }{
		{"w3c", "traceparent"},
		{"b3", "b3 x-b3-traceid"},
		{"jaeger", "uber-trace-id"},
		{"datadog", "x-datadog-trace-id"},
		{"skywalking", "sw8"},
		{"xray", "x-amzn-trace-id"},
		{"gcp", "x-cloud-trace-context"},
		{"w3c b3 jaeger datadog skywalking xray gcp", "traceparent b3 x-b3-traceid uber-trace-id x-datadog-trace-id sw8 x-amzn-trace-id x-cloud-trace-context"},
	} {
		configuration, err := json.Marshal(map[string][]string{"formats": strings.Fields(test.formats)})
		if err != nil {
			t.Fatal(err)
		}
		out, _ := newOrderer(t, string(configuration)).reorder(reordertest.Encode(all))
		var got []string
		for _, h := range reordertest.Decode(out) {
			if h[0] == "x" { // not moved, and neither is what follows
				break
			}
			got = append(got, h[0])
		}
		if diff := cmp.Diff(test.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("headers of %q (-want +got):\n%s", test.formats, diff)
		}
	}
}

// Without w3c, traceparent and tracestate are ordinary headers; configured ones move.
func TestTraceStateNeedsItsFormat(t *testing.T) {
	in := headers("x=1 traceparent=p tracestate=s b3=0")
	for configuration, want := range map[string]string{
		`{"formats":["b3"]}`:                          "b3=0 x=1 traceparent=p tracestate=s",
		`{"formats":["b3"],"headers":["TraceState"]}`: "tracestate=s b3=0 x=1 traceparent=p",
	} {
		out, _ := newOrderer(t, configuration).reorder(reordertest.Encode(in))
		if diff := cmp.Diff(headers(want), reordertest.Decode(out)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", configuration, diff)
		}
	}
}

// TestRefusesWhatIsNoList truncates a list at each byte and changes each of its numbers.
func TestRefusesWhatIsNoList(t *testing.T) {
	o := newOrderer(t, "")
	good := reordertest.Encode(headers(":path=/ x=1 b3=0"))
	check := func(name string, pairs []byte) {
		t.Helper()
		before := slices.Clone(pairs)
		if out, counter := o.reorder(pairs); counter != counterErrors || !slices.Equal(out, before) {
			t.Errorf("%s: %q, counted in %s, want it unchanged and %s", name, out, counter, counterErrors)
		}
	}
	if _, counter := o.reorder(slices.Clone(good)); counter != counterReordered {
		t.Fatalf("the list itself: %v, want it reordered", counter)
	}
	for size := range good {
		check(strconv.Itoa(size)+" bytes", good[:size])
	}
	check("a byte after the list", append(slices.Clone(good), 0))
	for at := 0; at < 4+3*8; at += 4 {
		for _, number := range []uint32{0, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 29} {
			bent := slices.Clone(good)
			binary.LittleEndian.PutUint32(bent[at:], number)
			check(fmt.Sprint(number, " at ", at), bent)
		}
	}
}
