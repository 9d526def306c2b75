// SPDX-License-Identifier: Apache-2.0

// Package install installs layertrace into a Kubernetes cluster with Istio and
// removes it again. The objects are the manifests of the istio folder, which are
// embedded in the binary. Preflight checks and the cluster client also serve
// package clusterstatus.
package install

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/istio"
	"github.com/spf13/pflag"
)

//go:generate go test . -run TestSchemaHasTheSettings -update

// Methods to move the trace context to the start of the headers: the values of
// --reorder.
const (
	// ReorderWasmPlugin: the Wasm filter, fetched by a WasmPlugin and run as an
	// upstream HTTP filter.
	ReorderWasmPlugin = "wasmplugin"
	// ReorderInlineHeaders: the Wasm filter in the connection manager, for
	// proxies whose bootstrap declares the trace headers as inline headers.
	ReorderInlineHeaders = "wasmplugin-inline-headers"
	// ReorderEnvoyFilter: the Wasm filter as an upstream HTTP filter, without a
	// WasmPlugin.
	ReorderEnvoyFilter = "envoyfilter"
	// ReorderLua: the Lua script as an upstream HTTP filter.
	ReorderLua = "lua"
	// ReorderPatched: a proxy image with a patched Envoy.
	ReorderPatched = "patched"
	// ReorderNone: Envoy's own order.
	ReorderNone = "none"
)

// Reorders are all methods, the default first.
var Reorders = []string{ReorderWasmPlugin, ReorderInlineHeaders, ReorderEnvoyFilter, ReorderLua, ReorderPatched, ReorderNone}

// Tracers are the values of --tracer: the tracer whose headers a request without
// a context gets as placeholders (ReorderInlineHeaders only).
var Tracers = []string{"opentelemetry", "zipkin"}

// Namespaces in the manifests.
const (
	// DefaultNamespace is the namespace of the agents.
	DefaultNamespace = "layertrace-system"
	// DefaultIstioNamespace is Istio's root namespace.
	DefaultIstioNamespace = "istio-system"
)

// Options of an installation. An empty string keeps the value of the manifests; images are
// then those of the release (package istio).
type Options struct {
	Reorder        string
	Namespace      string
	IstioNamespace string
	// Image of the agent.
	Image string
	// OTLPEndpoint receives the agents' spans, HOST:PORT.
	OTLPEndpoint string
	// OTLPInsecure disables TLS.
	OTLPInsecure bool
	// Spans is config.SpansInterfaces or config.SpansLayers.
	Spans string
	// AgentSettings are more settings of the agents, NAME=VALUE as for its flags.
	AgentSettings []string
	// TracingProvider is the extension provider of the Telemetry resource; empty:
	// tracing is not changed.
	TracingProvider string
	// Sampling in percent, used with TracingProvider.
	Sampling float64
	// WasmURL (oci, https, http) and WasmSHA256 (64 hex digits, optional) locate
	// the module. WasmPullSecret is a Secret in the WasmPlugin's namespace: Istio's root
	// namespace, or each selected one.
	WasmURL, WasmSHA256, WasmPullSecret string
	// Tracer is one of Tracers.
	Tracer string
	// AppNamespaces get the bootstrap override (ReorderInlineHeaders).
	AppNamespaces []string
	// ProxyImage is the patched proxy (ReorderPatched).
	ProxyImage string
	// PodMonitor adds one for the Prometheus operator.
	PodMonitor bool
	// Monitoring adds alert rules for the Prometheus operator, and a dashboard for the
	// sidecar of Grafana.
	Monitoring bool
	// MTLS is one of MTLSModes, MTLSLog one of MTLSLogs.
	MTLS, MTLSLog string
	// NamespaceSelector limits the installation to the proxies and requests of namespaces
	// with these labels, WorkloadSelector to the proxies of pods with these labels
	// (KEY=VALUE,...), Revision to the proxies of one control plane; empty: all.
	NamespaceSelector, WorkloadSelector, Revision string
	// IstioVersion as MAJOR.MINOR, used if the cluster does not report it; empty:
	// the newest known.
	IstioVersion string

	// Found by Preflight, for MTLSTelemetry: access log providers to keep, and whether
	// the mesh's own Telemetry resource sends the records.
	keptLogs        []string
	loggedElsewhere bool
	// trial is set for the installation of a Trial.
	trial bool
	// namespaces are those that NamespaceSelector selects: found by Preflight, or named in
	// it. They do not include Istio's root namespace.
	namespaces []string
}

// DefaultImage is the agents' image without Options.Image.
func DefaultImage() string { return istio.AgentImage() }

// usesWasm reports whether the proxies fetch a module.
func (o *Options) usesWasm() bool {
	return o.Reorder == ReorderWasmPlugin || o.Reorder == ReorderInlineHeaders || o.Reorder == ReorderEnvoyFilter
}

// usesUpstreamFilters reports whether the router's upstream_http_filters are
// patched.
func (o *Options) usesUpstreamFilters() bool {
	return o.Reorder == ReorderWasmPlugin || o.Reorder == ReorderEnvoyFilter || o.Reorder == ReorderLua
}

