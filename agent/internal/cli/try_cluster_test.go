// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/layertrace/layertrace/agent/internal/explain"
	"github.com/layertrace/layertrace/agent/internal/export"
	"github.com/layertrace/layertrace/agent/internal/install"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// apiServer is as much of an API server as try needs: it keeps objects, and has an agent as
// soon as there is a DaemonSet.
type apiServer struct {
	t          *testing.T
	kubeconfig string

	mu      sync.Mutex // guards the rest
	version int
	objects map[string]map[string]any // by their path
	kept    *export.Kept              // the agent's spans
	metrics string                    // the agent's
	drops   int                       // of spans, one more at each look if it is not 0
	second  bool                      // there is another agent, whose spans cannot be read
	silent  bool                      // no agent's can
	sent    []*http.Request           // to services
}

// servedKinds are the kinds by the path of their version and their resource.
var servedKinds = map[string]map[string]string{
	"/api/v1":                            {"namespaces": "Namespace", "nodes": "Node", "configmaps": "ConfigMap", "pods": "Pod", "services": "Service", "serviceaccounts": "ServiceAccount"},
	"/apis/apps/v1":                      {"deployments": "Deployment", "daemonsets": "DaemonSet"},
	"/apis/rbac.authorization.k8s.io/v1": {"clusterroles": "ClusterRole", "clusterrolebindings": "ClusterRoleBinding"},
	"/apis/networking.istio.io/v1alpha3": {"envoyfilters": "EnvoyFilter", "sidecars": "Sidecar"},
	"/apis/extensions.istio.io/v1alpha1": {"wasmplugins": "WasmPlugin"},
	"/apis/telemetry.istio.io/v1":        {"telemetries": "Telemetry"},
	"/apis/security.istio.io/v1":         {"peerauthentications": "PeerAuthentication"},
	"/apis/discovery.k8s.io/v1":          {"endpointslices": "EndpointSlice"},
}

func newAPIServer(t *testing.T, documents string) *apiServer {
	t.Helper()
	s := &apiServer{t: t, objects: map[string]map[string]any{}, kept: export.NewKept(100)}
	for _, document := range strings.Split(documents, "---\n") {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(document), &o.Object); err != nil {
			t.Fatal(err)
		}
		s.put(pathOf(o), o)
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	config := fmt.Sprintf("clusters: [{name: c, cluster: {server: %q}}]\ncontexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n", server.URL)
	if err := os.WriteFile(s.kubeconfig, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// pathOf returns the path of an object.
func pathOf(o *unstructured.Unstructured) string {
	for prefix, kinds := range servedKinds {
		for resource, kind := range kinds {
			if kind != o.GetKind() {
				continue
			}
			if o.GetNamespace() != "" {
				prefix += "/namespaces/" + o.GetNamespace()
			}
			return prefix + "/" + resource + "/" + o.GetName()
		}
	}
	return ""
}

// put stores an object. The caller has the lock, or is alone.
func (s *apiServer) put(path string, o *unstructured.Unstructured) {
	s.version++
	o.SetResourceVersion(fmt.Sprint(s.version))
	o.SetUID("uid")
	s.objects[path] = o.Object
}

// paths are those of all objects.
func (s *apiServer) paths() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.objects))
}

// ServeHTTP implements http.Handler.
func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, what, proxied := strings.Cut(r.URL.Path, "/proxy/")
	switch {
	case proxied && strings.Contains(before, "/services/"):
		s.sent = append(s.sent, r)
		s.see(r.Header.Get("traceparent"))
	case proxied && what == "spans" && (s.silent || strings.HasSuffix(before, "agent-2:9464")):
		http.Error(w, "no route to host", http.StatusServiceUnavailable)
	case proxied && what == "spans":
		s.kept.ServeHTTP(w, r)
	case proxied && what == "metrics":
		fmt.Fprint(w, s.metrics)
		if s.drops > 0 {
			s.drops++
			fmt.Fprintf(w, "layertrace_kept_spans_dropped_total %d\n", s.drops)
		}
	case proxied:
		http.NotFound(w, r)
	default:
		if response := s.respond(r); response != nil {
			w.Header().Set("Content-Type", "application/json")
			if err := json.NewEncoder(w).Encode(response); err != nil {
				s.t.Error(err)
			}
			return
		}
		http.NotFound(w, r)
	}
}

