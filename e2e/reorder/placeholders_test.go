// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// written is what a tracer always writes to a request, in its order.
var alwaysWritten = map[lab.Tracer][]string{
	lab.Zipkin:        {"x-b3-traceid", "x-b3-spanid", "x-b3-sampled"},
	lab.OpenTelemetry: {"traceparent", "tracestate"},
}

const (
	rightTracer = "right" // the filter configured for the tracer that is there
	wrongTracer = "wrong" // the filter configured for the other one
)

// TestPlaceholdersStayInside proves the tracer in one listener, and then sends
// requests that begin a trace through all of them: traced or not, with the right
// and the wrong tracer, with what a client can send to look traced. All
// listeners with the right filter share one plugin in one VM, and its proof.
func TestPlaceholdersStayInside(t *testing.T) {
	program, err := provision.Envoy(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	module := filepath.Join(t.TempDir(), "layertrace.wasm")
	if text, err := exec.Command("go", "run", "../../wasm-filter/build", "-o", module).CombinedOutput(); err != nil {
		t.Fatalf("build the module: %v\n%s", err, text)
	}
	for tracer, other := range map[lab.Tracer]lab.Tracer{
		lab.Zipkin: lab.OpenTelemetry, lab.OpenTelemetry: lab.Zipkin,
	} {
		t.Run(string(tracer), func(t *testing.T) {
			m := startMesh(t, program, tracer, module, other)
			m.prove(t)
			names := alwaysWritten[tracer]
			for _, test := range []struct {
				listener, client string
				front            []string // the names right behind host; nil: no trace header at all
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
						m.check(t, test.listener, test.client, test.front)
					}
				})
			}
			left, err := m.proxy.Counters(t.Context(), "layertrace_placeholders_left")
			if err != nil {
				t.Fatal(err)
			}
			if left != 0 {
				t.Errorf("the filter found %d placeholders that were left, want none", left)
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
	server, err := StartUpstream()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	collector, err := StartUpstream() // spans are not looked at
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
	p, err := StartEnvoy(t.Context(), EnvoyConfig{
		Envoy: program, Dir: t.TempDir(), Tracer: tracer,
		InlineHeaders: slices.Concat(alwaysWritten[tracer], alwaysWritten[other]),
		Upstream:      server.Address(), Collector: collector.Address(),
		Listeners: []Listener{
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

// prove sends requests until the filter sets placeholders: it learns of the
// tracer at the end of a request, a moment after the answer.
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

// check sends a request and looks at what the upstream got.
func (m *mesh) check(t *testing.T, listener, client string, front []string) {
	t.Helper()
	head := m.send(t, listener, client)
	var names []string
	for _, f := range head.Fields {
		names = append(names, f.Name)
		if strings.HasPrefix(f.Name, "x-b3-") && f.Name != "x-b3-sampled" && len(f.Value) < 16 ||
			f.Name == "traceparent" && len(f.Value) != 55 {
			t.Errorf("a placeholder: %s: %q", f.Name, f.Value)
		}
		if front == nil && slices.Contains(slices.Concat(alwaysWritten[lab.Zipkin], alwaysWritten[lab.OpenTelemetry]), f.Name) {
			t.Errorf("a trace header where nothing is traced: %s: %q", f.Name, f.Value)
		}
	}
	if front != nil && (len(names) <= len(front) || !slices.Equal(names[1:1+len(front)], front)) {
		t.Errorf("headers %q, want %q behind host", names, front)
	}
	if n := len(slices.Compact(slices.Sorted(slices.Values(names)))); n != len(names) {
		t.Errorf("a header came twice: %q", names)
	}
}

// send sends a request with a line of headers (may be empty) and returns what
// the upstream got.
func (m *mesh) send(t *testing.T, listener, client string) Head {
	t.Helper()
	address, err := m.proxy.Address(listener)
	if err != nil {
		t.Fatal(err)
	}
	if client != "" {
		client += "\r\n"
	}
	if err := sendRaw(address, "GET / HTTP/1.1\r\nhost: wire.test\r\nuser-agent: test\r\n"+client+"\r\n"); err != nil {
		t.Fatal(err)
	}
	heads := m.upstream.Take()
	if len(heads) != 1 {
		t.Fatalf("%d requests came to the upstream, want 1", len(heads))
	}
	return heads[0]
}

// exchange sends a request and fails unless the answer is 200.
func sendRaw(to netip.AddrPort, request string) error {
	conn, err := net.Dial("tcp", to.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte(request)); err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("answer of Envoy: %s", answer.Status)
	}
	return nil
}
