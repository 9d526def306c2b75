// SPDX-License-Identifier: Apache-2.0

package clusterstatus

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	telemetryv1 "istio.io/client-go/pkg/apis/telemetry/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/layertrace/layertrace/agent/internal/install"
)

// Whether a proxy reports follows the Telemetry resources as Istio merges them: the cases
// are from reading mergeLogs and its tests (Istio, pilot/pkg/model/telemetry.go).
func TestReportsOf(t *testing.T) {
	telemetry := func(namespace, name, created, spec string) *telemetryv1.Telemetry {
		return parse[telemetryv1.Telemetry](t, `
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {namespace: `+namespace+`, name: `+name+`, creationTimestamp: "2026-01-`+created+`T00:00:00Z"}
spec: `+spec)
	}
	const (
		client = `{match: {mode: CLIENT}, providers: [{name: layertrace-client}], filter: {expression: x}}`
		server = `{match: {mode: SERVER}, providers: [{name: layertrace-server}], filter: {expression: x}}`
	)
	mesh := telemetry("istio-system", "layertrace", "02", `{accessLogging: [`+client+`, `+server+`]}`)
	type list = []*telemetryv1.Telemetry
	for _, test := range []struct {
		name, method string
		all          list
		want         Reports
	}{
		{"off", "", list{mesh}, Reports{Reason: "--mtls is off"}},
		{"EnvoyFilter, whatever Telemetry says", install.MTLSEnvoyFilter, nil, Reports{On: true}},
		{"mesh", install.MTLSTelemetry, list{mesh}, Reports{On: true}},
		{"none", install.MTLSTelemetry, nil, Reports{Reason: "no Telemetry resource has accessLogging"}},
		{"an older mesh-wide resource wins", install.MTLSTelemetry,
			list{mesh, telemetry("istio-system", "old", "01", `{accessLogging: [{providers: [{name: envoy}]}]}`)},
			Reports{Reason: "Telemetry istio-system/old leaves out layertrace-client and layertrace-server"}},
		{"an older mesh-wide resource for tracing wins too", install.MTLSTelemetry,
			list{mesh, telemetry("istio-system", "old", "01", `{tracing: [{}]}`)},
			Reports{Reason: "no Telemetry resource has accessLogging"}},
		{"namespace overrides", install.MTLSTelemetry, list{mesh, telemetry("shop", "own", "03", `{accessLogging: [{providers: [{name: envoy}]}]}`)},
			Reports{Reason: "Telemetry shop/own leaves out layertrace-client and layertrace-server"}},
		{"namespace overrides one mode", install.MTLSTelemetry,
			list{mesh, telemetry("shop", "own", "03", `{accessLogging: [{match: {mode: SERVER}, providers: [{name: envoy}]}]}`)},
			Reports{On: true, Reason: "Telemetry shop/own leaves out layertrace-server"}},
		{"namespace with our lines", install.MTLSTelemetry,
			list{mesh, telemetry("shop", "own", "03", `{accessLogging: [{providers: [{name: envoy}]}, `+client+`, `+server+`]}`)}, Reports{On: true}},
		{"namespace without accessLogging", install.MTLSTelemetry, list{mesh, telemetry("shop", "own", "03", `{metrics: [{}]}`)}, Reports{On: true}},
		{"another namespace", install.MTLSTelemetry, list{mesh, telemetry("bank", "own", "03", `{accessLogging: [{providers: [{name: envoy}]}]}`)}, Reports{On: true}},
		{"workload overrides", install.MTLSTelemetry,
			list{mesh, telemetry("shop", "web", "03", `{selector: {matchLabels: {app: web}}, accessLogging: [{match: {mode: CLIENT}, providers: [{name: envoy}]}]}`)},
			Reports{On: true, Reason: "Telemetry shop/web leaves out layertrace-client"}},
		{"another workload", install.MTLSTelemetry,
			list{mesh, telemetry("shop", "api", "03", `{selector: {matchLabels: {app: api}}, accessLogging: [{providers: [{name: envoy}]}]}`)}, Reports{On: true}},
		{"disabled by name", install.MTLSTelemetry,
			list{mesh, telemetry("shop", "own", "03", `{accessLogging: [{providers: [{name: layertrace-client}], disabled: true}]}`)},
			Reports{Reason: "Telemetry shop/own leaves out layertrace-client and layertrace-server"}},
		// Without a name, it is the last provider of the level above that is disabled.
		{"disabled without a name", install.MTLSTelemetry, list{mesh, telemetry("shop", "own", "03", `{accessLogging: [{disabled: true}]}`)},
			Reports{On: true, Reason: "Telemetry shop/own leaves out layertrace-server"}},
	} {
		pod := parse[corev1.Pod](t, `{metadata: {namespace: shop, name: web, labels: {app: web}}, spec: {containers: [{name: istio-proxy, image: p}]}}`)
		got := reportsOf(pod, "istio-system", test.method, install.Limits{}, test.all, nil)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: want - got +\n%s", test.name, diff)
		}
	}
	if got := reportsOf(parse[corev1.Pod](t, `{metadata: {namespace: shop, name: web}}`), "istio-system", install.MTLSEnvoyFilter, install.Limits{}, nil, nil); got.On {
		t.Error("a pod without sidecar reports")
	}
}

