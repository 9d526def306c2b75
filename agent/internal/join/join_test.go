// SPDX-License-Identifier: Apache-2.0

package join

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/pflag"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/export"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/internal/doctable"
	"github.com/layertrace/layertrace/internal/testkit"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// running is a join that sends to a receiver.
type running struct {
	receiver            testkit.Receiver
	grpc, http, metrics string
	stop                func()
}

func startJoin(t *testing.T, flags ...string) *running {
	t.Helper()
	r := &running{grpc: testkit.FreeAddress(t), http: testkit.FreeAddress(t), metrics: testkit.FreeAddress(t)}
	to := r.receiver.Serve(t, "127.0.0.1:0")
	fs := pflag.NewFlagSet("join", pflag.ContinueOnError)
	cfg := config.DefineJoin(fs)
	args := append([]string{
		"--listen", r.grpc, "--listen-http", r.http, "--metrics-address", r.metrics,
		"--otlp-endpoint", to, "--otlp-insecure", "--wait=500ms", "--sighting-wait=2s", "--shutdown-timeout=5s",
	}, flags...)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, Options{Config: cfg, Log: quiet, Version: "v1"}) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(r.stop)
	testkit.Eventually(t, "join is ready", func() bool {
		response, err := http.Get("http://" + r.metrics + "/readyz")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	return r
}

// send sends an exchange of two agents and the sightings of a device, as these would.
func (r *running) send(t *testing.T, w *world) {
	t.Helper()
	client, err := export.NewClient(t.Context(), export.OTLPOptions{Endpoint: r.grpc, Insecure: true, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	queue := export.NewQueue(client, 1000, quiet)
	emitter := span.NewEmitter(span.Options{Sink: queue, Offset: func() span.ClockOffset { return 1e18 }})
	for _, s := range w.sightings() {
		emitter.EmitSighting(s)
	}
	emitter.Emit(w.client())
	emitter.Emit(w.server())
	if err := queue.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// names returns how many spans of each name the receiver has, and checks their trace.
func (r *running) names(t *testing.T, w *world) map[string]int {
	t.Helper()
	names := map[string]int{}
	for _, s := range r.receiver.Spans() {
		names[s.GetName()]++
		context := w.client().Context
		if got := hex.EncodeToString(s.GetTraceId()); got != context.TraceID.String() {
			t.Errorf("span %s in trace %s, want %v", s.GetName(), got, context.TraceID)
		}
		if got := hex.EncodeToString(s.GetParentSpanId()); got != context.SpanID.String() {
			t.Errorf("span %s below %s, want %v", s.GetName(), got, context.SpanID)
		}
	}
	return names
}

// TestRun: spans and sightings over OTLP become spans of the device, in the trace. Agents'
// spans go on with --forward only; sightings never do.
func TestRun(t *testing.T) {
	for _, forward := range []bool{false, true} {
		t.Run(fmt.Sprint("forward=", forward), func(t *testing.T) {
			r := startJoin(t, fmt.Sprint("--forward=", forward))
			w := newWorld(3)
			r.send(t, w)
			want := map[string]int{"router1_a": 1, "router1_b": 1}
			if forward {
				want["node2_eth0"], want["node3_eth0"] = 1, 1
			}
			testkit.Eventually(t, "the spans are there", func() bool { return len(r.receiver.Spans()) >= len(want) })
			r.stop()
			if got := r.names(t, w); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("spans %v, want %v", got, want)
			}
		})
	}
}

// TestIDInTheResource: a Collector that groups spans by connection moves the ID from the spans
// to the resource, which is then one for each connection.
func TestIDInTheResource(t *testing.T) {
	r := startJoin(t)
	var mu sync.Mutex
	var sent []*tracepb.ResourceSpans
	collector := &receiver{take: func(_ context.Context, resources []*tracepb.ResourceSpans) error {
		mu.Lock()
		defer mu.Unlock()
		sent = append(sent, resources...)
		return nil
	}}
	direct := r.grpc
	r.grpc = testkit.FreeAddress(t)
	serve, err := collector.listen(r.grpc, "", quiet)
	if err != nil {
		t.Fatal(err)
	}
	serve()
	w := newWorld(3)
	r.send(t, w)
	if err := collector.close(t.Context()); err != nil {
		t.Fatal(err)
	}
	moved := 0
	for _, resource := range sent {
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				s.Attributes = slices.DeleteFunc(s.Attributes, func(kv *commonpb.KeyValue) bool {
					if kv.GetKey() != span.KeyConnectionID {
						return false
					}
					moved++
					if !slices.ContainsFunc(resource.Resource.Attributes, func(other *commonpb.KeyValue) bool { return other.GetKey() == kv.GetKey() }) {
						resource.Resource.Attributes = append(resource.Resource.Attributes, kv)
					}
					return true
				})
			}
		}
	}
	if moved != 6 {
		t.Fatalf("%d IDs moved, want 6", moved)
	}
	client, err := export.NewClient(t.Context(), export.OTLPOptions{Endpoint: direct, Insecure: true, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.UploadTraces(t.Context(), sent); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the spans are there", func() bool { return len(r.receiver.Spans()) >= 2 })
	r.stop()
	if got := r.names(t, w); got["router1_a"] != 1 || got["router1_b"] != 1 {
		t.Errorf("spans %v", got)
	}
}

// TestStopJoinsWhatIsThere: at the end nothing waits any longer.
func TestStopJoinsWhatIsThere(t *testing.T) {
	r := startJoin(t, "--wait=1h", "--sighting-wait=1h")
	w := newWorld(3)
	r.send(t, w)
	r.stop()
	if got := r.names(t, w); got["router1_a"] != 1 || got["router1_b"] != 1 {
		t.Errorf("spans %v", got)
	}
}

// TestForwardRefuses: while the receiver refuses, join refuses as well, and the sender keeps
// the spans. The next attempt brings all of them, once.
func TestForwardRefuses(t *testing.T) {
	r := startJoin(t, "--forward")
	refuse := true
	r.receiver.Respond = func(context.Context) (*coltracepb.ExportTraceServiceResponse, error) {
		if refuse {
			refuse = false
			return nil, status.Error(codes.InvalidArgument, "not now")
		}
		return nil, nil
	}
	w := newWorld(3)
	r.send(t, w)
	testkit.Eventually(t, "the spans are there", func() bool { return len(r.receiver.Spans()) >= 4 })
	r.stop()
	if got := r.names(t, w); got["node2_eth0"] != 1 || got["router1_a"] != 1 {
		t.Errorf("spans %v", got)
	}
}

// TestHTTP: OTLP over HTTP, plain and compressed; anything else is refused, and counted where
// it is a span that cannot be read.
func TestHTTP(t *testing.T) {
	r := startJoin(t)
	post := func(body []byte, header map[string]string) int {
		request, err := http.NewRequest(http.MethodPost, "http://"+r.http+"/v1/traces", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range header {
			request.Header.Set(k, v)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	request := &coltracepb.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{{ScopeSpans: []*tracepb.ScopeSpans{{
		Spans: []*tracepb.Span{{Name: "of another program"}},
	}}}}}
	request.ResourceSpans[0].ScopeSpans = append(request.ResourceSpans[0].ScopeSpans, scopeOf(span.SightingScopeName))
	body, err := proto.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	const protobuf = "application/x-protobuf"
	for _, test := range []struct {
		name   string
		body   []byte
		header map[string]string
		want   int
	}{
		{"plain", body, map[string]string{"Content-Type": protobuf}, http.StatusOK},
		{"compressed", zipped.Bytes(), map[string]string{"Content-Type": protobuf, "Content-Encoding": "gzip"}, http.StatusOK},
		{"JSON", []byte("{}"), map[string]string{"Content-Type": "application/json"}, http.StatusBadRequest},
		{"another compression", body, map[string]string{"Content-Type": protobuf, "Content-Encoding": "zstd"}, http.StatusBadRequest},
		{"not protobuf", []byte("\xff\xff"), map[string]string{"Content-Type": protobuf}, http.StatusBadRequest},
		{"too long", make([]byte, maxRequest+1), map[string]string{"Content-Type": protobuf}, http.StatusBadRequest},
	} {
		if got := post(test.body, test.header); got != test.want {
			t.Errorf("%s: status %d, want %d", test.name, got, test.want)
		}
	}
	response, err := http.Get("http://" + r.metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "layertrace_join_unreadable_total 2") {
		t.Error("two sightings without anything were not counted as unreadable")
	}
}

func scopeOf(name string) *tracepb.ScopeSpans {
	s := &tracepb.ScopeSpans{Spans: []*tracepb.Span{{Name: "sighting"}}}
	s.Scope = &commonpb.InstrumentationScope{Name: name}
	return s
}

// The table of docs/devices.md is generated from the registered metrics.
func TestDocumentationListsAllMetrics(t *testing.T) {
	families, err := ExampleMetrics().Gather()
	if err != nil {
		t.Fatal(err)
	}
	table := doctable.New("metric", "type", "labels", "what")
	for _, f := range families {
		labels := ""
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = "`" + l.GetName() + "`"
		}
		table.Row("`"+f.GetName()+"`", strings.ToLower(f.GetType().String()), labels, f.GetHelp())
	}
	doctable.Check(t, "../../../docs/devices.md", map[string]*doctable.Table{"join": table})
}
