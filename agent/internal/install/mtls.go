// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strconv"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	telemetryapi "istio.io/api/telemetry/v1alpha1"
	networkingv1alpha3 "istio.io/client-go/pkg/apis/networking/v1alpha3"
	telemetryv1 "istio.io/client-go/pkg/apis/telemetry/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/layertrace/layertrace/istio"
)

// Values of --mtls: whether encrypted hops get spans, by records of the proxies'
// access logs.
const (
	// MTLSAuto: on if the mesh encrypts. Without a cluster it is on, as Istio encrypts by
	// default.
	MTLSAuto = "auto"
	MTLSOn   = "on"
	MTLSOff  = "off"
)

// Values of --mtls-log: how the proxies get to send records.
const (
	// MTLSEnvoyFilter: by an EnvoyFilter. It adds a record for each attempt, and the
	// incoming trace context, to whatever access logs the mesh has.
	MTLSEnvoyFilter = "envoyfilter"
	// MTLSTelemetry: by the Telemetry API alone. It needs providers in the mesh
	// configuration, and Telemetry resources of namespaces and workloads override it.
	MTLSTelemetry = "telemetry"
)

// MTLSModes and MTLSLogs are all values, the default first.
var (
	MTLSModes = []string{MTLSAuto, MTLSOn, MTLSOff}
	MTLSLogs  = []string{MTLSEnvoyFilter, MTLSTelemetry}
)

// Names in the manifests for encrypted traffic.
const (
	mtlsName = "layertrace-mtls" // EnvoyFilter
	// AccessLogService receives the proxies' records.
	AccessLogService = "layertrace-access-log"
	// ClientProvider and ServerProvider are the extension providers of MTLSTelemetry.
	ClientProvider = "layertrace-client"
	ServerProvider = "layertrace-server"
	// accessLogHost is the service's name in the manifests.
	accessLogHost = AccessLogService + "." + DefaultNamespace + ".svc.cluster.local"
	accessLogPort = 4327
	// accessLogPortName is the port's name in the DaemonSet, to which the Service refers.
	accessLogPortName = "access-log"
)

// providerFile is the part of an IstioOperator with the providers.
const providerFile = "mesh/mtls.yaml"

var kindSidecar = schema.GroupVersionKind{Group: "networking.istio.io", Version: "v1alpha3", Kind: "Sidecar"}

// readsEncrypted reports whether an installation has the parts for encrypted traffic.
func (o *Options) readsEncrypted() bool { return o.MTLS == MTLSAuto || o.MTLS == MTLSOn }

func (o *Options) checkMTLSFlags() error {
	if !slices.Contains(MTLSModes, o.MTLS) {
		return fmt.Errorf("--mtls %q is not one of %s", o.MTLS, strings.Join(MTLSModes, ", "))
	}
	if !slices.Contains(MTLSLogs, o.MTLSLog) {
		return fmt.Errorf("--mtls-log %q is not one of %s", o.MTLSLog, strings.Join(MTLSLogs, ", "))
	}
	return nil
}

// addMTLS adds what encrypted traffic needs to the other objects: the components
// istio/mtls/agent and istio/mtls/envoyfilter or telemetry.
func addMTLS(all []*unstructured.Unstructured, o Options) ([]*unstructured.Unstructured, error) {
	if !o.readsEncrypted() {
		return all, nil
	}
	var err error
	component := "mtls/" + o.MTLSLog
	switch {
	case o.MTLSLog == MTLSTelemetry && o.loggedElsewhere:
		component = "mtls/agent"
	case o.MTLSLog == MTLSTelemetry && find(all, "Telemetry") == nil: // tracing is not changed
		objects, err := readKustomization(istio.Files, "telemetry")
		if err != nil {
			return nil, err
		}
		unstructured.RemoveNestedField(find(objects, "Telemetry").Object, "spec", "tracing")
		all = append(all, objects...)
	}
	if all, err = addComponent(all, component); err != nil {
		return nil, err
	}
	if component == "mtls/"+MTLSTelemetry {
		if err := keepLogs(find(all, "Telemetry"), o.keptLogs); err != nil {
			return nil, err
		}
	}
	for _, object := range all {
		renameService(object.Object, o.Namespace)
	}
	return all, setAccessLogPort(find(all, "DaemonSet"), o)
}

