// SPDX-License-Identifier: Apache-2.0

package stores

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/faults/matrix"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/sandbox"
	"github.com/layertrace/layertrace/e2e/testrun"
)

var tempoProgram = flag.String("tempo", "", "test Tempo too, with this program of Grafana Tempo")

// jsonPort is where the test itself takes OTLP JSON from the Collector.
const jsonPort = 4399

// One run of the mesh, whose spans a real Collector sends to all stores: explain, which is
// given nothing but the address or the file, reports the same of a slow request and of its
// hops from each of them.
func TestSameReportFromEveryStore(t *testing.T) {
	testrun.Needs(t, "the lab")
	ctx := t.Context()
	tools, err := provision.Tools(ctx, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	collector, err := provision.Collector(ctx, testrun.Checkout(t), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.Up(ctx, lab.Options{Name: "stores", Dir: testrun.Out(t, "stores-lab"), Tools: tools, Progress: testrun.Report})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	file := filepath.Join(testrun.Out(t, "stores-lab"), "spans.jsonl")
	sources := map[string][]string{"Jaeger": {"--url", lab.JaegerURL()}, "OTLP file": {"--file", file}}
	to := lab.Destinations{JSON: serveJSON(t, l, file)}
	if *withZipkin {
		jar, err := provision.Zipkin(ctx, t.Logf)
		if err == nil {
			_, err = l.StartZipkin(ctx, jar)
		}
		if err != nil {
			t.Fatal(err)
		}
		to.Zipkin = lab.ZipkinReceiver()
		sources["Zipkin"] = []string{"--url", lab.URL(lab.ZipkinPort)}
		sources["Zipkin, by its UI's address"] = []string{"--url", lab.URL(lab.ZipkinPort) + "/zipkin/"}
	}
	if *tempoProgram != "" {
		if _, err := l.StartTempo(ctx, *tempoProgram); err != nil {
			t.Fatal(err)
		}
		to.Tempo = lab.TempoReceiver()
		sources["Tempo"] = []string{"--url", lab.URL(lab.TempoPort)}
	}
	if err := l.StartCollector(ctx, collector, to); err != nil {
		t.Fatal(err)
	}
	for _, tracer := range []lab.Tracer{lab.Zipkin, lab.OpenTelemetry} {
		t.Run(string(tracer), func(t *testing.T) {
			slow := slowRequest(t, l, tracer)
			want := explain(t, l, "Jaeger", sources["Jaeger"], slow.TraceID, func(r report) error {
				if n, _ := r.Baseline["traces"].(float64); n < 20 {
					return fmt.Errorf("a baseline of %v traces: %s", n, strings.Join(r.Notes, "; "))
				}
				return nil
			})
			if v := want.Verdict; v["layer"] != "relay-network" || v["location"] != "node4-node3" && v["location"] != "node3-node4" {
				t.Fatalf("Jaeger: the verdict is %v, the fault is in the network between node3 and node4", v)
			}
			for name, source := range sources {
				explain(t, l, name, source, slow.TraceID, want.differsFrom)
			}
		})
	}
}

// serveJSON appends what a Collector sends as OTLP JSON to a file, as its file exporter
// does. It returns the URL.
func serveJSON(t *testing.T, l *lab.Lab, file string) string {
	t.Helper()
	listener, err := l.InfraNamespace().Listen(fmt.Sprintf("%s:%d", lab.InfraIP, jsonPort))
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			_, err = out.Write(append(body, '\n')) // one write for each request
		}
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}") // the Collector has gone
	})}
	go func() { _ = server.Serve(listener) }() // ends with Close
	t.Cleanup(func() {
		if err := errors.Join(server.Close(), out.Close()); err != nil {
			t.Error(err)
		}
	})
	return lab.URL(jsonPort) + "/v1/traces"
}

