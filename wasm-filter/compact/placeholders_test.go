// SPDX-License-Identifier: Apache-2.0

package compact

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/layertrace/layertrace/wasm-filter/reorder/reordertest"
)

const (
	withZipkin        = `{"placement":"connection-manager","placeholders":"zipkin"}`
	withOpenTelemetry = `{"placement":"connection-manager","placeholders":"opentelemetry"}`

	last  = "a=1 x-request-id x-envoy-decorator-operation x-b3-traceid x-b3-spanid x-b3-sampled"
	first = "x-b3-traceid x-b3-spanid x-b3-sampled a=1 x-request-id x-envoy-decorator-operation"
)

func TestPlaceholdersAfterProof(t *testing.T) {
	p := newSimulatedProxy(t, Module, withZipkin, simulatedProxy{tracer: zipkin})
	p.expect(t, "a=1", last) // the proof
	p.expect(t, "a=1", first)
	p.expect(t, "a=1", first)
	if n := p.counted[counterPlaceholders]; n != 2 {
		t.Errorf("%s is %d, want 2", counterPlaceholders, n)
	}
	if n := p.counted[counterNoContext]; n != 3 {
		t.Errorf("%s is %d, want 3", counterNoContext, n)
	}

	o := newSimulatedProxy(t, Module, withOpenTelemetry, simulatedProxy{tracer: opentelemetry})
	o.expect(t, "a=1", "a=1 x-request-id x-envoy-decorator-operation traceparent tracestate")
	o.expect(t, "a=1", "traceparent tracestate a=1 x-request-id x-envoy-decorator-operation")
}

// The filter stops waiting for a stream that does not end.
func TestEndlessStream(t *testing.T) {
	p := newSimulatedProxy(t, Module, withZipkin, simulatedProxy{tracer: zipkin, streaming: true})
	p.expect(t, "a=1", last)
	p.streaming = false
	for range 1000 { // PASSED_MAX
		p.expect(t, "a=1", last)
	}
	p.expect(t, "a=1", last)
	p.expect(t, "a=1", first)
}

// TestSamePlaceholdersAsGo sends random requests through random proxies, whose tracer
// changes, whose streams do not end, or not at once, and whose upstream is sometimes away.
// Both modules must do the same.
func TestSamePlaceholdersAsGo(t *testing.T) {
	inGo := buildGo(t)
	const seed, proxies, requests = 5, 80, 60
	random := rand.New(rand.NewPCG(seed, seed))
	counted, warned := map[string]int{}, ""
	for range proxies {
		configuration := []string{
			withZipkin, withOpenTelemetry, `{"placement":"connection-manager"}`,
			`{"placement":"connection-manager","placeholders":"zipkin","formats":["b3"]}`,
			`{"placement":"connection-manager","placeholders":"opentelemetry","formats":["w3c"],"headers":["a"]}`,
		}[random.IntN(5)]
		c := newSimulatedProxy(t, Module, configuration, simulatedProxy{})
		g := newSimulatedProxy(t, inGo, configuration, simulatedProxy{})
		state := simulatedProxy{tracer: []tracer{zipkin, opentelemetry}[random.IntN(2)]}
		for range requests {
			if random.IntN(40) == 0 {
				state.tracer = []tracer{nil, zipkin, opentelemetry}[random.IntN(3)]
			}
			state.inbound, state.unreachable = random.IntN(10) == 0, random.IntN(10) == 0
			state.streaming = random.IntN(10) == 0
			client := randomClient(random)
			old := random.Uint32N(c.stream + 1)
			var sent [2]string
			for i, p := range []*simulatedProxy{c, g} {
				p.tracer, p.inbound, p.unreachable, p.streaming = state.tracer, state.inbound, state.unreachable, state.streaming
				sent[i] = p.send(client)
				p.filter.end(old)
			}
			if sent[0] != sent[1] {
				t.Fatalf("%s, request %q:\nC sends  %s\nGo sends %s", configuration, client, sent[0], sent[1])
			}
		}
		if diff := cmp.Diff([]any{g.counted, g.warnings}, []any{c.counted, c.warnings}); diff != "" {
			t.Fatalf("%s: counters and log (-Go +C):\n%s", configuration, diff)
		}
		for name, n := range c.counted {
			counted[name] += n
		}
		warned += strings.Join(c.warnings, "\n")
	}
	if counted[counterPlaceholders] < 100 || counted[counterLeft] < 5 ||
		!strings.Contains(warned, "does not write its headers") || !strings.Contains(warned, "has left placeholders") {
		t.Errorf("too little happened to compare: %v, log %q", counted, warned)
	}
}

