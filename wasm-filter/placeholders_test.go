// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
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
	p := newSimulatedProxy(withZipkin, simulatedProxy{tracer: findTracer("zipkin")})
	p.expect(t, "a=1", last) // the proof
	p.expect(t, "a=1", first)
	p.expect(t, "a=1", first)
	if n := p.counted[counterPlaceholders]; n != 2 {
		t.Errorf("%s is %d, want 2", counterPlaceholders, n)
	}
	if n := p.counted[counterAbsent]; n != 3 {
		t.Errorf("%s is %d, want 3", counterAbsent, n)
	}

	o := newSimulatedProxy(withOpenTelemetry, simulatedProxy{tracer: findTracer("opentelemetry")})
	o.expect(t, "a=1", "a=1 x-request-id x-envoy-decorator-operation traceparent tracestate")
	o.expect(t, "a=1", "traceparent tracestate a=1 x-request-id x-envoy-decorator-operation")
}

func TestNoPlaceholdersUnlessConfigured(t *testing.T) {
	p := newSimulatedProxy(`{"placement":"connection-manager"}`, simulatedProxy{tracer: findTracer("zipkin")})
	p.expect(t, "a=1", last)
	p.expect(t, "a=1", last)
}

// Any trace header, of whichever tracer and also of a format that is not to be
// moved, keeps placeholders away.
func TestNoPlaceholdersBesideATraceContext(t *testing.T) {
	p := newSimulatedProxy(`{"placement":"connection-manager","placeholders":"zipkin","formats":["b3"]}`,
		simulatedProxy{tracer: findTracer("zipkin")})
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
	p := newSimulatedProxy(withZipkin, simulatedProxy{tracer: findTracer("zipkin")})
	p.expect(t, "a=1", last)
	p.expect(t, "a=1", first)
	p.tracer = nil
	p.expect(t, "a=1", untraced)
	p.expect(t, "a=1 x-envoy-decorator-operation=mine", "a=1 x-envoy-decorator-operation=mine x-request-id")
	p.inbound = true
	p.expect(t, "x-request-id=1 x-envoy-decorator-operation=mine", "x-request-id x-envoy-decorator-operation=mine")
}

// Another tracer than the configured one is noticed before any placeholder is set.
func TestWrongTracer(t *testing.T) {
	p := newSimulatedProxy(withZipkin, simulatedProxy{tracer: findTracer("opentelemetry")})
	for range 3 {
		p.expect(t, "a=1", "a=1 x-request-id x-envoy-decorator-operation traceparent tracestate")
	}
	if len(p.warnings) != 1 || !strings.Contains(p.warnings[0], "does not write its headers as zipkin does") {
		t.Errorf("log %q, want one line about the tracer", p.warnings)
	}
	p.tracer = findTracer("zipkin")
	p.expect(t, "a=1", last) // refuted for good
	p.expect(t, "a=1", last)
}

// TestTracerReplaced: the one case in which placeholders do reach the upstream
// is a tracer that is replaced in a running VM. The filter notices and stops.
func TestTracerReplaced(t *testing.T) {
	p := newSimulatedProxy(withZipkin, simulatedProxy{tracer: findTracer("zipkin")})
	p.expect(t, "a=1", last)
	p.tracer = findTracer("opentelemetry")
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

// A request that is sent nowhere is injected nothing: it proves and refutes
// nothing.
func TestUnreachableUpstream(t *testing.T) {
	p := newSimulatedProxy(withZipkin, simulatedProxy{tracer: findTracer("zipkin"), unreachable: true})
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

// A stream that does not end must not be waited for forever.
func TestEndlessStream(t *testing.T) {
	p := newSimulatedProxy(withZipkin, simulatedProxy{tracer: findTracer("zipkin"), streaming: true})
	p.expect(t, "a=1", last)
	p.streaming = false
	for range maxPassed {
		p.expect(t, "a=1", last)
	}
	p.expect(t, "a=1", last)
	p.expect(t, "a=1", first)
}