// setAccessLogPort gives the container the port of an --agent-setting access-log-address,
// so that the Service finds it by its name.
func setAccessLogPort(daemonSet *unstructured.Unstructured, o Options) error {
	port, err := o.accessLogPort()
	if err != nil || port == accessLogPort {
		return err
	}
	return changeContainer(daemonSet, func(container map[string]any) error {
		ports, _, err := unstructured.NestedSlice(container, "ports")
		if err != nil {
			return err
		}
		for _, p := range ports {
			if p, err := asMap(p); err == nil && p["name"] == accessLogPortName {
				p["containerPort"] = int64(port)
			}
		}
		container["ports"] = ports
		return nil
	})
}

// accessLogPort returns the port at which the agents receive records.
func (o *Options) accessLogPort() (int, error) {
	port := accessLogPort
	for _, setting := range o.AgentSettings {
		address, ok := strings.CutPrefix(setting, "access-log-address=")
		if !ok || address == "" {
			continue
		}
		_, text, err := net.SplitHostPort(address)
		if err == nil {
			var n uint64
			n, err = strconv.ParseUint(text, 10, 16)
			port = int(n)
		}
		if err != nil || port == 0 {
			return 0, fmt.Errorf("--agent-setting %s: write HOST:PORT with the number of the port, such as [$(HOST_IP)]:%d", setting, accessLogPort)
		}
	}
	return port, nil
}

// patchObject applies a file of JSON patch operations (RFC 6902), as kustomize does.
func patchObject(files fs.FS, object *unstructured.Unstructured, file string) error {
	data, err := fs.ReadFile(files, file)
	if err != nil {
		return err
	}
	if data, err = yaml.YAMLToJSONStrict(data); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	patch, err := jsonpatch.DecodePatch(data)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	before, err := object.MarshalJSON()
	if err != nil {
		return err
	}
	after, err := patch.Apply(before)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return object.UnmarshalJSON(after)
}

// keepLogs adds access logs that the Telemetry resource would otherwise replace.
func keepLogs(telemetry *unstructured.Unstructured, providers []string) error {
	if len(providers) == 0 {
		return nil
	}
	entries, _, err := unstructured.NestedSlice(telemetry.Object, "spec", "accessLogging")
	if err != nil {
		return err
	}
	var names []any
	for _, p := range providers {
		names = append(names, map[string]any{"name": p})
	}
	entries = append(entries, map[string]any{"providers": names})
	return unstructured.SetNestedSlice(telemetry.Object, entries, "spec", "accessLogging")
}

// renameService replaces the service's host in all texts of a tree.
func renameService(tree any, namespace string) any {
	switch node := tree.(type) {
	case string:
		return strings.ReplaceAll(node, accessLogHost, hostIn(namespace))
	case map[string]any:
		for key, value := range node {
			node[key] = renameService(value, namespace)
		}
	case []any:
		for i, value := range node {
			node[i] = renameService(value, namespace)
		}
	}
	return tree
}

func hostIn(namespace string) string {
	return AccessLogService + "." + namespace + ".svc.cluster.local"
}