// The counters come from the agents' metrics, with reasons, and status shows them for
// each workload: of the records of its own proxies.
func TestEncryptedCounts(t *testing.T) {
	families, err := parseMetrics([]byte(`# TYPE layertrace_encrypted_connections_followed_total counter
layertrace_encrypted_connections_followed_total 12
# TYPE layertrace_access_log_records_total counter
layertrace_access_log_records_total{side="attempt",namespace="shop",workload="web"} 60
layertrace_access_log_records_total{side="server",namespace="shop",workload="db"} 40
# TYPE layertrace_access_log_records_refused_total counter
layertrace_access_log_records_refused_total{reason="foreign_address"} 5
layertrace_access_log_records_refused_total{reason="bad_field"} 0
# TYPE layertrace_encrypted_records_total counter
layertrace_encrypted_records_total{side="attempt",state="exact",reason="",namespace="shop",workload="web"} 50
layertrace_encrypted_records_total{side="server",state="time",reason="cut",namespace="shop",workload="db"} 30
layertrace_encrypted_records_total{side="server",state="ambiguous",reason="http2",namespace="shop",workload="db"} 8
layertrace_encrypted_records_total{side="attempt",state="unmatched",reason="no_connection",namespace="shop",workload="web"} 7
`))
	if err != nil {
		t.Fatal(err)
	}
	got, bySender := encryptedOf(families)
	want := Encrypted{12, 100, 5, 80, 8, 7, map[string]float64{"ambiguous: http2": 8, "unmatched: no_connection": 7, "refused: foreign_address": 5}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("want - got +\n%s", diff)
	}
	if diff := cmp.Diff(want, want.plus(want, 1).plus(want, -1)); diff != "" {
		t.Errorf("sum and difference: want - got +\n%s", diff)
	}
	web := Encrypted{0, 60, 0, 50, 0, 7, map[string]float64{"unmatched: no_connection": 7}}
	if diff := cmp.Diff(web, bySender[sender{"shop", "web"}]); diff != "" {
		t.Errorf("web: want - got +\n%s", diff)
	}
	if diff := cmp.Diff(web, minus(map[sender]Encrypted{{"shop", "web"}: web}, nil)[sender{"shop", "web"}]); diff != "" {
		t.Errorf("since nothing: want - got +\n%s", diff)
	}
	for want, e := range map[string]Encrypted{
		"20 of 100 records of encrypted requests found no exchange (8 ambiguous: http2; 7 unmatched: no_connection; 5 refused: foreign_address)": got,
		"it follows encrypted connections (3), but no proxy has sent a record":                                                                   {Connections: 3},
		"": {Connections: 3, Received: 200, Joined: 199, Unmatched: 1, Refused: 50, Reasons: map[string]float64{"refused: no_connection": 50}},
	} {
		if text := e.problem(false); !strings.HasPrefix(text, want) || (want == "") != (text == "") {
			t.Errorf("%+v: %q, want %q", e, text, want)
		}
	}
	agent := &Agent{MTLS: true, Encrypted: got, bySender: bySender}
	workload := func(name, labels string) Workload {
		w := Workload{Namespace: "shop", Name: name, Reports: Reports{On: true}, pods: []*corev1.Pod{
			parse[corev1.Pod](t, `{metadata: {namespace: shop, name: a, labels: `+labels+`}, spec: {nodeName: n1}}`),
			parse[corev1.Pod](t, `{metadata: {namespace: shop, name: b, labels: `+labels+`}, spec: {nodeName: n1}}`),
		}}
		w.sumNodes(map[string]*Agent{"n1": agent})
		return w
	}
	s := Status{MTLS: install.MTLSEnvoyFilter, Workloads: []Workload{workload("web-v1", "{app: web}"), workload("db-v1", "{app: x, service.istio.io/canonical-name: db}")}}
	var out bytes.Buffer
	if err := s.WriteText(&out, 0); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(out.String()), " ")
	for _, line := range []string{"shop/web-v1 yes - 60 50 0 7 12 5 7 unmatched: no_connection", "shop/db-v1 yes - 40 30 8 0 12 5 8 ambiguous: http2"} {
		if !strings.Contains(text, line) {
			t.Errorf("no line %q in\n%s", line, out.String())
		}
	}
}

