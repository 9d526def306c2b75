// SPDX-License-Identifier: Apache-2.0

package install

import (
	"strings"
	"testing"
)

// Images may be named by tag, by digest, by both, with a registry and its port.
func TestImagesByDigest(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("0f", 32)
	for _, image := range []string{"agent", "team/agent:1.2", "registry.example/layertrace/agent" + digest, "registry.example:5000/a/b-c_d:v1" + digest, "localhost:5000/agent:1"} {
		o := defaults(ReorderPatched)
		o.Image, o.ProxyImage = image, image
		if err := o.Check(); err != nil {
			t.Error(err)
		}
		if got := daemonSetOf(t, render(t, o)).Spec.Template.Spec.Containers[0].Image; got != image {
			t.Errorf("the agents' image is %s, want %s", got, image)
		}
	}
}

func TestCheckNamesTheFlag(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"--reorder":                    func(o *Options) { o.Reorder = "front" },
		"--namespace":                  func(o *Options) { o.Namespace = "A" },
		"Istio's own":                  func(o *Options) { o.Namespace = o.IstioNamespace },
		"--istio-namespace":            func(o *Options) { o.IstioNamespace = "" },
		"--otlp-endpoint":              func(o *Options) { o.OTLPEndpoint = "jaeger" },
		"--sampling":                   func(o *Options) { o.Sampling = 101 },
		"--wasm-sha256":                func(o *Options) { o.WasmSHA256 = "abc" },
		"--wasm-url":                   func(o *Options) { o.WasmURL = "file:///filter.wasm" },
		"needs a WasmPlugin":           func(o *Options) { o.Reorder, o.WasmPullSecret = ReorderEnvoyFilter, "s" },
		"has no effect with":           func(o *Options) { o.Reorder = ReorderLua },
		"did you mean":                 func(o *Options) { o.AgentSettings = []string{"prefix-windows=2048"} },
		"not a TCP port":               func(o *Options) { o.AgentSettings = []string{"ports=http"} },
		"without --mtls":               func(o *Options) { o.AgentSettings = []string{"mtls-ports=8080"} },
		"use --mtls":                   func(o *Options) { o.AgentSettings = []string{"mtls=true"} },
		"with --mtls off":              func(o *Options) { o.AgentSettings = []string{"access-log-address=:4327"} },
		"number of the port":           func(o *Options) { o.MTLS, o.AgentSettings = MTLSOn, []string{"access-log-address=:logs"} },
		"NAME=VALUE":                   func(o *Options) { o.AgentSettings = []string{"deep"} },
		"choose 64 to 4096":            func(o *Options) { o.AgentSettings = []string{"prefix-window=9999"} },
		"--tracer":                     func(o *Options) { o.Reorder, o.Tracer = ReorderInlineHeaders, "datadog" },
		"--mtls ":                      func(o *Options) { o.MTLS = "strict" },
		"--namespace-selector \"a=":    func(o *Options) { o.NamespaceSelector = "a=b=c" },
		"KEY=VALUE,...":                func(o *Options) { o.WorkloadSelector = "app in (a, b)" },
		"--revision":                   func(o *Options) { o.Revision = "A_1" },
		"needs --namespace-selector":   func(o *Options) { o.WorkloadSelector = "app=web" }, // with a Telemetry
		"--mtls-log":                   func(o *Options) { o.MTLSLog = "lua" },
		"--image \"agent:1@sha256:a\"": func(o *Options) { o.Image = "agent:1@sha256:a" },
		"--image \"oci://":             func(o *Options) { o.Image = "oci://example.org/agent:1" },
		"--proxy-image":                func(o *Options) { o.Reorder, o.WasmURL, o.ProxyImage = ReorderPatched, "", "Proxy:1" },
	} {
		o := defaults(ReorderWasmPlugin)
		change(&o)
		if err := o.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want a message with %q", err, want)
		}
	}
}