var (
	sha256Text = regexp.MustCompile(`^[0-9a-f]{64}$`)
	nameText   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`) // RFC 1123 label
	// [REGISTRY[:PORT]/]REPOSITORY[:TAG][@sha256:DIGITS], as container runtimes read it.
	imageText = regexp.MustCompile(`^([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$`)
)

// Check validates the options and sets the images of a release. Errors name the flag to
// correct.
func (o *Options) Check() error {
	if o.Image == "" {
		o.Image = DefaultImage()
	}
	if o.usesWasm() && o.WasmURL == "" {
		url, sha256 := istio.FilterModule()
		if o.WasmURL = url; o.WasmSHA256 == "" {
			o.WasmSHA256 = sha256
		}
	}
	if !slices.Contains(Reorders, o.Reorder) {
		return fmt.Errorf("--reorder %q is not one of %s", o.Reorder, strings.Join(Reorders, ", "))
	}
	for flag, name := range map[string]string{"namespace": o.Namespace, "istio-namespace": o.IstioNamespace} {
		if !nameText.MatchString(name) {
			return fmt.Errorf("--%s %q is not a valid namespace name", flag, name)
		}
	}
	for flag, image := range map[string]string{"image": o.Image, "proxy-image": o.ProxyImage} {
		if image != "" && !imageText.MatchString(image) {
			return fmt.Errorf("--%s %q: write NAME:TAG or NAME@sha256:DIGITS (64 of them), such as %s", flag, image, DefaultImage())
		}
	}
	if o.Namespace == o.IstioNamespace {
		return fmt.Errorf("--namespace %s is Istio's own: choose a namespace for the agents alone", o.Namespace)
	}
	if _, _, err := net.SplitHostPort(o.OTLPEndpoint); o.OTLPEndpoint != "" && err != nil {
		return fmt.Errorf("--otlp-endpoint %q: write HOST:PORT, such as jaeger-collector.istio-system.svc:4317", o.OTLPEndpoint)
	}
	if o.Sampling < 0 || o.Sampling > 100 {
		return fmt.Errorf("--sampling is %v: choose a percentage from 0 to 100", o.Sampling)
	}
	if o.Reorder == ReorderInlineHeaders && !slices.Contains(Tracers, o.Tracer) {
		return fmt.Errorf("--tracer %q is not one of %s", o.Tracer, strings.Join(Tracers, ", "))
	}
	if err := o.checkMTLSFlags(); err != nil {
		return err
	}
	if err := o.checkScope(); err != nil {
		return err
	}
	if err := o.checkSettings(); err != nil {
		return err
	}
	return o.checkWasm()
}

func (o *Options) checkWasm() error {
	if o.WasmPullSecret != "" && o.Reorder != ReorderWasmPlugin && o.Reorder != ReorderInlineHeaders {
		return fmt.Errorf("--wasm-pull-secret needs a WasmPlugin: choose --reorder %s, or omit it", ReorderWasmPlugin)
	}
	if !o.usesWasm() {
		if o.WasmURL != "" {
			return fmt.Errorf("--wasm-url has no effect with --reorder %s: omit one of them", o.Reorder)
		}
		return nil
	}
	if o.WasmSHA256 != "" && !sha256Text.MatchString(o.WasmSHA256) {
		return fmt.Errorf("--wasm-sha256 %q: write 64 lower-case hex digits", o.WasmSHA256)
	}
	if o.WasmURL == "" {
		return nil
	}
	u, err := url.Parse(o.WasmURL)
	if err != nil || u.Host == "" || !slices.Contains([]string{"oci", "https", "http"}, u.Scheme) {
		return fmt.Errorf("--wasm-url %q: write an oci://, https:// or http:// URL of the module", o.WasmURL)
	}
	return nil
}

// checkSettings parses the settings with the agent's own flags, so that a mistake
// shows up here and not as an agent that does not start.
func (o *Options) checkSettings() error {
	flags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	parsed := config.Define(flags)
	if err := flags.Set("spans", o.Spans); err != nil {
		return fmt.Errorf("--spans: %w", err)
	}
	parsed.MTLS = o.readsEncrypted()
	for _, setting := range o.AgentSettings {
		name, value, ok := strings.Cut(setting, "=")
		if !ok {
			return fmt.Errorf("--agent-setting %q: write NAME=VALUE, such as pnic=eth0", setting)
		}
		if flags.Lookup(name) == nil || name == "config" {
			return fmt.Errorf("--agent-setting %s: unknown setting %q%s", setting, name, config.Hint(flags, name, "layertrace agent"))
		}
		if name == "mtls" {
			return fmt.Errorf("--agent-setting %s: the proxies and the agents have to fit each other: use --mtls", setting)
		}
		if name == "access-log-address" && !o.readsEncrypted() {
			return fmt.Errorf("--agent-setting %s has no effect with --mtls %s: omit one of them", setting, o.MTLS)
		}
		if err := flags.Set(name, value); err != nil {
			return fmt.Errorf("--agent-setting %s: %w", setting, err)
		}
	}
	if err := config.Load(flags, parsed, nil); err != nil {
		return fmt.Errorf("--agent-setting: %w", err)
	}
	_, err := o.accessLogPort()
	return err
}
