// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tracers are the names that each of Envoy's tracers writes, in its order, to a
// request without a trace context and to one with.
var tracers = map[string]struct{ root, continued []string }{
	"zipkin": {
		root:      []string{"x-b3-traceid", "x-b3-spanid", "x-b3-sampled"},
		continued: []string{"x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled"},
	},
	"opentelemetry": {
		root:      []string{"traceparent", "tracestate"},
		continued: []string{"traceparent", "tracestate"},
	},
}

const traceID = "0af7651916cd43dd8448eb211c80319c"

// incoming is the trace context of a continued trace, as a client sends it.
var incoming = map[string][][2]string{
	"zipkin": {
		{"x-b3-traceid", traceID}, {"x-b3-spanid", "b7ad6b7169203331"}, {"x-b3-sampled", "1"},
	},
	"opentelemetry": {
		{"traceparent", "00-" + traceID + "-b7ad6b7169203331-01"}, {"tracestate", "vendor=1"},
	},
}

// ordinary are headers of the client's own, repeated ones among them.
var ordinary = [][2]string{
	{"user-agent", "wire-test"}, {"x-twice", "1"}, {"accept", "*/*"}, {"x-twice", "2"}, {"x-own", "3"},
}

func TestWireOrder(t *testing.T) {
	module := buildModule(t)
	for tracer, written := range tracers {
		t.Run(tracer, func(t *testing.T) {
			up := startUpstream(t)
			proxy := startEnvoy(t, settings{
				Tracer: tracer, Wasm: module, Upstream: port(t, up.address),
				Listeners:     []string{"stock", "front", "configured", "passive"},
				Configuration: map[string]string{"configured": `{"headers":["X-Own"]}`, "passive": `{"header":["x-own"]}`},
				Metadata:      strings.Repeat("m", 1100),
			})
			for _, request := range []struct {
				name    string
				context [][2]string
				want    []string
			}{
				{"root", nil, written.root},
				{"continued", incoming[tracer], written.continued},
			} {
				t.Run(request.name, func(t *testing.T) {
					sent := slices.Concat(ordinary[:2], request.context, ordinary[2:])
					for _, listener := range []string{"stock", "front", "configured", "passive"} {
						send(t, proxy.listeners[listener], "GET /"+listener, sent, "")
					}
					stock, front := up.next(t), up.next(t)
					configured, passive := up.next(t), up.next(t)

					checkStock(t, stock, request.want)
					checkFront(t, front, stock, request.want)
					checkContext(t, front, request.context != nil)
					// x-own was there before the tracer came, so it stays before its headers.
					checkFront(t, configured, stock, append([]string{"x-own"}, request.want...))
					if diff := cmp.Diff(names(stock), names(passive)); diff != "" {
						t.Errorf("a filter with a bad configuration changes the order (-stock +passive):\n%s", diff)
					}
				})
			}
			for range 10 {
				send(t, proxy.listeners["passive"], "GET /passive", ordinary, "")
			}
			checkWarned(t, proxy)
		})
	}
}

// TestAttempts checks requests that are more than one head: with a body, and
// with a second attempt, for which the tracer injects again.
func TestAttempts(t *testing.T) {
	up := startUpstream(t)
	proxy := startEnvoy(t, settings{
		Tracer: "zipkin", Wasm: buildModule(t), Upstream: port(t, up.address),
		Listeners: []string{"stock", "front"}, Metadata: strings.Repeat("m", 1100),
	})
	want := tracers["zipkin"].root
	for _, method := range []string{"GET", "POST"} {
		body := strings.Repeat("b", len(method)/4*100_000) // none for GET
		send(t, proxy.listeners["stock"], method+" /stock", ordinary, body)
		stock := up.next(t)
		send(t, proxy.listeners["front"], method+" /retry", ordinary, body)
		first, second := up.next(t), up.next(t)

		checkFront(t, first, stock, want)
		checkFront(t, second, stock, want)
	}
	if got := proxy.counter(t, "layertrace_requests_reordered"); got != "4" {
		t.Errorf("Envoy counted %s reordered requests, want 4", got)
	}
	if got := proxy.counter(t, "layertrace_host_call_errors"); got != "0" {
		t.Errorf("Envoy counted %s failed host calls, want 0", got)
	}
}

// checkWarned fails unless the filter wrote to the log that its configuration
// is of no use: once in each VM, of which Envoy starts one to try the module and
// one for each thread (here: main and a single worker), and not per request.
func checkWarned(t *testing.T, proxy *envoy) {
	t.Helper()
	log := proxy.readLog(t)
	if n := strings.Count(log, `layertrace: plugin configuration: unknown key "header"`); n < 1 || n > 3 {
		t.Errorf("the refused configuration was told %d times, want once per VM:\n%s", n, log)
	}
}

// checkStock is the control: without the filter the trace headers stand last,
// 1,100 bytes behind the request line or more.
func checkStock(t *testing.T, head string, want []string) {
	t.Helper()
	got := names(head)
	if !slices.Equal(got[len(got)-len(want):], want) {
		t.Errorf("stock order: want %v last:\n%s", want, head)
	}
	if at := strings.Index(head, "\r\n"+want[0]); at < 1100 {
		t.Errorf("stock order: the trace context stands at %d, want it behind 1,100 bytes of metadata:\n%s", at, head)
	}
}

// checkFront fails unless the trace headers stand right behind host, and all
// others follow in the order of stock.
func checkFront(t *testing.T, head, stock string, trace []string) {
	t.Helper()
	got := names(head)
	if got[0] != "host" {
		t.Errorf("host is not first:\n%s", head)
	}
	if len(got) <= len(trace) || !slices.Equal(got[1:1+len(trace)], trace) {
		t.Errorf("want %v behind host:\n%s", trace, head)
	}
	differs := func(f [2]string) bool { return slices.Contains(trace, f[0]) || f[0] == "x-request-id" }
	if diff := cmp.Diff(slices.DeleteFunc(fields(stock), differs), slices.DeleteFunc(fields(head), differs)); diff != "" {
		t.Errorf("the other headers (-stock +front):\n%s", diff)
	}
}

// checkContext fails unless the trace goes on where the client's ended.
func checkContext(t *testing.T, head string, continued bool) {
	t.Helper()
	if has := strings.Contains(head, traceID); has != continued {
		t.Errorf("client's trace ID on the wire: %v, want %v:\n%s", has, continued, head)
	}
}