// randomClient returns headers of a client: most requests begin a trace.
func randomClient(random *rand.Rand) string {
	var client []string
	for range random.IntN(5) {
		client = append(client, []string{"a=1", "host=h", ":method=GET", "te=t", "content-type=application/grpc", "grpc-timeout=1S"}[random.IntN(6)])
	}
	if random.IntN(5) == 0 {
		client = append(client, []string{
			"x-request-id=1", "x-envoy-decorator-operation=mine", "b3=0", "TraceParent=p", "tracestate=s", "sw8=1", "x-b3-traceid=0",
		}[random.IntN(7)])
	}
	return strings.Join(client, " ")
}

// tracer has the headers that a tracer writes to each request that begins a trace.
type tracer []string

var (
	zipkin        = tracer{"x-b3-traceid", "x-b3-spanid", "x-b3-sampled"}
	opentelemetry = tracer{"traceparent", "tracestate"}
)

// simulatedProxy does what Envoy's connection manager and router do around the
// filter to the trace context of a request. The golden suite (e2e/reorder) tests a
// real Envoy; this tests orders of events that are hard to provoke there.
type simulatedProxy struct {
	// tracer writes its headers to each request; nil for none.
	tracer tracer
	// inbound is the direction of the listener; the route has a decorator.
	inbound bool
	// unreachable is an upstream that no request is sent to.
	unreachable bool
	// streaming leaves streams open: they do not end by themselves.
	streaming bool

	filter   *instance
	stream   uint32
	headers  [][2]string
	sent     bool
	counters []string
	counted  map[string]int
	warnings []string
}

func newSimulatedProxy(t testing.TB, module []byte, configuration string, p simulatedProxy) *simulatedProxy {
	p.counted = map[string]int{}
	p.filter = newInstanceOf(t, module, &configured{&p, configuration})
	p.filter.configure()
	return &p
}

// configured is the host of one plugin.
type configured struct {
	*simulatedProxy
	json string
}

func (c *configured) configuration() ([]byte, error) { return []byte(c.json), nil }

func (p *simulatedProxy) property(name string) ([]byte, error) {
	switch {
	case name == "xds\x00listener_direction" && p.inbound:
		return []byte{1, 0, 0, 0, 0, 0, 0, 0}, nil
	case name == "xds\x00listener_direction":
		return []byte{2, 0, 0, 0, 0, 0, 0, 0}, nil
	case name == "upstream\x00address" && p.sent:
		return []byte("127.0.0.1:80"), nil
	}
	return nil, errHost
}

func (p *simulatedProxy) requestHeaders() ([]byte, error) { return reordertest.Encode(p.headers), nil }

func (p *simulatedProxy) setRequestHeaders(pairs []byte) error {
	p.headers = reordertest.Decode(pairs)
	return nil
}

func (p *simulatedProxy) defineCounter(name string) (uint32, error) {
	p.counters = append(p.counters, name)
	return uint32(len(p.counters) - 1), nil
}

func (p *simulatedProxy) increment(id uint32) { p.counted[p.counters[id]]++ }

func (p *simulatedProxy) warn(message string) { p.warnings = append(p.warnings, message) }

// send passes a request of the client through the proxy. It returns the headers
// that the upstream gets, as "name name=value ...": values only of the client and of
// placeholders.
func (p *simulatedProxy) send(client string) string {
	p.stream++
	p.sent = false
	p.headers = [][2]string{{":path", "/"}}
	for _, field := range strings.Fields(client) {
		name, value, _ := strings.Cut(field, "=")
		p.headers = append(p.headers, [2]string{name, value})
	}
	p.write("x-request-id", "id")
	if p.tracer != nil && !p.inbound {
		p.write("x-envoy-decorator-operation", "op")
	}
	p.filter.request(p.stream)
	if !p.unreachable {
		p.sent = true
		if p.tracer != nil {
			for _, h := range p.tracer {
				p.write(h, "TRACER")
			}
		}
	}
	if !p.streaming {
		p.filter.end(p.stream)
	}
	var upstream []string
	for _, h := range p.headers[1:] {
		switch h[1] {
		case "TRACER", "id", "op", "":
			upstream = append(upstream, h[0])
		default:
			upstream = append(upstream, h[0]+"="+h[1])
		}
	}
	return strings.Join(upstream, " ")
}

// write sets a header in place, or appends it.
func (p *simulatedProxy) write(name, value string) {
	i := slices.IndexFunc(p.headers, func(h [2]string) bool { return h[0] == name })
	if i < 0 {
		p.headers = append(p.headers, [2]string{name, value})
		return
	}
	p.headers[i][1] = value
}

// expect sends a request and compares.
func (p *simulatedProxy) expect(t *testing.T, client, want string) {
	t.Helper()
	if got := p.send(client); got != want {
		t.Errorf("request %q:\n got %s\nwant %s", client, got, want)
	}
}
