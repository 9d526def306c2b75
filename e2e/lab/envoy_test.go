// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// Every combination is YAML with the expected parts. The end-to-end tests show
// that Envoy accepts it.
func TestBootstrap(t *testing.T) {
	calls := []EnvoyCluster{{Name: "reviews", Endpoints: []Endpoint{{Pod: "reviews-v1", IP: "10.0.0.1"}, {Pod: "reviews-v2", IP: "10.0.0.2"}}}}
	for name, test := range map[string]struct {
		config        EnvoyConfig
		with, without []string
	}{
		"gateway": {
			EnvoyConfig{Gateway: true, GatewayPort: 8080, Clusters: calls, Tracer: Zipkin, AccessLog: "/log"},
			[]string{"name: gateway", "ZipkinConfig", "shared_span_context: true", metadata(1100), "address: 10.0.0.2", "route: { cluster: reviews-v2, timeout: 0s }"},
			[]string{"name: inbound", "upstream_http_filters", "OpenTelemetryConfig", metadata(1101)},
		},
		"sidecar that calls": {
			EnvoyConfig{Clusters: calls, Tracer: OpenTelemetry, Wasm: "/filter.wasm", AccessLog: "/log"},
			[]string{"name: inbound", "name: outbound", "OpenTelemetryConfig", `filename: "/filter.wasm"`, metadata(600), "upstream_codec"},
			[]string{"name: gateway", "ZipkinConfig", metadata(601)},
		},
		"sidecar that does not": {
			EnvoyConfig{Tracer: Zipkin, Wasm: "/filter.wasm"},
			[]string{"name: inbound", "cluster: application"},
			[]string{"name: outbound", "upstream_http_filters"},
		},
	} {
		data, err := test.config.Bootstrap()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var parsed map[string]any
		if err := yaml.UnmarshalStrict(data, &parsed); err != nil {
			t.Errorf("%s: %v\n%s", name, err, data)
		}
		for _, part := range test.with {
			if !strings.Contains(string(data), part) {
				t.Errorf("%s: no %q", name, part)
			}
		}
		for _, part := range test.without {
			if strings.Contains(string(data), part) {
				t.Errorf("%s: contains %q", name, part)
			}
		}
	}
}

// With TLS a sidecar speaks it at both sides, and sends records of both.
func TestBootstrapWithTLS(t *testing.T) {
	a, err := NewAuthority(true)
	if err != nil {
		t.Fatal(err)
	}
	pod, err := PodByName("reviews-v2")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		tls           TLS
		with, without []string
	}{
		{TLS{Version: TLS13}, []string{"TLSv1_3", logAttempt, logServer, "set_filter_state", "spiffe://cluster.local/ns/default/sa/ratings", "10.244.2.1,"}, []string{logClient, "TLSv1_2"}},
		{TLS{Version: TLS12, Telemetry: true, RecordPort: 4328}, []string{"TLSv1_2", logClient, logServer, "4328"}, []string{logAttempt, "set_filter_state", "10.244.2.1,"}},
	} {
		endpoints, err := Services["ratings"].Endpoints()
		if err != nil {
			t.Fatal(err)
		}
		config := EnvoyConfig{Tracer: OpenTelemetry, Clusters: []EnvoyCluster{{Name: "ratings", Endpoints: endpoints}}, Rough: true}
		if err := test.tls.Configure(&config, a, pod, PodGateway(pod.Node), t.TempDir()+"/tls", "/keys"); err != nil {
			t.Fatal(err)
		}
		data, err := config.Bootstrap()
		if err != nil {
			t.Fatal(err)
		}
		var parsed map[string]any
		if err := yaml.UnmarshalStrict(data, &parsed); err != nil {
			t.Errorf("%v\n%s", err, data)
		}
		for _, part := range test.with {
			if !strings.Contains(string(data), part) {
				t.Errorf("%+v: no %q", test.tls, part)
			}
		}
		for _, part := range test.without {
			if strings.Contains(string(data), part) {
				t.Errorf("%+v: contains %q", test.tls, part)
			}
		}
	}
}

func TestParseTracer(t *testing.T) {
	for _, tracer := range []Tracer{Zipkin, OpenTelemetry} {
		if got, err := ParseTracer(string(tracer)); got != tracer || err != nil {
			t.Errorf("%s: %v, %v", tracer, got, err)
		}
	}
	if _, err := ParseTracer("jaeger"); err == nil {
		t.Error("an unknown tracer was accepted")
	}
}
