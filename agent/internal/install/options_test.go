// SPDX-License-Identifier: Apache-2.0

package install

import (
	"strings"
	"testing"
)

func TestCheckNamesTheFlag(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"--reorder":                  func(o *Options) { o.Reorder = "front" },
		"--namespace":                func(o *Options) { o.Namespace = "A" },
		"Istio's own":                func(o *Options) { o.Namespace = o.IstioNamespace },
		"--istio-namespace":          func(o *Options) { o.IstioNamespace = "" },
		"--otlp-endpoint":            func(o *Options) { o.OTLPEndpoint = "jaeger" },
		"--sampling":                 func(o *Options) { o.Sampling = 101 },
		"--wasm-sha256":              func(o *Options) { o.WasmSHA256 = "abc" },
		"--wasm-url":                 func(o *Options) { o.WasmURL = "file:///filter.wasm" },
		"needs a WasmPlugin":         func(o *Options) { o.Reorder, o.WasmPullSecret = ReorderEnvoyFilter, "s" },
		"has no effect with":         func(o *Options) { o.Reorder = ReorderLua },
		"did you mean":               func(o *Options) { o.AgentSettings = []string{"prefix-windows=2048"} },
		"not a TCP port":             func(o *Options) { o.AgentSettings = []string{"ports=http"} },
		"without --mtls":             func(o *Options) { o.AgentSettings = []string{"mtls-ports=8080"} },
		"use --mtls":                 func(o *Options) { o.AgentSettings = []string{"mtls=true"} },
		"with --mtls off":            func(o *Options) { o.AgentSettings = []string{"access-log-address=:4327"} },
		"number of the port":         func(o *Options) { o.MTLS, o.AgentSettings = MTLSOn, []string{"access-log-address=:logs"} },
		"NAME=VALUE":                 func(o *Options) { o.AgentSettings = []string{"deep"} },
		"choose 64 to 4096":          func(o *Options) { o.AgentSettings = []string{"prefix-window=9999"} },
		"--tracer":                   func(o *Options) { o.Reorder, o.Tracer = ReorderInlineHeaders, "datadog" },
		"--mtls ":                    func(o *Options) { o.MTLS = "strict" },
		"--namespace-selector \"a=":  func(o *Options) { o.NamespaceSelector = "a=b=c" },
		"KEY=VALUE,...":              func(o *Options) { o.WorkloadSelector = "app in (a, b)" },
		"--revision":                 func(o *Options) { o.Revision = "A_1" },
		"needs --namespace-selector": func(o *Options) { o.WorkloadSelector = "app=web" }, // with a Telemetry
		"--mtls-log":                 func(o *Options) { o.MTLSLog = "lua" },
	} {
		o := defaults(ReorderWasmPlugin)
		change(&o)
		if err := o.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want a message with %q", err, want)
		}
	}
}