// respond responds to a request for objects, nil: 404.
func (s *apiServer) respond(r *http.Request) any {
	if r.URL.Path == "/apis" {
		return map[string]any{"kind": "APIGroupList", "apiVersion": "v1", "groups": []any{}}
	}
	for prefix, kinds := range servedKinds {
		if r.URL.Path == prefix {
			var resources []any
			for name, kind := range kinds {
				cluster := slices.Contains([]string{"Namespace", "Node", "ClusterRole", "ClusterRoleBinding"}, kind)
				resources = append(resources, map[string]any{"name": name, "kind": kind, "namespaced": !cluster, "verbs": []any{"list", "delete"}})
			}
			return map[string]any{"kind": "APIResourceList", "apiVersion": "v1", "resources": resources}
		}
		path, within := strings.CutPrefix(r.URL.Path, prefix+"/")
		if !within {
			continue
		}
		resource := path
		if rest, one := strings.CutPrefix(path, "namespaces/"); one && strings.Contains(rest, "/") {
			_, resource, _ = strings.Cut(rest, "/")
		}
		resource, name, _ := strings.Cut(resource, "/")
		if kind := kinds[resource]; kind != "" && name == "" {
			return s.list(r, prefix, resource, kind)
		} else if kind != "" {
			return s.one(r)
		}
	}
	return nil
}

func (s *apiServer) list(r *http.Request, prefix, resource, kind string) any {
	selector, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		s.t.Error(err)
	}
	items := []any{}
	for _, path := range slices.Sorted(maps.Keys(s.objects)) {
		o := unstructured.Unstructured{Object: s.objects[path]}
		all := strings.HasPrefix(path, prefix+"/") && r.URL.Path == prefix+"/"+resource
		if o.GetKind() == kind && (all || path[:strings.LastIndexByte(path, '/')] == r.URL.Path) && selector.Matches(labels.Set(o.GetLabels())) {
			items = append(items, o.Object)
		}
	}
	version := strings.TrimPrefix(strings.TrimPrefix(prefix, "/apis/"), "/api/")
	return map[string]any{"apiVersion": version, "kind": kind + "List", "metadata": map[string]any{}, "items": items}
}

// one gets, applies or deletes an object.
func (s *apiServer) one(r *http.Request) any {
	path := r.URL.Path
	found := s.objects[path]
	switch r.Method {
	case http.MethodDelete:
		delete(s.objects, path)
		if strings.HasSuffix(path, "/daemonsets/layertrace-agent") {
			delete(s.objects, agentPath)
		}
		return map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Success"}
	case http.MethodPatch:
		data, err := io.ReadAll(r.Body)
		applied := &unstructured.Unstructured{}
		if err == nil {
			err = json.Unmarshal(data, &applied.Object)
		}
		if err != nil {
			s.t.Error(err)
			return nil
		}
		if r.URL.Query().Get("dryRun") != "" {
			return applied.Object
		}
		if err := unstructured.SetNestedSlice(applied.Object, []any{map[string]any{"manager": "layertrace"}}, "metadata", "managedFields"); err != nil {
			s.t.Error(err)
		}
		if applied.GetKind() == "DaemonSet" {
			s.start(applied)
		}
		s.put(path, applied)
		return applied.Object
	}
	if found == nil {
		return nil
	}
	return found
}

const agentPath = "/api/v1/namespaces/layertrace-system/pods/agent-1"

// start runs the agent of a DaemonSet.
func (s *apiServer) start(set *unstructured.Unstructured) {
	set.Object["status"] = map[string]any{"desiredNumberScheduled": int64(1), "updatedNumberScheduled": int64(1), "numberReady": int64(1)}
	pod := &unstructured.Unstructured{}
	text := "{apiVersion: v1, kind: Pod, metadata: {name: agent-1, namespace: layertrace-system, labels: {app.kubernetes.io/name: layertrace, app.kubernetes.io/component: agent}}, spec: {nodeName: n1}, status: {podIP: 10.0.0.9, phase: Running, conditions: [{type: Ready, status: \"True\"}]}}"
	if err := yaml.Unmarshal([]byte(text), &pod.Object); err != nil {
		s.t.Error(err)
	}
	s.put(agentPath, pod)
	if s.second {
		other := pod.DeepCopy()
		other.SetName("agent-2")
		other.Object["spec"] = map[string]any{"nodeName": "n2"}
		s.put(pathOf(other), other)
	}
}

