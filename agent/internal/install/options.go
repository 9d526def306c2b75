// SPDX-License-Identifier: Apache-2.0

// Package install puts layertrace on a Kubernetes cluster with Istio, tells how
// it does there, and takes it away again. What it installs are the manifests of
// the istio folder, which are part of the binary.
package install

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Ways to put the trace context in front, the values of --reorder.
const (
	// ReorderWasmPlugin is the Wasm filter, fetched by a WasmPlugin and run as an
	// upstream HTTP filter.
	ReorderWasmPlugin = "wasmplugin"
	// ReorderInlineHeaders is the Wasm filter in the connection manager, for
	// proxies with the trace headers as inline headers.
	ReorderInlineHeaders = "wasmplugin-inline-headers"
	// ReorderEnvoyFilter is the Wasm filter as an upstream HTTP filter, without a
	// WasmPlugin.
	ReorderEnvoyFilter = "envoyfilter"
	// ReorderLua is the Lua script as an upstream HTTP filter.
	ReorderLua = "lua"
	// ReorderPatched is a patched Envoy in the proxy's image.
	ReorderPatched = "patched"
	// ReorderNone leaves the order as it is.
	ReorderNone = "none"
)

// Reorders are all ways, the default first.
var Reorders = []string{ReorderWasmPlugin, ReorderInlineHeaders, ReorderEnvoyFilter, ReorderLua, ReorderPatched, ReorderNone}

// Tracers are the values of --tracer: whose header names a request without a
// context gets as placeholders (ReorderInlineHeaders only).
var Tracers = []string{"opentelemetry", "zipkin"}

// What the manifests say.
const (
	// DefaultNamespace is the agent's.
	DefaultNamespace = "layertrace-system"
	// DefaultIstioNamespace is Istio's root namespace.
	DefaultIstioNamespace = "istio-system"
)

// Options say what is installed. Empty strings leave what the manifests say.
type Options struct {
	Reorder        string
	Namespace      string
	IstioNamespace string
	// Image of the agent.
	Image string
	// OTLPEndpoint takes the agents' spans, HOST:PORT.
	OTLPEndpoint string
	// OTLPInsecure: without TLS.
	OTLPInsecure bool
	// Spans are those of the agents: config.SpansInterfaces or config.SpansLayers.
	Spans string
	// AgentSettings are further settings of the agents, NAME=VALUE with the names
	// and the form of its flags.
	AgentSettings []string
	// TracingProvider is the extension provider of the Telemetry resource; empty:
	// tracing is left as it is.
	TracingProvider string
	// Sampling in percent, used with TracingProvider.
	Sampling float64
	// WasmURL (oci, https, http) and WasmSHA256 (64 hex digits, may be empty) name
	// the module. WasmPullSecret is a Secret in Istio's root namespace, for a
	// WasmPlugin.
	WasmURL, WasmSHA256, WasmPullSecret string
	// Tracer is one of Tracers.
	Tracer string
	// AppNamespaces get the bootstrap override (ReorderInlineHeaders).
	AppNamespaces []string
	// ProxyImage is that of the patched proxy (ReorderPatched).
	ProxyImage string
	// PodMonitor: with one.
	PodMonitor bool
	// IstioVersion as MAJOR.MINOR, where the cluster does not tell it; empty: the
	// newest known.
	IstioVersion string
}

// usesWasm reports whether a module has to be fetched.
func (o *Options) usesWasm() bool {
	return o.Reorder == ReorderWasmPlugin || o.Reorder == ReorderInlineHeaders || o.Reorder == ReorderEnvoyFilter
}

// usesUpstreamFilters reports whether the router's upstream_http_filters are set.
func (o *Options) usesUpstreamFilters() bool {
	return o.Reorder == ReorderWasmPlugin || o.Reorder == ReorderEnvoyFilter || o.Reorder == ReorderLua
}

var (
	sha256Text = regexp.MustCompile(`^[0-9a-f]{64}$`)
	nameText   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`) // RFC 1123 label
)

// Check returns an error that names the flag to correct.
func (o *Options) Check() error {
	if !slices.Contains(Reorders, o.Reorder) {
		return fmt.Errorf("--reorder %q is not one of %s", o.Reorder, strings.Join(Reorders, ", "))
	}
	for flag, name := range map[string]string{"namespace": o.Namespace, "istio-namespace": o.IstioNamespace} {
		if !nameText.MatchString(name) {
			return fmt.Errorf("--%s %q is no name of a namespace", flag, name)
		}
	}
	if o.Namespace == o.IstioNamespace {
		return fmt.Errorf("--namespace is Istio's own, %s: choose one for the agent alone", o.Namespace)
	}
	if _, _, err := net.SplitHostPort(o.OTLPEndpoint); o.OTLPEndpoint != "" && err != nil {
		return fmt.Errorf("--otlp-endpoint %q: write HOST:PORT, such as jaeger-collector.istio-system.svc:4317", o.OTLPEndpoint)
	}
	if o.Sampling < 0 || o.Sampling > 100 {
		return fmt.Errorf("--sampling is %v: choose a percentage of 0 to 100", o.Sampling)
	}
	if o.Reorder == ReorderInlineHeaders && !slices.Contains(Tracers, o.Tracer) {
		return fmt.Errorf("--tracer %q is not one of %s", o.Tracer, strings.Join(Tracers, ", "))
	}
	if err := checkSettings(o.Spans, o.AgentSettings); err != nil {
		return err
	}
	return o.checkWasm()
}

func (o *Options) checkWasm() error {
	if o.WasmPullSecret != "" && o.Reorder != ReorderWasmPlugin && o.Reorder != ReorderInlineHeaders {
		return fmt.Errorf("--wasm-pull-secret is for a WasmPlugin: choose --reorder %s, or leave it out", ReorderWasmPlugin)
	}
	if !o.usesWasm() {
		if o.WasmURL != "" {
			return fmt.Errorf("--wasm-url has no use with --reorder %s: leave one out", o.Reorder)
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
		return fmt.Errorf("--wasm-url %q: write oci://, https:// or http:// and where the module is", o.WasmURL)
	}
	return nil
}