// slowRequest makes a request slow in a mesh, and waits until all stores have its spans.
func slowRequest(t *testing.T, l *lab.Lab, tracer lab.Tracer) (slow faults.Injection) {
	t.Helper()
	variant, err := matrix.ParseVariant("default")
	if err != nil {
		t.Fatal(err)
	}
	setup := variant.Setup(l, tracer)
	setup.Name, setup.Collector = "stores-"+string(tracer), true
	one := faults.Case{Kind: faults.RelayDelay, FromNode: 3, ToNode: 4, Magnitude: 100 * time.Millisecond, Version: "reviews-v2"}
	err = variant.WithSession(t.Context(), l, tracer, setup, func(s *faults.Session) (err error) {
		if err := s.Plain(t.Context(), faults.Traffic{}, 30); err != nil {
			return err
		}
		for range 5 {
			slow, err = s.Make(t.Context(), one)
			if !faults.Useless(err) {
				break
			}
		}
		if err != nil {
			return err
		}
		// Envoys that end do not send the spans that they still have.
		return l.Jaeger.AwaitSpans(t.Context(), []string{slow.TraceID})
	})
	if err != nil {
		t.Fatal(err)
	}
	return slow
}

// report is explain's JSON. What stores round or change is left out: starts, and names of
// operations, which Zipkin has in lower case.
type report struct {
	TraceID  string           `json:"trace_id"`
	Service  string           `json:"service"`
	Total    float64          `json:"total_ns"`
	Rest     float64          `json:"unattributed_ns"`
	Verdict  map[string]any   `json:"verdict"`
	Layers   []map[string]any `json:"layers"`
	Hops     []map[string]any `json:"hops"`
	Baseline map[string]any   `json:"baseline"`
	Notes    []string         `json:"notes"`
}

// explain returns the report from a source. Spans may be on their way: it waits until
// nothing is wrong with the report.
func explain(t *testing.T, l *lab.Lab, name string, source []string, traceID string, wrong func(report) error) (r report) {
	t.Helper()
	what := "the right report from " + name
	err := sandbox.Await(t.Context(), what, 30*time.Second, 300*time.Millisecond, func(ctx context.Context) error {
		out, err := l.Layertrace(ctx, slices.Concat([]string{"explain", "--json"}, source, []string{traceID})...)
		if err != nil {
			return err
		}
		r = report{}
		if err := json.Unmarshal(out, &r); err != nil {
			return err
		}
		r.leaveOutStarts()
		return wrong(r)
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// leaveOutStarts removes times of the day, which stores round.
func (r report) leaveOutStarts() {
	for _, h := range r.Hops {
		delete(h, "start_ns")
		segments, _ := h["segments"].([]any)
		for _, s := range segments {
			segment, _ := s.(map[string]any)
			delete(segment, "start_ns")
			delete(segment, "response_start_ns")
		}
	}
}

// differsFrom returns the first difference, nil if there is none.
func (r report) differsFrom(other report) error {
	a, b := reflect.ValueOf(r), reflect.ValueOf(other)
	for i := range a.NumField() {
		if x, y := a.Field(i).Interface(), b.Field(i).Interface(); !reflect.DeepEqual(x, y) {
			return errors.New("not that from Jaeger: " + cmp.Or(firstDifference(x, y), fmt.Sprintf("%s: %v and %v", a.Type().Field(i).Name, x, y)))
		}
	}
	return nil
}

func firstDifference(x, y any) string {
	a, okA := x.([]map[string]any)
	b, okB := y.([]map[string]any)
	if !okA || !okB || len(a) != len(b) {
		return ""
	}
	for i := range a {
		for key := range a[i] {
			if !reflect.DeepEqual(a[i][key], b[i][key]) {
				return fmt.Sprintf("%s of number %d: %v and %v", key, i, a[i][key], b[i][key])
			}
		}
	}
	return ""
}

// The configuration that docs/zipkin.md shows is one that the Collector accepts.
func TestDocumentedCollectorConfiguration(t *testing.T) {
	testrun.Needs(t, "building the Collector")
	checkout := testrun.Checkout(t)
	program, err := provision.Collector(t.Context(), checkout, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(checkout, "docs", "zipkin.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "```yaml\n")
	config, _, found := strings.Cut(block, "```")
	if !found {
		t.Fatal("docs/zipkin.md has no block of YAML")
	}
	file := filepath.Join(t.TempDir(), "collector.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), program, "validate", "--config", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
