// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// alwaysWritten are the headers that a tracer always writes, in its order.
var alwaysWritten = map[lab.Tracer][]string{
	lab.Zipkin:        {"x-b3-traceid", "x-b3-spanid", "x-b3-sampled"},
	lab.OpenTelemetry: {"traceparent", "tracestate"},
}

const (
	rightTracer = "right" // the filter is configured for Envoy's tracer
	wrongTracer = "wrong" // the filter is configured for the other tracer
)

// TestPlaceholdersStayInside first lets the filter learn of the tracer in one
// listener. Then it sends requests that start a trace through all of them: traced or
// not, with the right and the wrong tracer, with headers by which a client can look
// traced. All listeners with the right filter share a plugin in one VM, and what it
// learned.
func TestPlaceholdersStayInside(t *testing.T) { eachModule(t, checkPlaceholders) }

func checkPlaceholders(t *testing.T, program, module string) {
	t.Helper()
	for tracer, other := range map[lab.Tracer]lab.Tracer{
		lab.Zipkin: lab.OpenTelemetry, lab.OpenTelemetry: lab.Zipkin,
	} {
		t.Run(string(tracer), func(t *testing.T) {
			m := startMesh(t, program, tracer, module, other)
			m.prove(t)
			names := alwaysWritten[tracer]
			for _, test := range []struct {
				listener, client string
				leading          []string // the names directly after host; nil: no trace header at all
			}{
				{"traced", "", names},
				{"unsampled", "", names},
				{"untraced-route", "", names},
				{"traced", "x-request-id: 1", names},
				{"untraced", "", nil},
				{"untraced", "x-request-id: 1", nil},
				{"untraced", "x-envoy-decorator-operation: mine", nil},
				{"untraced", "x-envoy-force-trace: true", nil},
				{"wrong", "", []string{"user-agent"}},
				{"traced", "sw8: 1", []string{"sw8", "user-agent"}},
			} {
				t.Run(test.listener+" "+test.client, func(t *testing.T) {
					for range 5 {
						m.check(t, test.listener, test.client, test.leading)
					}
				})
			}
			left, err := m.proxy.Counters(t.Context(), "layertrace_placeholders_left")
			if err != nil {
				t.Fatal(err)
			}
			if left != 0 {
				t.Errorf("the filter found %d remaining placeholders, want none", left)
			}
		})
	}
}

// mesh is an Envoy with its upstream.
type mesh struct {
	proxy    *Envoy
	upstream *Upstream
}

func startMesh(t *testing.T, program string, tracer lab.Tracer, module string, other lab.Tracer) *mesh {
	t.Helper()
	server, err := startUpstream()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	collector, err := startUpstream() // spans are ignored
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(collector.Close)
	filter := func(name string, tracer lab.Tracer) []Filter {
		return []Filter{{
			Name: name, Wasm: module,
			Configuration: fmt.Sprintf(`{"placement":"connection-manager","placeholders":%q}`, tracer),
		}}
	}
	p, err := startEnvoy(t.Context(), envoyConfig{
		Envoy: program, Dir: t.TempDir(), Tracer: tracer,
		InlineHeaders: slices.Concat(alwaysWritten[tracer], alwaysWritten[other]),
		Upstream:      server.Address(), Collector: collector.Address(),
		Listeners: []envoyListener{
			{Name: "traced", Downstream: filter(rightTracer, tracer)},
			{Name: "unsampled", Downstream: filter(rightTracer, tracer), Unsampled: true},
			{Name: "untraced-route", Downstream: filter(rightTracer, tracer), UntracedRoute: true},
			{Name: "untraced", Downstream: filter(rightTracer, tracer), NoTracer: true},
			{Name: "wrong", Downstream: filter(wrongTracer, other)},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return &mesh{p, server}
}

// prove sends requests until the filter sets placeholders: it learns of the tracer at
// the end of a request, a moment after the response.
func (m *mesh) prove(t *testing.T) {
	t.Helper()
	err := sandbox.Await(t.Context(), "the filter to set placeholders", time.Minute, 10*time.Millisecond, func(ctx context.Context) error {
		m.send(t, "traced", "")
		n, err := m.proxy.Counters(ctx, "layertrace_requests_with_placeholders")
		if err == nil && n == 0 {
			err = fmt.Errorf("no placeholders yet")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// check sends a request and checks the head that the upstream received.
func (m *mesh) check(t *testing.T, listener, client string, leading []string) {
	t.Helper()
	head := m.send(t, listener, client)
	var names []string
	for _, f := range head.Fields {
		names = append(names, f.Name)
		if strings.HasPrefix(f.Name, "x-b3-") && f.Name != "x-b3-sampled" && len(f.Value) < 16 ||
			f.Name == "traceparent" && len(f.Value) != 55 {
			t.Errorf("a placeholder: %s: %q", f.Name, f.Value)
		}
		if leading == nil && slices.Contains(slices.Concat(alwaysWritten[lab.Zipkin], alwaysWritten[lab.OpenTelemetry]), f.Name) {
			t.Errorf("a trace header where nothing is traced: %s: %q", f.Name, f.Value)
		}
	}
	if leading != nil && (len(names) <= len(leading) || !slices.Equal(names[1:1+len(leading)], leading)) {
		t.Errorf("headers %q, want %q after host", names, leading)
	}
	if n := len(slices.Compact(slices.Sorted(slices.Values(names)))); n != len(names) {
		t.Errorf("a header occurs twice: %q", names)
	}
}

// send sends a request with a header line, which may be empty, and returns the head
// that the upstream received.
func (m *mesh) send(t *testing.T, listener, client string) Head {
	t.Helper()
	address, err := m.proxy.Address(listener)
	if err != nil {
		t.Fatal(err)
	}
	if client != "" {
		client += "\r\n"
	}
	if err := sendRequest(t.Context(), address, "GET / HTTP/1.1\r\nhost: wire.test\r\nuser-agent: test\r\n"+client+"\r\n"); err != nil {
		t.Fatal(err)
	}
	heads := m.upstream.Take()
	if len(heads) != 1 {
		t.Fatalf("%d requests reached the upstream, want 1", len(heads))
	}
	return heads[0]
}
