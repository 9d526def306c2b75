// SPDX-License-Identifier: Apache-2.0

package compact

import (
	"slices"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/wasm-filter/reorder/reordertest"
)

const (
	withZipkin        = `{"placement":"connection-manager","placeholders":"zipkin"}`
	withOpenTelemetry = `{"placement":"connection-manager","placeholders":"opentelemetry"}`

	last       = "a=1 x-request-id x-envoy-decorator-operation x-b3-traceid x-b3-spanid x-b3-sampled"
	first      = "x-b3-traceid x-b3-spanid x-b3-sampled a=1 x-request-id x-envoy-decorator-operation"
	untraced   = "a=1 x-request-id"
	ownContext = "traceparent=p a=1 x-request-id x-envoy-decorator-operation x-b3-traceid x-b3-spanid x-b3-sampled"
)

func TestPlaceholdersAfterProof(t *testing.T) {
	p := newSimulatedProxy(t, withZipkin, simulatedProxy{tracer: zipkin})
	p.expect(t, "a=1", last) // the proof
	p.expect(t, "a=1", first)
	p.expect(t, "a=1", first)
	if n := p.counted[counterPlaceholders]; n != 2 {
		t.Errorf("%s is %d, want 2", counterPlaceholders, n)
	}
	if n := p.counted[counterNoContext]; n != 3 {
		t.Errorf("%s is %d, want 3", counterNoContext, n)
	}

	o := newSimulatedProxy(t, withOpenTelemetry, simulatedProxy{tracer: opentelemetry})
	o.expect(t, "a=1", "a=1 x-request-id x-envoy-decorator-operation traceparent tracestate")
	o.expect(t, "a=1", "traceparent tracestate a=1 x-request-id x-envoy-decorator-operation")
}

func TestNoPlaceholdersUnlessConfigured(t *testing.T) {
	p := newSimulatedProxy(t, `{"placement":"connection-manager"}`, simulatedProxy{tracer: zipkin})
	p.expect(t, "a=1", last)
	p.expect(t, "a=1", last)
}

// Any trace header prevents placeholders, of any tracer and also of a format that
// does not move.
func TestNoPlaceholdersBesideATraceContext(t *testing.T) {
	p := newSimulatedProxy(t, `{"placement":"connection-manager","placeholders":"zipkin","formats":["b3"]}`,
		simulatedProxy{tracer: zipkin})
	p.expect(t, "a=1", last)
	p.expect(t, "a=1", first)
	for _, name := range []string{"traceparent", "tracestate", "uber-trace-id", "x-datadog-trace-id", "sw8", "TraceParent"} {
		p.expect(t, name+"=p a=1", strings.Replace(ownContext, "traceparent", name, 1))
	}
	p.expect(t, "a=1 b3=0", "b3=0 a=1 x-request-id x-envoy-decorator-operation x-b3-traceid x-b3-spanid x-b3-sampled")
	p.expect(t, "a=1", first)
}

// A listener without a tracer, in a VM that has its proof from another one.
func TestNoPlaceholdersWithoutATracer(t *testing.T) {
	p := newSimulatedProxy(t, withZipkin, simulatedProxy{tracer: zipkin})
	p.expect(t, "a=1", last)
	p.expect(t, "a=1", first)
	p.tracer = nil
	p.expect(t, "a=1", untraced)
	p.expect(t, "a=1 x-envoy-decorator-operation=mine", "a=1 x-envoy-decorator-operation=mine x-request-id")
	p.inbound = true
	p.expect(t, "x-request-id=1 x-envoy-decorator-operation=mine", "x-request-id x-envoy-decorator-operation=mine")
}