// InstalledMTLS returns how the proxies get to send records, a value of MTLSLogs, or ""
// if they do not by objects of layertrace.
func (c *Cluster) InstalledMTLS(ctx context.Context, root string) (string, error) {
	filters, err := List[networkingv1alpha3.EnvoyFilter](ctx, c, kindEnvoyFilter, "", metav1.ListOptions{LabelSelector: ours})
	if err != nil {
		return "", err
	}
	if slices.ContainsFunc(filters, func(f *networkingv1alpha3.EnvoyFilter) bool { return f.Name == mtlsName }) {
		return MTLSEnvoyFilter, nil
	}
	all, err := List[telemetryv1.Telemetry](ctx, c, KindTelemetry, "", metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	if slices.ContainsFunc(all, func(t *telemetryv1.Telemetry) bool {
		return namesProvider(t) && (t.Namespace == root || isOurs(t.Labels)) // or limited to namespaces
	}) {
		return MTLSTelemetry, nil
	}
	return "", nil
}

// namesProvider reports whether a Telemetry resource logs to the agents.
func namesProvider(t *telemetryv1.Telemetry) bool {
	return slices.ContainsFunc(t.Spec.AccessLogging, func(l *telemetryapi.AccessLogging) bool {
		return slices.ContainsFunc(l.Providers, func(p *telemetryapi.ProviderRef) bool {
			return p.Name == ClientProvider || p.Name == ServerProvider
		})
	})
}

// checkAccessLog checks whether the proxies' records can reach the agents, and that the
// logs of the mesh stay.
func checkAccessLog(ctx context.Context, c *Cluster, o *Options, m *Mesh) ([]Finding, error) {
	if !o.readsEncrypted() {
		return nil, nil
	}
	findings, err := checkSidecars(ctx, c, o)
	if err != nil || o.MTLSLog != MTLSTelemetry {
		return findings, err
	}
	more, err := checkTelemetryLog(ctx, c, o, m)
	return append(findings, more...), err
}

func checkTelemetryLog(ctx context.Context, c *Cluster, o *Options, m *Mesh) ([]Finding, error) {
	var findings []Finding
	add := func(level Level, format string, args ...any) {
		findings = append(findings, Finding{Level: level, Text: fmt.Sprintf(format, args...)})
	}
	config := m.Config
	if config == nil {
		config = &MeshConfig{}
	}
	if missing := config.missingProviders(o.Namespace); len(missing) > 0 {
		text, err := providersIn(o.Namespace)
		if err != nil {
			return nil, err
		}
		add(Warning, "the mesh configuration lacks the access log providers %s, without which proxies send no records: add to the extensionProviders of your IstioOperator (spec.meshConfig), or by kubectl -n %s edit configmap %s (key mesh):\n%s",
			strings.Join(missing, ", "), o.IstioNamespace, meshName(o.Revision), text)
	}
	lines, err := loggingLines()
	if err != nil {
		return nil, err
	}
	more, err := findLogs(ctx, c, o, config, lines)
	if err != nil {
		return nil, err
	}
	findings = append(findings, more...)
	all, err := List[telemetryv1.Telemetry](ctx, c, KindTelemetry, "", metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, t := range all {
		judged := ForWholeNamespace(t) && slices.Contains(o.widest(), t.Namespace) // by findLogs
		outside := len(o.namespaces) > 0 && !slices.Contains(o.namespaces, t.Namespace)
		if judged || outside || namesProvider(t) || len(t.Spec.AccessLogging) == 0 {
			continue
		}
		add(Warning, "Telemetry %s/%s has accessLogging of its own, which replaces the agents': its proxies send no records unless you add to its spec:\n%s", t.Namespace, t.Name, lines)
	}
	return findings, nil
}

// findLogs finds out whether Telemetry resources of others send the records, and otherwise
// which access logs to keep. lines are what such a resource needs for it.
func findLogs(ctx context.Context, c *Cluster, o *Options, config *MeshConfig, lines string) (findings []Finding, err error) {
	add := func(level Level, format string, args ...any) {
		findings = append(findings, Finding{Level: level, Text: fmt.Sprintf(format, args...)})
	}
	var logged, free []string // namespaces in which one sends the records, or in which there is none
	for _, namespace := range o.widest() {
		t, err := c.oldestTelemetry(ctx, namespace)
		switch {
		case err != nil:
			return nil, err
		case t == nil:
			free = append(free, namespace)
		case namesProvider(t):
			logged = append(logged, namespace)
			add(Fine, "Telemetry %s/%s sends the records", t.Namespace, t.Name)
		default:
			add(Warning, "lines for the spec of Telemetry %s/%s:\n%s", t.Namespace, t.Name, lines)
			add(Refusal, "Telemetry %s/%s already applies to the whole %s, and Istio uses only one: choose --mtls-log %s, or add the lines above there and repeat",
				t.Namespace, t.Name, o.wideness(), MTLSEnvoyFilter)
		}
	}
	var mesh *telemetryv1.Telemetry // what those of namespaces replace
	if len(o.namespaces) > 0 && len(free) > 0 {
		if mesh, err = c.oldestTelemetry(ctx, o.IstioNamespace); err != nil {
			return nil, err
		}
		if mesh != nil && namesProvider(mesh) {
			add(Fine, "Telemetry %s/%s sends the records", mesh.Namespace, mesh.Name)
			logged, free = append(logged, free...), nil
		}
	}
	o.loggedElsewhere = len(logged) > 0
	switch {
	case len(free) == 0:
	case o.loggedElsewhere:
		add(Warning, "lines for the spec of a Telemetry without a selector in %s:\n%s", strings.Join(free, ", "), lines)
		add(Refusal, "Telemetry resources of others send the records of %s, but not of %s, and an installation sends those of all its namespaces or of none: choose --mtls-log %s, or create one there, with the lines above and the access logs that it replaces, and repeat",
			strings.Join(logged, ", "), strings.Join(free, ", "), MTLSEnvoyFilter)
	default:
		if o.keptLogs, err = config.replacedLogs(mesh); err != nil {
			add(Refusal, "%v: choose --mtls-log %s", err, MTLSEnvoyFilter)
		} else if len(o.keptLogs) > 0 {
			add(Fine, "the mesh's access logs stay: %s", strings.Join(o.keptLogs, ", "))
		}
	}
	return findings, nil
}

// replacedLogs returns the access log providers that a new Telemetry resource with
// accessLogging replaces: those of the mesh-wide one, if it has any, else the implicit ones.
// An error names what the new one cannot keep.
func (m *MeshConfig) replacedLogs(mesh *telemetryv1.Telemetry) (providers []string, err error) {
	if mesh == nil || len(mesh.Spec.AccessLogging) == 0 {
		return m.implicitLogs()
	}
	for _, l := range mesh.Spec.AccessLogging {
		conditions := l.GetMatch().GetMode() != telemetryapi.WorkloadMode_CLIENT_AND_SERVER || l.GetFilter() != nil || l.GetDisabled().GetValue()
		if conditions || len(l.GetProviders()) == 0 {
			return nil, fmt.Errorf("the mesh-wide Telemetry %s/%s has accessLogging with match, filter or disabled, or without providers, which one of a namespace would replace", mesh.Namespace, mesh.Name)
		}
		for _, name := range providerNames(l) {
			if !slices.Contains(providers, name) {
				providers = append(providers, name)
			}
		}
	}
	return providers, nil
}

// implicitLogs returns the access log providers that apply while no Telemetry resource
// has accessLogging. One that has replaces them, so they have to be named there. An
// error names one that cannot be.
func (m *MeshConfig) implicitLogs() ([]string, error) {
	switch {
	case len(m.DefaultProviders.AccessLogging) > 0:
		return m.DefaultProviders.AccessLogging, nil
	case m.EnableEnvoyAccessLogService:
		return nil, errors.New("the mesh configuration has enableEnvoyAccessLogService, which Istio ignores beside a Telemetry resource with accessLogging")
	case m.AccessLogFile == "":
		return nil, nil
	case m.AccessLogFile == builtinLogFile:
		return []string{builtinLog}, nil
	default:
		return nil, fmt.Errorf("the mesh configuration has accessLogFile %s, which Istio ignores beside a Telemetry resource with accessLogging", m.AccessLogFile)
	}
}

// builtinLog is Istio's own provider of an access log, which writes to builtinLogFile in
// the format of the mesh configuration (Istio, pilot/pkg/model/telemetry_logging.go).
const (
	builtinLog     = "envoy"
	builtinLogFile = "/dev/stdout"
)

// missingProviders returns the providers of MTLSTelemetry that the mesh configuration
// lacks, or has with another service.
func (m *MeshConfig) missingProviders(namespace string) (missing []string) {
	for _, name := range []string{ClientProvider, ServerProvider} {
		found := false
		for _, provider := range m.ExtensionProviders {
			var has string
			var als struct {
				Service string `json:"service"`
				Port    int    `json:"port"`
			}
			if json.Unmarshal(provider["name"], &has) != nil || !strings.EqualFold(has, name) || json.Unmarshal(provider["envoyOtelAls"], &als) != nil {
				continue
			}
			found = found || strings.HasSuffix(als.Service, hostIn(namespace)) && als.Port == accessLogPort
		}
		if !found {
			missing = append(missing, name)
		}
	}
	return missing
}

// providersIn returns the providers as YAML, for the mesh configuration.
func providersIn(namespace string) (string, error) {
	objects, err := readObjects(istio.Files, providerFile)
	if err != nil {
		return "", err
	}
	if len(objects) != 1 {
		return "", fmt.Errorf("%s has %d objects, want 1", providerFile, len(objects))
	}
	renameService(objects[0].Object, namespace)
	mesh, _, err := unstructured.NestedMap(objects[0].Object, "spec", "meshConfig")
	if err != nil {
		return "", err
	}
	text, err := yaml.Marshal(mesh)
	return string(text), err
}

// loggingLines returns the entries of accessLogging as YAML.
func loggingLines() (string, error) {
	telemetry := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "x", "spec": map[string]any{}}}
	if err := patchObject(istio.Files, telemetry, "mtls/telemetry/telemetry.yaml"); err != nil {
		return "", err
	}
	text, err := yaml.Marshal(telemetry.Object["spec"])
	return string(text), err
}

