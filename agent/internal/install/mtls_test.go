// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/layertrace/layertrace/istio"
)

// mtlsOptions are the options of an installation that reads encrypted traffic.
func mtlsOptions(log string) Options {
	o := defaults(ReorderLua)
	o.MTLS, o.MTLSLog = MTLSOn, log
	return o
}

// The service's name is in every text that refers to it, also in another namespace.
func TestRecordsGoToTheAgentsNamespace(t *testing.T) {
	o := mtlsOptions(MTLSEnvoyFilter)
	o.Namespace, o.IstioNamespace = "tracing", "mesh"
	var out bytes.Buffer
	if err := Write(&out, render(t, o)); err != nil {
		t.Fatal(err)
	}
	const cluster = "outbound|4327||layertrace-access-log.tracing.svc.cluster.local"
	if n := strings.Count(out.String(), cluster); n != 3 || strings.Contains(out.String(), DefaultNamespace) {
		t.Errorf("%d of 3 logs go to %s; the default namespace occurs: %v", n, cluster, strings.Contains(out.String(), DefaultNamespace))
	}
	text, err := providersIn("tracing")
	if err != nil || strings.Count(text, "service: layertrace-access-log.tracing.svc.cluster.local") != 2 || strings.Contains(text, DefaultNamespace) {
		t.Errorf("%v\n%s", err, text)
	}
	config := parse[MeshConfig](t, text)
	if missing := config.missingProviders("tracing"); missing != nil {
		t.Errorf("the printed providers are not found: %v", missing)
	}
	if missing := config.missingProviders("other"); len(missing) != 2 {
		t.Errorf("providers of another namespace are accepted, missing %v", missing)
	}
}

// With the Telemetry API there is no EnvoyFilter of the log, one Telemetry resource with
// or without tracing, and the mesh's other access logs stay in it.
func TestRenderTelemetryLog(t *testing.T) {
	for _, provider := range []string{"otel-tracing", ""} {
		o := mtlsOptions(MTLSTelemetry)
		o.TracingProvider, o.keptLogs = provider, []string{"envoy"}
		objects := render(t, o)
		telemetry := find(objects, "Telemetry")
		if _, tracing, _ := unstructured.NestedSlice(telemetry.Object, "spec", "tracing"); tracing != (provider != "") {
			t.Errorf("provider %q, tracing %v", provider, tracing)
		}
		logs, _, err := unstructured.NestedSlice(telemetry.Object, "spec", "accessLogging")
		if err != nil || len(logs) != 3 {
			t.Fatalf("%v, %v", logs, err)
		}
		if diff := cmp.Diff(map[string]any{"providers": []any{map[string]any{"name": "envoy"}}}, logs[2]); diff != "" {
			t.Error(diff)
		}
		if slices.ContainsFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetName() == mtlsName }) {
			t.Error("there is an EnvoyFilter for the log")
		}
		o.loggedElsewhere = true
		if telemetry = find(render(t, o), "Telemetry"); (telemetry == nil) != (provider == "") {
			t.Errorf("provider %q, and the log of another Telemetry: %v", provider, telemetry)
		}
	}
}

// A proxy writes the same attributes with the Telemetry API as with the EnvoyFilter,
// which has the incoming trace context in addition. Istio accepts only texts.
func TestBothLogsHaveTheSameAttributes(t *testing.T) {
	objects, err := readObjects(istio.Files, "mtls/envoyfilter/envoyfilter.yaml")
	if err != nil {
		t.Fatal(err)
	}
	filter := map[string]map[string]string{}
	patches, _, err := unstructured.NestedSlice(objects[0].Object, "spec", "configPatches")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range patches {
		config, _, err := unstructured.NestedMap(p.(map[string]any), "patch", "value", "typed_config")
		if err != nil {
			t.Fatal(err)
		}
		logs, _ := cmpOr(config["access_log"], config["upstream_log"]).([]any)
		for _, l := range logs {
			log, _, err := unstructured.NestedMap(l.(map[string]any), "typed_config")
			if err != nil {
				t.Fatal(err)
			}
			body, _, _ := unstructured.NestedString(log, "body", "string_value")
			name, _, _ := unstructured.NestedString(log, "common_config", "log_name")
			if body != name {
				t.Errorf("log %s has the body %q, by which the agent knows it", name, body)
			}
			values, _, err := unstructured.NestedSlice(log, "attributes", "values")
			if err != nil {
				t.Fatal(err)
			}
			labels := map[string]string{}
			for _, v := range values {
				key := fmt.Sprint(v.(map[string]any)["key"])
				labels[key], _, _ = unstructured.NestedString(v.(map[string]any), "value", "string_value")
			}
			if before := filter[name]; before != nil && !maps.Equal(before, labels) {
				t.Errorf("%s differs between sidecars and gateways:\n%s", name, cmp.Diff(before, labels))
			}
			filter[name] = labels
		}
	}
	text, err := providersIn(DefaultNamespace)
	if err != nil {
		t.Fatal(err)
	}
	var mesh struct {
		ExtensionProviders []struct {
			Name         string `json:"name"`
			EnvoyOtelAls struct {
				LogFormat struct {
					Text   string            `json:"text"`
					Labels map[string]string `json:"labels"`
				} `json:"logFormat"`
			} `json:"envoyOtelAls"`
		} `json:"extensionProviders"`
	}
	if err := yaml.Unmarshal([]byte(text), &mesh); err != nil {
		t.Fatal(err)
	}
	for _, p := range mesh.ExtensionProviders {
		format := p.EnvoyOtelAls.LogFormat
		if format.Text != p.Name {
			t.Errorf("provider %s has the text %q, by which the agent knows it", p.Name, format.Text)
		}
		same := map[string]string{ClientProvider: "layertrace-attempt", ServerProvider: ServerProvider}[p.Name]
		want := maps.Clone(filter[same])
		maps.DeleteFunc(want, func(key, _ string) bool { return strings.HasPrefix(key, "incoming-") })
		if diff := cmp.Diff(want, format.Labels); diff != "" || len(want) == 0 {
			t.Errorf("%s: EnvoyFilter - provider +\n%s", p.Name, diff)
		}
	}
}

