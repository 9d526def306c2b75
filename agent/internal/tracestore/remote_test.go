// SPDX-License-Identifier: Apache-2.0

package tracestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// recorded serves what a real store returned: a file for each path.
func recorded(t *testing.T, kind Kind, files map[string]string) (store Store, asked *[]*url.URL) {
	t.Helper()
	asked = &[]*url.URL{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = append(*asked, r.URL)
		name, ok := files[r.URL.Path]
		if !ok {
			http.Error(w, "no such thing", http.StatusNotFound)
			return
		}
		body, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body) // a failed read fails the test
	}))
	t.Cleanup(server.Close)
	store, err := Open(context.Background(), Address{Kind: kind, URL: server.URL + "/", Flag: "--url"}, server.Client())
	if err != nil {
		t.Fatal(err)
	}
	return store, asked
}

// zipkin.json, tempo.json and tempo-v1.json are what Zipkin 3.5.1 and Tempo 3.1 returned
// of otlp.jsonl, which a Collector had sent them.
func TestRecordedTraces(t *testing.T) {
	for _, test := range []struct {
		kind  Kind
		files map[string]string
	}{
		{Zipkin, map[string]string{"/api/v2/trace/" + stored: "zipkin.json"}},
		{Tempo, map[string]string{"/api/v2/traces/" + stored: "tempo.json"}},
		{Tempo, map[string]string{"/api/traces/" + stored: "tempo-v1.json"}}, // Tempo before 2.7
	} {
		t.Run(string(test.kind), func(t *testing.T) {
			store, _ := recorded(t, test.kind, test.files)
			id, err := ParseTraceID(stored)
			if err != nil {
				t.Fatal(err)
			}
			got, err := store.Trace(context.Background(), id)
			if err != nil {
				t.Fatal(err)
			}
			checkStored(t, got)
			if _, err := store.Trace(context.Background(), trace.TraceID{1}); !errors.Is(err, ErrNotFound) {
				t.Errorf("a trace that is not there: %v", err)
			}
		})
	}
}

func TestZipkinSearch(t *testing.T) {
	store, asked := recorded(t, Zipkin, map[string]string{"/api/v2/traces": "zipkin-search.json"})
	at := time.UnixMicro(1_700_000_000_000_100)
	for _, test := range []struct {
		from, to      time.Time
		end, lookback string
		want          int
	}{
		{at.Add(-time.Second), at, "1700000000001", "1001", 1},
		{at, at.Add(time.Second), "1700000001001", "1001", 1},
		{at.Add(time.Microsecond), at.Add(time.Second), "1700000001001", "1001", 0}, // in the same ms, but earlier
		{time.Time{}, at.Add(-time.Microsecond), "1700000000001", "1700000000001", 0},
	} {
		traces, err := store.Search(context.Background(), Query{Service: "reviews", Operation: "a&b", From: test.from, To: test.to, Limit: 7})
		if err != nil {
			t.Fatal(err)
		}
		if len(traces) != test.want {
			t.Errorf("%d traces from %v to %v, want %d", len(traces), test.from, test.to, test.want)
		}
		q := (*asked)[len(*asked)-1].Query()
		want := url.Values{"serviceName": {"reviews"}, "spanName": {"a&b"}, "endTs": {test.end}, "lookback": {test.lookback}, "limit": {"7"}}
		if q.Encode() != want.Encode() {
			t.Errorf("asked for %v, want %v", q, want)
		}
	}
}