// see makes the agent see a request with a trace context at the virtual interface of cart.
func (s *apiServer) see(traceparent string) {
	if len(traceparent) != 55 {
		s.t.Errorf("the trace context is %q", traceparent)
	}
	s.keep(7, "/items")
}

// keep makes the agent keep a request of a trace.
func (s *apiServer) keep(id byte, path string) {
	o := observe.Observation{
		Key:     observe.Key{Client: netip.MustParseAddrPort("10.0.0.1:1"), Server: netip.MustParseAddrPort("10.0.0.2:80")},
		Point:   &observe.Point{ID: "n1/7", Kind: observe.KindVNIC, Node: "n1", Interface: "veth7", Workload: observe.Workload{Service: "cart", Namespace: "shop"}},
		Request: observe.Message{First: 1e9, Last: 1.001e9, Bytes: 10}, Response: observe.Message{First: 1.1e9, Last: 1.2e9, Bytes: 20},
		Method: "GET", Path: path, Status: 200,
	}
	o.Context.Context = tracecontext.Context{TraceID: [16]byte{id}, SpanID: [8]byte{1}, Format: tracecontext.FormatW3C, Sampling: tracecontext.Accepted}
	span.NewEmitter(span.Options{Sink: s.kept, Offset: func() span.ClockOffset { return 1_700_000_000_000_000_000 }}).Emit(&o)
}

const shopCluster = `
{apiVersion: apps/v1, kind: Deployment, metadata: {name: istiod, namespace: istio-system, labels: {app: istiod}}, spec: {template: {spec: {containers: [{name: discovery, image: "istio/pilot:1.31.1"}]}}}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: "{extensionProviders: [{name: otel, zipkin: {service: z.example.org, port: 9411}}]}"}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {kubernetes.io/metadata.name: shop}}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {kubernetes.io/os: linux}}, status: {nodeInfo: {kernelVersion: 6.12.0, architecture: amd64, operatingSystem: linux}, images: [{names: [registry.example/layertrace/agent:devel]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: cart-1, namespace: shop}, spec: {nodeName: n1, containers: [{name: app}, {name: istio-proxy}]}, status: {phase: Running}}
`

// hurry makes try look often.
func hurry(t *testing.T) {
	interval, settle := tryInterval, trySettle
	tryInterval, trySettle = 5*time.Millisecond, 20*time.Millisecond
	t.Cleanup(func() { tryInterval, trySettle = interval, settle })
}

// From the checks to the layers of a request that try sent; then nothing is left.
func TestTry(t *testing.T) {
	hurry(t)
	s := newAPIServer(t, shopCluster)
	before := s.paths()
	page := filepath.Join(t.TempDir(), "page.html")
	code, stdout, stderr := runHere(t, "try", "--yes", "--kubeconfig="+s.kubeconfig, "--namespace=shop", "--send=cart:80/items?x=1", "--html="+page)
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, %s\n%s", code, stderr, stdout)
	}
	for _, want := range []string{
		"tracing with otel (zipkin), 100 % of requests", "running pods of shop: 1, with a sidecar: 1", "created   Telemetry shop/layertrace",
		"for the agents: 1 of 1 are ready", "10.0.0.2: GET /items took 199 ms", "VERDICT  ", "cart", "trace 07000000000000000000000000000000",
		"seen at 1 capture point on 1 node: the best seen of", "layertrace try --remove",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(stdout)
	}
	if html, err := os.ReadFile(page); err != nil || !strings.Contains(string(html), "0700000000000000") {
		t.Errorf("the page: %v", err)
	}
	if sent := s.sent[0]; sent.URL.Path != "/api/v1/namespaces/shop/services/cart:80/proxy/items" || sent.URL.RawQuery != "x=1" || !strings.HasSuffix(sent.Header.Get("traceparent"), "-01") {
		t.Errorf("it sent %s with %v", sent.URL, sent.Header)
	}
	code, stdout, stderr = runHere(t, "try", "--remove", "--yes", "--kubeconfig="+s.kubeconfig)
	if code != 0 || stderr != "" {
		t.Errorf("exit code %d of --remove, %s\n%s", code, stderr, stdout)
	}
	if after := s.paths(); !slices.Equal(after, before) {
		t.Errorf("before\n%v\nafter\n%v", before, after)
	}
}