// Agents that do not fit what is installed have a problem with its remedy.
func TestVersionsDoNotFit(t *testing.T) {
	plain, err := parseMetrics([]byte("# TYPE layertrace_requests_total counter\nlayertrace_requests_total 12\n"))
	if err != nil {
		t.Fatal(err)
	}
	if e, _ := encryptedOf(plain); e.Connections != 0 || plain[followedMetric] != nil {
		t.Errorf("an agent without mtls: %+v", e)
	}
	const install = "layertrace install of the version of the agents' image"
	for _, test := range []struct {
		name, method string
		agent        Agent
		want         []string
	}{
		{"no mtls", "", Agent{}, nil},
		{"an older agent", "envoyfilter", Agent{}, []string{"does not take the reports", "mtls: false", install}},
		{"no log", "", Agent{MTLS: true, Encrypted: Encrypted{Connections: 7}}, []string{"(7)", "layertrace install --mtls on"}},
		{"no log and nothing encrypted", "", Agent{MTLS: true}, nil},
		{"another log", "envoyfilter", Agent{MTLS: true, Encrypted: Encrypted{Connections: 7, Received: 3, Refused: 5, Reasons: map[string]float64{"refused: bad_field": 4}}},
			[]string{"cannot read 4 of 8 records", install}},
		{"a bad record", "envoyfilter", Agent{MTLS: true, Encrypted: Encrypted{Connections: 7, Received: 999, Joined: 999, Refused: 1, Reasons: map[string]float64{"refused: bad_field": 1}}}, nil},
	} {
		got := test.agent.findEncrypted(test.method, false)
		if (got == "") != (test.want == nil) {
			t.Errorf("%s: %q", test.name, got)
		}
		for _, want := range test.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %q, want %q in it", test.name, got, want)
			}
		}
	}
}

// Counters of several proxies are added; without any there is none.
func TestAddCounter(t *testing.T) {
	var sum *float64
	addCounter(&sum, metrics{"envoy_other": 7}, droppedSuffix)
	if sum != nil {
		t.Errorf("%v of a proxy without the counter", *sum)
	}
	for range 2 {
		addCounter(&sum, metrics{"envoy_access_logs_open_telemetry_access_log_logs_dropped": 3, "envoy_access_logs_open_telemetry_access_log_logs_written": 9}, droppedSuffix)
	}
	if sum == nil || *sum != 6 {
		t.Errorf("got %v, want 6", sum)
	}
}