func TestTempoSearch(t *testing.T) {
	store, asked := recorded(t, Tempo, map[string]string{"/api/search": "tempo-search.json", "/api/v2/traces/" + stored: "tempo.json"})
	at := time.UnixMicro(1_700_000_000_000_100)
	for _, test := range []struct {
		from, to time.Time
		want     int
	}{{at, at.Add(time.Second), 1}, {at.Add(time.Microsecond), at.Add(time.Second), 0}} {
		*asked = nil
		traces, err := store.Search(context.Background(), Query{Service: `a"b`, Operation: "GET /", From: test.from, To: test.to, Limit: 7})
		if err != nil {
			t.Fatal(err)
		}
		if len(traces) != test.want {
			t.Errorf("%d traces, want %d", len(traces), test.want)
		}
		want := url.Values{
			"q":     {`{ resource.service.name = "a\"b" && name = "GET /" } with (most_recent=true)`},
			"start": {"1700000000"}, "end": {"1700000002"}, "limit": {"7"}, "spss": {"1"},
		}
		if q := (*asked)[0].Query(); q.Encode() != want.Encode() {
			t.Errorf("asked for %v, want %v", q, want)
		}
	}
}

// If the limit is reached, all traces may begin after the end, in its second: those of the
// seconds before count as well. Each trace is read once.
func TestTempoSearchAtTheLimit(t *testing.T) {
	store, asked := recorded(t, Tempo, map[string]string{"/api/search": "tempo-search.json", "/api/v2/traces/" + stored: "tempo.json"})
	traces, err := store.Search(context.Background(), Query{Service: "a", To: time.Unix(1_700_000_000, 500_000), Limit: 1})
	if err != nil || len(traces) != 1 {
		t.Fatalf("%d traces, %v", len(traces), err)
	}
	var ends []string
	for _, u := range *asked {
		ends = append(ends, u.Query().Get("end"))
	}
	if want := []string{"1700000001", "1700000000", ""}; !slices.Equal(ends, want) {
		t.Errorf("asked until %q, want %q", ends, want)
	}
}

// Files that were saved from the UIs, or with curl from the APIs.
func TestSavedFiles(t *testing.T) {
	for _, name := range []string{"zipkin.json", "zipkin-search.json", "tempo.json", "tempo-v1.json"} {
		id, err := ParseTraceID(stored)
		if err != nil {
			t.Fatal(err)
		}
		got, err := NewFile("testdata/"+name).Trace(context.Background(), id)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		checkStored(t, got)
	}
}

// Zipkin has services in lower case. A tag keeps the name, and a service that is the node
// is it in any case.
func TestZipkinNames(t *testing.T) {
	for tags, want := range map[string]string{
		`{"layertrace.service.name":"MyShop"}`: "MyShop",
		`{"layertrace.service.name":"other"}`:  "myshop",
		`{"host.name":"MYSHOP"}`:               "MYSHOP",
		`{}`:                                   "myshop",
		`{"layertrace.service.name":"MyShop","host.name":"node"}`: "MyShop",
	} {
		text := `[{"traceId":"` + stored[16:] + `","id":"1","timestamp":1,"localEndpoint":{"serviceName":"myshop"},"tags":` + tags + `}]`
		id, _ := ParseTraceID(stored[16:]) // short
		got, err := NewReader("-", strings.NewReader(text)).Trace(context.Background(), id)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Spans) != 1 || got.Spans[0].Service != want {
			t.Errorf("%s: %+v, want %s", tags, got.Spans, want)
		}
	}
}