// What the agents kept before is not reported, also where they had no room for more. Each
// warning comes once, and an agent that cannot be read does not end it.
func TestTryReportsWhatFollows(t *testing.T) {
	hurry(t)
	s := newAPIServer(t, shopCluster)
	for range 100 { // all that fit
		s.keep(9, "/old")
	}
	s.second, s.drops = true, 1_000_000
	code, stdout, stderr := runHere(t, "try", "--yes", "--kubeconfig="+s.kubeconfig, "--namespace=shop", "--send=cart:80/items", "--image=mine:1")
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, %s\n%s", code, stderr, stdout)
	}
	for _, once := range []string{
		"This is trace 07000000000000000000000000000000,", "the best seen of 1 trace.", "the agents' image mine:1 is not on n1",
		"without the agent on n2, whose spans cannot be read: ", "Dropped, as there were too many: ",
	} {
		if n := strings.Count(stdout, once); n != 1 {
			t.Errorf("the output has %q %d times", once, n)
		}
	}
	if strings.Contains(stdout, "/old") || strings.Contains(stdout, "too many: 1000") {
		t.Error("it reports what was before")
	}
	if t.Failed() {
		t.Log(stdout)
	}
}

// If no agent can be read, it ends soon.
func TestTryWithoutAgentsToRead(t *testing.T) {
	hurry(t)
	s := newAPIServer(t, shopCluster)
	s.silent = true
	code, stdout, stderr := runHere(t, "try", "--yes", "--kubeconfig="+s.kubeconfig, "--namespace=shop", "--send=cart:80/items")
	if code != 1 || !strings.Contains(stderr, "read the spans of the agent on n1 through the API server: ") {
		t.Errorf("exit code %d, %s\n%s", code, stderr, stdout)
	}
}

// The UI is named if the trace is there, else why it is not.
func TestTryNamesTheUI(t *testing.T) {
	ui := &install.UI{Namespace: "obs", Service: "tracing", Port: 80, Product: 16686}
	const there = "The same trace in the UI"
	for _, test := range []struct {
		ui             *install.UI
		exported, lost float64
		want           string
	}{
		{ui, 5, 0, there},
		{ui, 5, 3, there},
		{ui, 0, 3, "The trace store in obs has no spans of the agents: 3 spans lost, as it is unreachable, slow or refuses them"},
		{ui, 0, 0, "The trace store in obs has no spans of the agents: they have sent none so far"},
		{nil, 0, 0, "The mesh has no trace store that takes the agents' spans"},
	} {
		var out strings.Builder
		writeNext(&out, test.ui, &sight{report: &explain.Report{TraceID: "1f"}, exported: test.exported, lost: test.lost}, time.Second)
		if got := out.String(); !strings.Contains(got, test.want) || strings.Contains(got, there) != (test.want == there) || strings.Contains(got, "Dropped") {
			t.Errorf("exported %v, lost %v:\n%s", test.exported, test.lost, got)
		}
	}
}

// Without a traced request in time, the exit code says so, and the line what was seen instead.
func TestTryInVain(t *testing.T) {
	hurry(t)
	s := newAPIServer(t, shopCluster)
	s.metrics = "layertrace_requests_total 5\nlayertrace_contexts_unsampled_total 3\n"
	code, stdout, stderr := runHere(t, "try", "--yes", "--kubeconfig="+s.kubeconfig, "--namespace=shop", "--timeout=4s")
	if code != exitNothing || !strings.Contains(stderr, "all 3 trace contexts on the nodes are of requests that are not sampled") || !strings.Contains(stderr, "layertrace try --remove") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	if want := "waiting   for a traced request of shop: on the nodes 5 HTTP requests, 3 with a trace context, 3 of these not sampled"; !strings.Contains(stdout, want) {
		t.Errorf("the output lacks %q:\n%s", want, stdout)
	}
	if code, _, stderr := runHere(t, "try", "--yes", "--kubeconfig="+s.kubeconfig, "--namespace=nosuch"); code != exitNothing || !strings.Contains(stderr, "no such namespace: nosuch") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}