// checkSidecars finds Sidecar resources that hide the agents' service from proxies.
func checkSidecars(ctx context.Context, c *Cluster, o *Options) ([]Finding, error) {
	all, err := List[networkingv1alpha3.Sidecar](ctx, c, kindSidecar, "", metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var findings []Finding
	for _, s := range all {
		if o.leaves(s.Namespace) {
			continue
		}
		var hosts []string
		for _, listener := range s.Spec.Egress {
			hosts = append(hosts, listener.Hosts...)
		}
		if len(hosts) > 0 && !slices.ContainsFunc(hosts, func(h string) bool { return admits(h, s.Namespace, o.Namespace) }) {
			findings = append(findings, Finding{Level: Warning, Text: fmt.Sprintf(
				"Sidecar %s/%s hides the agents' service from its proxies, which therefore send no records: add %s/%s to the hosts of its egress",
				s.Namespace, s.Name, o.Namespace, hostIn(o.Namespace))})
		}
	}
	return findings, nil
}

// admits reports whether a host of a Sidecar's egress, NAMESPACE/NAME, admits the agents'
// service.
func admits(host, own, namespace string) bool {
	in, name, ok := strings.Cut(host, "/")
	if !ok || in != "*" && in != namespace && (in != "." || own != namespace) {
		return false
	}
	suffix, wild := strings.CutPrefix(name, "*")
	return wild && strings.HasSuffix(hostIn(namespace), suffix) || name == hostIn(namespace)
}

// LogsTo reports whether proxies log to a provider in a mode, by the accessLogging of the
// Telemetry resources that apply to them, from the mesh to the workload, and the mesh's
// default providers. It follows Istio's mergeLogs (pilot/pkg/model/telemetry.go): the
// last level that names providers for the mode replaces those before it.
func LogsTo(provider string, mode telemetryapi.WorkloadMode, levels [][]*telemetryapi.AccessLogging, defaults []string) bool {
	if len(levels) == 0 {
		return slices.Contains(defaults, provider)
	}
	applies := func(l *telemetryapi.AccessLogging) bool {
		m := l.GetMatch().GetMode()
		return m == telemetryapi.WorkloadMode_CLIENT_AND_SERVER || m == mode
	}
	inScope := defaults
	for _, level := range levels {
		var named []string
		for _, l := range level {
			if applies(l) {
				named = append(named, providerNames(l)...)
			}
		}
		if len(named) > 0 {
			inScope = named
		}
	}
	if !slices.Contains(inScope, provider) {
		return false
	}
	logs, parent := false, defaults
	for _, level := range levels {
		for _, l := range level {
			if names := providerNames(l); len(names) > 0 {
				parent = names
			}
			if applies(l) && slices.Contains(parent, provider) {
				logs = !l.GetDisabled().GetValue()
			}
		}
	}
	return logs
}

func providerNames(l *telemetryapi.AccessLogging) (names []string) {
	for _, p := range l.GetProviders() {
		names = append(names, p.GetName())
	}
	return names
}