// A Collector makes lists text. The preliminary span is replaced, as from any store.
func TestZipkinReplacesStillOpen(t *testing.T) {
	const span = `{"traceId":"` + stored + `","id":"53995c3f42cd8ad8","parentId":"00f067aa0ba902b7","name":"x","timestamp":1,"duration":DURATION,"localEndpoint":{"serviceName":"reviews"},"tags":{
		"otel.library.name":"github.com/layertrace/layertrace","host.name":"node1","layertrace.capture_point.kind":"vnic","network.interface.name":"veth1",
		"layertrace.monotonic_ns":"9007199254740993","layertrace.direction":"ingress","client.address":"10.0.0.1","client.port":"40000",
		"server.address":"10.0.0.2","server.port":"9080","layertrace.flags":"[FLAGS]","service.namespace":"prod"}}`
	early := strings.NewReplacer("DURATION", "5", "FLAGS", `\"still_open\",\"interim\"`).Replace(span)
	whole := strings.NewReplacer("DURATION", "9", "FLAGS", `\"interim\"`).Replace(span)
	id, _ := ParseTraceID(stored)
	for _, order := range []string{early + "," + whole, whole + "," + early} {
		got, err := NewReader("-", strings.NewReader("["+order+"]")).Trace(context.Background(), id)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Observations) != 1 || got.Replaced != 1 || len(got.Unreadable) != 0 || !slices.Equal(got.Observations[0].Flags.Names(), []string{"interim"}) {
			t.Errorf("%+v", got)
		} else if w := got.Observations[0].Point.Workload; w.Namespace != "prod" || w.Service != "reviews" {
			t.Errorf("workload %+v", w)
		}
	}
}

func TestTempoPartial(t *testing.T) {
	whole, err := os.ReadFile("testdata/tempo.json")
	if err != nil {
		t.Fatal(err)
	}
	part := strings.TrimSuffix(strings.TrimSpace(string(whole)), "}") + `,"status":"PARTIAL","message":"too large"}`
	server := httptest.NewServer(respondWith(200, "application/json", part))
	defer server.Close()
	store, err := Open(context.Background(), Address{Kind: Tempo, URL: server.URL}, server.Client())
	if err != nil {
		t.Fatal(err)
	}
	id, _ := ParseTraceID(stored)
	if got, err := store.Trace(context.Background(), id); err != nil || got.Partial != "too large" {
		t.Errorf("partial %q, %v", got.Partial, err)
	}
	if _, err := NewReader("-", strings.NewReader(part)).Trace(context.Background(), id); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("a file: %v", err)
	}
}

