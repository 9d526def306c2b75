// SPDX-License-Identifier: Apache-2.0

package tracestore

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/internal/observe"
)

// stored is the trace in testdata/jaeger.json.
const stored = "4bf92f3577b34da6a3ce929d0e0e4736"

func open(t *testing.T, respond http.HandlerFunc) Store {
	t.Helper()
	server := httptest.NewServer(respond)
	t.Cleanup(server.Close)
	source, err := Open(context.Background(), Address{Kind: Jaeger, URL: server.URL + "/", Flag: "--jaeger"}, server.Client())
	if err != nil {
		t.Fatal(err)
	}
	return source
}

func respondWith(code int, kind, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(code)
		_, _ = w.Write([]byte(body)) // a failed read fails the test
	}
}

func TestJaegerTrace(t *testing.T) {
	body, err := os.ReadFile("testdata/jaeger.json")
	if err != nil {
		t.Fatal(err)
	}
	var asked string
	source := open(t, func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
		respondWith(200, "application/json", string(body))(w, r)
	})
	id, err := ParseTraceID(stored)
	if err != nil {
		t.Fatal(err)
	}
	got, err := source.Trace(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	if want := "/api/traces/" + stored + "?raw=true"; asked != want {
		t.Errorf("asked for %s, want %s", asked, want)
	}
	checkStored(t, got)
}

// checkStored compares a trace with testdata/jaeger.json and testdata/otlp.jsonl.
func checkStored(t *testing.T, got Trace) {
	t.Helper()
	id, err := ParseTraceID(stored)
	if err != nil {
		t.Fatal(err)
	}
	client := trace.SpanID{0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7}
	want := Trace{ID: id, Spans: []span.Span{
		{ID: client, Name: "reviews.default.svc:9080/*", Service: "productpage", Kind: "client", Start: time.UnixMicro(1_700_000_000_000_100), Duration: 9 * time.Millisecond},
		{ID: client, Name: "reviews.default.svc:9080/*", Service: "reviews", Kind: "server", Start: time.UnixMicro(1_700_000_000_002_000), Duration: 5 * time.Millisecond},
	}}
	stored := vnicStored()
	stored.TraceID, stored.Parent, stored.Start = id, client, time.UnixMicro(1_700_000_000_001_000)
	s, err := span.Decode(&stored)
	if err != nil {
		t.Fatal(err)
	}
	s.Request.First, s.Request.Last = 9_007_199_254_740_993, 9_007_199_254_740_993
	s.Request.Bytes, s.Status = 431, 200
	s.Response.First, s.Response.Last, s.Response.Packets = s.Request.First+4_000_000, s.Request.First+4_000_000, 1
	want.Observations = []observe.Observation{s}
	utc := cmp.Transformer("UTC", func(at time.Time) time.Time { return at.UTC() })
	if diff := cmp.Diff(want, got, comparable, utc); diff != "" {
		t.Error(diff)
	}
}

func TestJaegerSearch(t *testing.T) {
	var asked map[string][]string
	source := open(t, func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Query()
		respondWith(200, "application/json", `{"data":[
			{"traceID":"1111111111111111","spans":[{"spanID":"1","operationName":"early","startTime":1,"processID":"p1"}],"processes":{}},
			{"traceID":"2222222222222222","spans":[{"spanID":"2","operationName":"late","startTime":2,"processID":"p1"}],"processes":{}},
			{"traceID":"3333333333333333","spans":[{"spanID":"3","operationName":"too early","startTime":0,"processID":"p1"}],"processes":{}}]}`)(w, r)
	})
	got, err := source.Search(context.Background(), Query{
		Service: "a&b", Operation: "GET /", From: time.UnixMicro(7), To: time.UnixMicro(8), Limit: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"service": {"a&b"}, "operation": {"GET /"}, "start": {"7"}, "end": {"8"}, "limit": {"2"}, "raw": {"true"}}
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Error(diff)
	}
	if len(got) != 2 || got[0].Spans[0].Name != "late" || got[1].Spans[0].Name != "early" {
		t.Errorf("got %+v", got)
	}
}

func TestJaegerErrors(t *testing.T) {
	const kind = "application/json"
	for _, test := range []struct {
		name    string
		respond http.HandlerFunc
		want    string
		unknown bool
	}{
		{"unknown trace", respondWith(404, kind, `{"data":null,"errors":[{"code":404,"msg":"trace not found"}]}`), "no such trace as " + stored, true},
		{"empty", respondWith(200, kind, `{"data":[]}`), "no such trace", true},
		{"another trace", respondWith(200, kind, `{"data":[{"traceID":"1111111111111111"}]}`), "no such trace", true},
		{"another server's 404", respondWith(404, "text/plain", "404 page not found"), "Correct --jaeger", false},
		{"a web page", respondWith(200, "text/html; charset=utf-8", "<html>"), "responds with a web page", false},
		{"refused", respondWith(400, kind, `{"errors":[{"code":400,"msg":"bad limit"}]}`), "refused: bad limit", false},
		{"failing", respondWith(502, "text/html", "<html>"), "502 Bad Gateway", false},
		{"truncated", respondWith(200, kind, `{"data":[{"traceID":`), "truncated", false},
		{"another API", respondWith(200, kind, `["data"]`), "something else", false},
		{"bad span ID", respondWith(200, kind, `{"data":[{"traceID":"1111111111111111","spans":[{"spanID":"x"}]}]}`), `span ID "x"`, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			id, _ := ParseTraceID(stored)
			_, err := open(t, test.respond).Trace(context.Background(), id)
			if err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, ErrNotFound) != test.unknown {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// An in-memory Jaeger refuses a limit above its size.
func TestJaegerRefusesTheLimit(t *testing.T) {
	source := open(t, respondWith(500, "application/json", `{"data":null,"errors":[{"code":500,"msg":"search depth must be less than max traces"}]}`))
	_, err := source.Search(context.Background(), Query{Service: "a", Limit: 500})
	if err == nil || !strings.Contains(err.Error(), "search depth") || !strings.Contains(err.Error(), "lower --limit") {
		t.Errorf("got %v", err)
	}
}

func TestJaegerOutOfReach(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close()
	source, err := Open(context.Background(), Address{Kind: Jaeger, URL: server.URL, Flag: "--jaeger"}, http.DefaultClient)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = source.Search(context.Background(), Query{}); err == nil || !strings.Contains(err.Error(), "cannot be reached") || !strings.Contains(err.Error(), "--jaeger") {
		t.Errorf("got %v", err)
	}
	for _, bad := range []string{"localhost:16686", "", "ftp://host", "http://"} {
		if _, err := Open(context.Background(), Address{Kind: Jaeger, URL: bad, Flag: "--jaeger"}, nil); err == nil || !strings.Contains(err.Error(), "--jaeger") {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}