// The filter notices another tracer than the configured one before it sets any
// placeholder.
func TestWrongTracer(t *testing.T) {
	p := newSimulatedProxy(t, withZipkin, simulatedProxy{tracer: opentelemetry})
	for range 3 {
		p.expect(t, "a=1", "a=1 x-request-id x-envoy-decorator-operation traceparent tracestate")
	}
	if len(p.warnings) != 1 || !strings.Contains(p.warnings[0], "does not write its headers as zipkin does") {
		t.Errorf("log %q, want one line about the tracer", p.warnings)
	}
	p.tracer = zipkin
	p.expect(t, "a=1", last) // refuted for good
	p.expect(t, "a=1", last)
}

// TestTracerReplaced: placeholders reach the upstream only if the tracer is replaced
// in a running VM. The filter notices and stops.
func TestTracerReplaced(t *testing.T) {
	p := newSimulatedProxy(t, withZipkin, simulatedProxy{tracer: zipkin})
	p.expect(t, "a=1", last)
	p.tracer = opentelemetry
	if got := p.send("a=1"); !strings.Contains(got, "x-b3-traceid=0") {
		t.Errorf("upstream gets %s; this test is about a placeholder that it gets", got)
	}
	if n := p.counted[counterLeft]; n != 1 {
		t.Errorf("%s is %d, want 1", counterLeft, n)
	}
	p.expect(t, "a=1", "a=1 x-request-id x-envoy-decorator-operation traceparent tracestate")
	if len(p.warnings) != 1 || !strings.Contains(p.warnings[0], "has left placeholders") {
		t.Errorf("log %q, want one line about the placeholders", p.warnings)
	}
}

// Nothing is injected into a request without an upstream, so it is no proof for or
// against the tracer.
func TestUnreachableUpstream(t *testing.T) {
	p := newSimulatedProxy(t, withZipkin, simulatedProxy{tracer: zipkin, unreachable: true})
	p.send("a=1")
	p.unreachable = false
	p.expect(t, "a=1", last)
	p.expect(t, "a=1", first)
	p.unreachable = true
	p.send("a=1")
	p.unreachable = false
	p.expect(t, "a=1", first)
	if len(p.warnings) > 0 {
		t.Errorf("log %q, want nothing", p.warnings)
	}
}

// The filter stops waiting for a stream that does not end.
func TestEndlessStream(t *testing.T) {
	p := newSimulatedProxy(t, withZipkin, simulatedProxy{tracer: zipkin, streaming: true})
	p.expect(t, "a=1", last)
	p.streaming = false
	for range 1000 { // PASSED_MAX
		p.expect(t, "a=1", last)
	}
	p.expect(t, "a=1", last)
	p.expect(t, "a=1", first)
}

// tracer has the headers that a tracer writes to each request that begins a trace.
type tracer []string

var (
	zipkin        = tracer{"x-b3-traceid", "x-b3-spanid", "x-b3-sampled"}
	opentelemetry = tracer{"traceparent", "tracestate"}
)

// Placeholders go where a trace context goes.
func TestPlaceOfPlaceholders(t *testing.T) {
	p := newSimulatedProxy(t, withOpenTelemetry, simulatedProxy{tracer: opentelemetry})
	p.send("a=1") // the proof
	for client, want := range map[string]string{
		"":                                       "traceparent tracestate x-request-id x-envoy-decorator-operation",
		"host=h a=1":                             "host=h traceparent tracestate a=1 x-request-id x-envoy-decorator-operation",
		"a=1 :method=GET":                        ":method=GET traceparent tracestate a=1 x-request-id x-envoy-decorator-operation",
		"te=t a=1 content-type=t/p":              "traceparent tracestate te=t a=1 content-type=t/p x-request-id x-envoy-decorator-operation",
		"content-type=application/grpc a=1 te=t": "te=t content-type=application/grpc traceparent tracestate a=1 x-request-id x-envoy-decorator-operation",
	} {
		p.expect(t, client, want)
	}
}

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

func newSimulatedProxy(t testing.TB, configuration string, p simulatedProxy) *simulatedProxy {
	p.counted = map[string]int{}
	p.filter = start(t, &configured{&p, configuration})
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