func TestDetect(t *testing.T) {
	const kind = "application/json"
	page := respondWith(200, "text/html", "<html>")
	for _, test := range []struct {
		name string
		at   map[string]http.HandlerFunc
		want Kind
		err  string
	}{
		{"Jaeger, whose UI responds to any path", map[string]http.HandlerFunc{"/api/services": respondWith(200, kind, `{"data":["a"],"total":1}`), "/": page}, Jaeger, ""},
		{"Jaeger, empty", map[string]http.HandlerFunc{"/api/services": respondWith(200, kind, `{"data":[],"total":0}`)}, Jaeger, ""},
		{"Zipkin", map[string]http.HandlerFunc{"/api/v2/services": respondWith(200, kind, `[]`)}, Zipkin, ""},
		{"Tempo", map[string]http.HandlerFunc{"/api/echo": respondWith(200, "text/plain", "echo")}, Tempo, ""},
		{"a web server", map[string]http.HandlerFunc{"/": page}, "", "/api/echo: a web page"},
		{"nothing there", nil, "", "neither Jaeger nor Zipkin nor Tempo (/api/services: 404 Not Found"},
		{"refused", map[string]http.HandlerFunc{"/": respondWith(401, "text/plain", "")}, "", "401 Unauthorized"},
	} {
		t.Run(test.name, func(t *testing.T) {
			mux := http.NewServeMux()
			for path, handler := range test.at {
				mux.Handle(path, handler)
			}
			server := httptest.NewServer(mux)
			defer server.Close()
			store, err := Open(context.Background(), Address{Kind: Auto, URL: server.URL, Flag: "--url"}, server.Client())
			if test.want == "" {
				if err == nil || !strings.Contains(err.Error(), test.err) || !strings.Contains(err.Error(), "--url") {
					t.Errorf("got %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]Kind{"*tracestore.jaeger": Jaeger, "*tracestore.zipkin": Zipkin, "*tracestore.tempo": Tempo}[fmt.Sprintf("%T", store)]
			if got != test.want {
				t.Errorf("got %T, want %s", store, test.want)
			}
		})
	}
}

func TestStoreErrors(t *testing.T) {
	const kind = "application/json"
	for _, test := range []struct {
		name    string
		kind    Kind
		respond http.HandlerFunc
		want    string
		unknown bool
	}{
		{"unknown trace", Zipkin, respondWith(404, kind, "trace not found"), "no such trace as " + stored, true},
		{"unknown trace", Tempo, respondWith(404, "text/plain", ""), "no such trace as " + stored, true},
		{"empty", Zipkin, respondWith(200, kind, `[]`), "no such trace", true},
		{"empty", Tempo, respondWith(200, kind, `{"trace":{}}`), "no such trace", true},
		{"another trace", Zipkin, respondWith(200, kind, `[{"traceId":"1111111111111111","id":"1"}]`), "no such trace", true},
		{"a web page", Zipkin, respondWith(200, "text/html; charset=utf-8", "<html>"), "responds with a web page", false},
		{"a web page", Tempo, respondWith(200, "text/html; charset=utf-8", "<html>"), "responds with a web page", false},
		{"refused", Tempo, respondWith(400, "text/plain", "invalid TraceQL query"), "refused: invalid TraceQL query", false},
		{"failing", Zipkin, respondWith(502, "text/html", "<html>"), "502 Bad Gateway", false},
		{"truncated", Zipkin, respondWith(200, kind, `[{"traceId":`), "truncated", false},
		{"another API", Zipkin, respondWith(200, kind, `{"data":[]}`), "something else", false},
		{"another API", Tempo, respondWith(200, kind, `["data"]`), "not Tempo's JSON", false},
		{"bad span ID", Zipkin, respondWith(200, kind, `[{"traceId":"1111111111111111","id":"x"}]`), `span ID "x"`, false},
	} {
		t.Run(fmt.Sprint(test.kind, " ", test.name), func(t *testing.T) {
			server := httptest.NewServer(test.respond)
			defer server.Close()
			store, err := Open(context.Background(), Address{Kind: test.kind, URL: server.URL, Flag: "--url"}, server.Client())
			if err != nil {
				t.Fatal(err)
			}
			id, _ := ParseTraceID(stored)
			_, err = store.Trace(context.Background(), id)
			if err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, ErrNotFound) != test.unknown {
				t.Errorf("got %v, want %q", err, test.want)
			}
			server.Close()
			if _, err := store.Search(context.Background(), Query{}); err == nil || !strings.Contains(err.Error(), "cannot be reached") || !strings.Contains(err.Error(), "--url") {
				t.Errorf("out of reach: %v", err)
			}
		})
	}
	for _, kind := range []Kind{Zipkin, Tempo} {
		store, _ := recorded(t, kind, nil)
		if _, err := store.Search(context.Background(), Query{}); err == nil || !strings.Contains(err.Error(), "404 to a search: is this the address of "+kind.product()+"? Correct --url") {
			t.Errorf("a search of %s: %v", kind, err)
		}
	}
	if _, err := Open(context.Background(), Address{Kind: "mysql", URL: "http://localhost"}, nil); err == nil || !strings.Contains(err.Error(), "auto, jaeger, zipkin, tempo") {
		t.Errorf("an unknown kind: %v", err)
	}
}

// A response without end is refused: whoever answers at the address could fill the memory.
func TestResponseWithoutEnd(t *testing.T) {
	body := &bounded{ReadCloser: io.NopCloser(strings.NewReader(strings.Repeat("x", 100))), left: 60}
	if n, err := io.Copy(io.Discard, body); n != 60 || !errors.Is(err, errTooLarge) {
		t.Errorf("%d bytes, %v", n, err)
	}
	chunk := []byte(strings.Repeat(" ", 1<<16))
	source := open(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	source.(*jaeger).most = 1 << 20
	_, err := source.Trace(t.Context(), trace.TraceID{1})
	if !errors.Is(err, errTooLarge) {
		t.Errorf("%v", err)
	}
}
