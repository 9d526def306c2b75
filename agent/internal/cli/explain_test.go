// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
)

const explained = "00000000000000000000000000000001"

// fakeJaeger has traces 1 and 2, and its searches find 1 to 4, of which 4 has another
// root operation.
func fakeJaeger(t *testing.T) (address string, searches *[]url.Values) {
	t.Helper()
	traceOf := func(n int, operation string) string {
		return fmt.Sprintf(`{"traceID":"%032d","spans":[{"spanID":"%016d","operationName":%q,"startTime":%d,"duration":5,"processID":"p"}],"processes":{"p":{"serviceName":"gateway"}}}`,
			n, n, operation, 1_700_000_000_000_000+n)
	}
	searches = &[]url.Values{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var found []string
		switch r.URL.Path {
		case "/api/traces/" + explained:
			found = []string{traceOf(1, "GET /")}
		case "/api/traces/" + explained[:31] + "2":
			found = []string{traceOf(2, "GET /")}
		case "/api/traces":
			*searches = append(*searches, r.URL.Query())
			if r.URL.Query().Get("service") == "gateway" {
				found = []string{traceOf(1, "GET /"), traceOf(2, "GET /"), traceOf(3, "GET /"), traceOf(4, "POST /")}
			}
		default:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"errors":[{"code":404,"msg":"trace not found"}]}`)
			return
		}
		fmt.Fprintf(w, `{"data":[%s]}`, strings.Join(found, ","))
	}))
	t.Cleanup(server.Close)
	return server.URL, searches
}

type report struct {
	TraceID   string `json:"trace_id"`
	Operation string `json:"operation"`
	Notes     []string
}

func readReports(t *testing.T, text string) []report {
	t.Helper()
	var all []report
	for line := range strings.Lines(text) {
		var r report
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, r)
	}
	return all
}

// Traces with the same root operation share one baseline, which excludes them.
func TestExplain(t *testing.T) {
	address, searches := fakeJaeger(t)
	code, stdout, stderr := runHere(t, "explain", "--json", "--jaeger", address, explained, "0000000000000002", explained)
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	all := readReports(t, stdout)
	if len(all) != 2 || all[0].TraceID != explained || all[0].Operation != "GET /" {
		t.Errorf("reports %+v", all)
	}
	if len(*searches) != 2 { // before, and as there are too few, after
		t.Fatalf("%d searches", len(*searches))
	}
	// Three times the baseline, since not all of it is alike, and three for each explained trace.
	const minutes15 = 15 * 60 * 1_000_000
	for i, want := range []map[string]int{
		{"start": 1_700_000_000_000_001 - minutes15, "end": 1_700_000_000_000_002, "limit": 306},
		{"start": 1_700_000_000_000_002, "end": 1_700_000_000_000_002 + minutes15, "limit": 306},
	} {
		q := (*searches)[i]
		if q.Get("service") != "gateway" || q.Get("operation") != "GET /" {
			t.Errorf("searched %v", q)
		}
		for key, value := range want {
			if got := q.Get(key); got != fmt.Sprint(value) {
				t.Errorf("search %d: %s is %s, want %d", i, key, got, value)
			}
		}
	}
}

func TestExplainWithoutBaseline(t *testing.T) {
	address, searches := fakeJaeger(t)
	t.Setenv(jaegerVariable, address)
	code, stdout, stderr := runHere(t, "explain", "--baseline=0", explained)
	if code != 0 || stderr != "" || !strings.HasPrefix(stdout, "VERDICT") || strings.Contains(stdout, "\x1b") {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	if len(*searches) != 0 {
		t.Errorf("%d searches", len(*searches))
	}
}

func TestExplainFromAFileToAPage(t *testing.T) {
	const traces = "../tracestore/testdata/otlp.jsonl"
	const id = "4BF92F3577B34DA6A3CE929D0E0E4736"
	page := filepath.Join(t.TempDir(), "page.html")
	code, stdout, stderr := runHere(t, "explain", "--file", traces, "--html", page, id)
	if code != 0 || stderr != "" || !strings.HasPrefix(stdout, "VERDICT") {
		t.Fatalf("exit code %d: %s%s", code, stdout, stderr)
	}
	written, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr = runHere(t, "explain", "--file", traces, "--html=-", id)
	if code != 0 || stderr != "" || stdout != string(written) || !strings.HasPrefix(stdout, "<!DOCTYPE html>") {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
}

func TestExplainCompares(t *testing.T) {
	address, searches := fakeJaeger(t)
	code, stdout, stderr := runHere(t, "explain", "--jaeger", address, "--service=gateway", "--operation=GET /", "--limit=7", "--json")
	if code != 0 || stderr != "" || !strings.Contains(stdout, `"service":"gateway"`) || !strings.Contains(stdout, `"traces":4`) {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	if q := (*searches)[0]; q.Get("operation") != "GET /" || q.Get("limit") != "7" || q.Get("start") == "" || q.Get("end") == "" {
		t.Errorf("searched %v", q)
	}
}

// Each error is one line with advice.
func TestExplainRefuses(t *testing.T) {
	address, _ := fakeJaeger(t)
	t.Setenv(jaegerVariable, address)
	unknown := strings.Repeat("f", 32)
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "give the ID of a trace"},
		{[]string{"4bf9"}, "32 hex digits"},
		{[]string{unknown}, "no such trace as " + unknown},
		{[]string{explained, "--service=gateway"}, "either trace IDs or --service"},
		{[]string{"--service="}, "--service is empty"},
		{[]string{"--service=nobody"}, "correct --service"},
		{[]string{"--service=gateway", "--baseline=3"}, "--baseline applies to trace IDs"},
		{[]string{explained, "--last=3m"}, "--last requires --service"},
		{[]string{explained, "--file=x", "--jaeger=y"}, "either --file or --url"},
		{[]string{explained, "--file=x", "--store=zipkin"}, "either --file or --url"},
		{[]string{explained, "--url=x", "--jaeger=y"}, "either --jaeger or --url"},
		{[]string{explained, "--store=mysql"}, "auto, jaeger, zipkin or tempo"},
		{[]string{explained, "--file=nosuch.json"}, "correct --file"},
		{[]string{explained, "--jaeger=localhost:16686"}, "http://HOST:16686"},
		{[]string{explained, "--json", "--html=-"}, "either --json or --html=-"},
		{[]string{explained, "--html=/nosuch/page.html"}, "correct --html"},
		{[]string{explained, "--baseline=-1"}, "--baseline is negative"},
		{[]string{explained, "--baseline-last=0s"}, "--baseline-last is not above 0"},
		{[]string{"--service=gateway", "--slow-quantile=95"}, "between 0 and 1"},
		{[]string{"--service=gateway", "--slow-quantile=NaN"}, "between 0 and 1"},
		{[]string{"--service=gateway", "--limit=0"}, "--limit is not above 0"},
		{[]string{"--service=gateway", "--last=-1s"}, "--last is not above 0"},
		{[]string{"--service=gateway", "--file=x", "--last=1s"}, "omit --last"},
	} {
		code, stdout, stderr := runHere(t, append([]string{"explain"}, test.args...)...)
		want := exitUsage
		switch {
		case strings.Contains(test.want, "no such trace"), test.want == "correct --service":
			want = exitNothing
		case slices.Contains([]string{"correct --file", "correct --html", "http://HOST:16686"}, test.want):
			want = exitFailed
		}
		if code != want || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, test.want) {
			t.Errorf("%q: exit code %d, want %d and %q: %s%s", test.args, code, want, test.want, stdout, stderr)
		}
	}
}

// services is a store with traces by the service that is searched.
type services map[string][]tracestore.Trace

func (s services) Trace(context.Context, trace.TraceID) (tracestore.Trace, error) {
	return tracestore.Trace{}, tracestore.ErrNotFound
}
func (s services) Search(_ context.Context, q tracestore.Query) ([]tracestore.Trace, error) {
	return slices.Clone(s[q.Service]), nil
}
func (s services) Name() string { return "a test" }

// SERVICE.NAMESPACE is the name that proxies report, else the service in that namespace.
func TestServiceOfANamespace(t *testing.T) {
	seen := func(id byte, w observe.Workload, p observe.Peers) tracestore.Trace {
		return tracestore.Trace{ID: trace.TraceID{id}, Observations: []observe.Observation{{Point: &observe.Point{Workload: w}, Peers: p}}}
	}
	prod, staging := observe.Workload{Service: "reviews", Namespace: "prod"}, observe.Workload{Service: "reviews", Namespace: "staging"}
	peer := observe.Peers{Server: observe.Peer{Service: "reviews", Namespace: "prod"}}
	store := services{
		"reviews":       {seen(1, prod, observe.Peers{}), seen(2, staging, observe.Peers{}), seen(3, observe.Workload{Service: "page", Namespace: "web"}, peer), {ID: trace.TraceID{4}}},
		"details.front": {seen(5, staging, observe.Peers{})},
	}
	for service, want := range map[string][]byte{
		"reviews": {1, 2, 3, 4}, "reviews.prod": {1, 3}, "reviews.staging": {2}, "reviews.test": nil,
		"details.front": {5}, "reviews.": nil, ".prod": nil, "unknown": nil,
	} {
		traces, err := searchService(context.Background(), store, tracestore.Query{Service: service})
		var got []byte
		for _, t := range traces {
			got = append(got, t.ID[0])
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: traces %v, want %v (%v)", service, got, want, err)
		}
	}
}

// The width is that of COLUMNS where output is no terminal.
func TestExplainFitsColumns(t *testing.T) {
	for columns, want := range map[string]int{"80": 80, "": 100, "many": 100} {
		t.Setenv("COLUMNS", columns)
		_, stdout, _ := runHere(t, "explain", "--file", "../tracestore/testdata/otlp.jsonl", "4bf92f3577b34da6a3ce929d0e0e4736")
		widest := 0
		for line := range strings.Lines(stdout) {
			widest = max(widest, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")))
		}
		if widest > want || widest < want-10 {
			t.Errorf("COLUMNS=%q: %d columns, want up to %d", columns, widest, want)
		}
	}
}

// The URL decides, flags before the environment; the kind is asked for only with a URL.
func TestExplainAddress(t *testing.T) {
	for _, test := range []struct {
		name, flags, environment string
		kind                     tracestore.Kind
		url, flag                string
	}{
		{"nothing", "", "", tracestore.Jaeger, "http://localhost:16686", "--url"},
		{"a URL", "--url=http://a", "LAYERTRACE_URL=http://b LAYERTRACE_JAEGER=http://c", tracestore.Auto, "http://a", "--url"},
		{"a URL and a kind", "--url=http://a --store=tempo", "LAYERTRACE_STORE=zipkin", tracestore.Tempo, "http://a", "--url"},
		{"a kind", "--store=zipkin", "LAYERTRACE_JAEGER=http://c", tracestore.Zipkin, "http://localhost:9411", "--url"},
		{"a kind, the URL in the environment", "--store=tempo", "LAYERTRACE_URL=http://b", tracestore.Tempo, "http://b", "LAYERTRACE_URL"},
		{"Jaeger", "--jaeger=http://a", "LAYERTRACE_URL=http://b LAYERTRACE_STORE=zipkin", tracestore.Jaeger, "http://a", "--jaeger"},
		{"the environment", "", "LAYERTRACE_URL=http://b LAYERTRACE_STORE=zipkin", tracestore.Zipkin, "http://b", "LAYERTRACE_URL"},
		{"Jaeger in the environment", "", "LAYERTRACE_JAEGER=http://c", tracestore.Jaeger, "http://c", "LAYERTRACE_JAEGER"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, variable := range []string{urlVariable, storeVariable, jaegerVariable} {
				t.Setenv(variable, "")
			}
			for _, set := range strings.Fields(test.environment) {
				name, value, _ := strings.Cut(set, "=")
				t.Setenv(name, value)
			}
			f := explainFlags{store: "auto", url: "http://localhost:16686"}
			given := map[string]bool{}
			for _, set := range strings.Fields(test.flags) {
				name, value, _ := strings.Cut(strings.TrimPrefix(set, "--"), "=")
				given[name] = true
				*map[string]*string{"url": &f.url, "store": &f.store, "jaeger": &f.jaeger}[name] = value
			}
			got, err := f.address(func(flag string) bool { return given[flag] })
			if want := (tracestore.Address{Kind: test.kind, URL: test.url, Flag: test.flag}); err != nil || got != want {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
		})
	}
	t.Setenv(storeVariable, "mysql")
	if _, err := (&explainFlags{store: "auto"}).address(func(string) bool { return false }); err == nil || !strings.Contains(err.Error(), storeVariable) {
		t.Errorf("an unknown kind: %v", err)
	}
}

// Without a kind, explain asks what is at the URL.
func TestExplainFindsOutTheStore(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/api/v2/services":
			fmt.Fprint(w, `["gateway"]`)
		case "/api/v2/trace/" + explained:
			fmt.Fprintf(w, `[{"traceId":"%s","id":"1","name":"get /","timestamp":1700000000000000,"duration":5,"localEndpoint":{"serviceName":"gateway"}}]`, explained)
		case "/api/v2/traces":
			fmt.Fprint(w, `[]`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(server.Close)
	code, stdout, stderr := runHere(t, "explain", "--json", "--url", server.URL, explained)
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if all := readReports(t, stdout); len(all) != 1 || all[0].Operation != "get /" {
		t.Errorf("reports %+v", all)
	}
}