func cmpOr(a, b any) any {
	if a != nil {
		return a
	}
	return b
}

func TestImplicitLogs(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                           "",
		`{accessLogFile: ""}`:          "",
		`{accessLogFile: /dev/stdout}`: "envoy",
		`{accessLogFile: /dev/stdout, defaultProviders: {accessLogging: [mine, other]}}`: "mine other",
		`{accessLogFile: /var/log/x}`:         "error",
		`{enableEnvoyAccessLogService: true}`: "error",
	} {
		kept, err := parse[MeshConfig](t, text).implicitLogs()
		got := strings.Join(kept, " ")
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: %q (%v), want %q", text, got, err, want)
		}
	}
}

// The agents' further settings for encrypted traffic need it to be on.
func TestMTLSSettings(t *testing.T) {
	o := mtlsOptions(MTLSEnvoyFilter)
	o.MTLS, o.AgentSettings = MTLSAuto, []string{"mtls-ports=8080"}
	if err := o.Check(); err != nil {
		t.Error(err)
	}
	off := false
	c := &Cluster{known: map[schema.GroupVersion][]metav1.APIResource{kindPeerAuthentication.GroupVersion(): nil}}
	findings, err := checkMTLS(t.Context(), c, &o, &Mesh{Config: &MeshConfig{EnableAutoMTLS: &off}})
	if err != nil || Refused(findings) == nil {
		t.Errorf("without encryption: %+v, %v", findings, err)
	}
}

// A proxy of an old Istio is not given a log that it may not understand.
func TestOldIstioHasNoRecords(t *testing.T) {
	o := Options{MTLS: MTLSAuto, MTLSLog: MTLSEnvoyFilter, IstioVersion: "1.25.9"}
	c := &Cluster{known: map[schema.GroupVersion][]metav1.APIResource{kindPeerAuthentication.GroupVersion(): nil}}
	findings, err := checkMTLS(t.Context(), c, &o, &Mesh{})
	if err != nil || len(findings) != 1 || findings[0].Level != Warning || o.MTLS != MTLSOff || !strings.Contains(findings[0].Text, "from Istio 1.26 on") {
		t.Errorf("auto: %s, %+v, %v", o.MTLS, findings, err)
	}
	o.MTLS = MTLSOn
	if findings, err = checkMTLS(t.Context(), c, &o, &Mesh{}); err != nil || Refused(findings) == nil {
		t.Errorf("on: %+v, %v", findings, err)
	}
	o.MTLS, o.IstioVersion = MTLSAuto, "1.26.0"
	if findings, err = checkMTLS(t.Context(), c, &o, &Mesh{}); err != nil || o.MTLS != MTLSOn {
		t.Errorf("1.26: %s, %+v, %v", o.MTLS, findings, err)
	}
}

// A Sidecar resource admits the agents' service by its namespace and name (Istio's
// documentation of IstioEgressListener.hosts).
func TestAdmits(t *testing.T) {
	for host, want := range map[string]bool{
		"*/*": true, "layertrace-system/*": true, "*/*.layertrace-system.svc.cluster.local": true,
		"layertrace-system/layertrace-access-log.layertrace-system.svc.cluster.local": true,
		"./*": false, "istio-system/*": false, "~/*": false, "*/other.shop.svc.cluster.local": false, "layertrace-system": false,
	} {
		if got := admits(host, "shop", DefaultNamespace); got != want {
			t.Errorf("%s: %v, want %v", host, got, want)
		}
	}
	if !admits("./*", DefaultNamespace, DefaultNamespace) {
		t.Error("./* in the agents' own namespace")
	}
}

// Traffic is encrypted by STRICT anywhere, and by PERMISSIVE with auto mTLS.
func TestMTLSMode(t *testing.T) {
	policy := func(namespace, mode string) *securityv1.PeerAuthentication {
		return parse[securityv1.PeerAuthentication](t, "{metadata: {name: p, namespace: "+namespace+"}, spec: {mtls: {mode: "+mode+"}}}")
	}
	const manual = "{enableAutoMtls: false}"
	for _, test := range []struct {
		policies []*securityv1.PeerAuthentication
		mesh     string
		want     string
	}{
		{nil, "{}", "PERMISSIVE, and sidecars encrypt"},
		{nil, manual, ""},
		{[]*securityv1.PeerAuthentication{policy("istio-system", "STRICT")}, manual, "is STRICT: "},
		{[]*securityv1.PeerAuthentication{policy("istio-system", "DISABLE")}, "{}", ""},
		{[]*securityv1.PeerAuthentication{policy("istio-system", "DISABLE"), policy("bank", "STRICT")}, "{}", "by PeerAuthentication bank/p"},
		{[]*securityv1.PeerAuthentication{policy("istio-system", "DISABLE"), policy("bank", "PERMISSIVE")}, manual, ""},
		{[]*securityv1.PeerAuthentication{policy("bank", "DISABLE")}, "{}", "PERMISSIVE"},
	} {
		_, got := mtlsMode(test.policies, DefaultIstioNamespace, &Mesh{Config: parse[MeshConfig](t, test.mesh)})
		if !strings.Contains(got, test.want) || (got == "") != (test.want == "") {
			t.Errorf("%+v, %s: %q, want %q", test.policies, test.mesh, got, test.want)
		}
	}
}
