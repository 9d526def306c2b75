// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/proxytest"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

// start runs the filter in the SDK's emulator of a proxy.
func start(t *testing.T, configuration string) proxytest.HostEmulator {
	t.Helper()
	option := proxytest.NewEmulatorOption().
		WithPluginContext(func(uint32) types.PluginContext { return &plugin{host: sdkHost{}} })
	if configuration != "" {
		option = option.WithPluginConfiguration([]byte(configuration))
	}
	proxy, reset := proxytest.NewHostEmulator(option)
	t.Cleanup(reset)
	if status := proxy.StartPlugin(); status != types.OnPluginStartStatusOK {
		t.Fatalf("start of the plugin: status %v, want OK", status)
	}
	return proxy
}

// sendRequest passes headers through the filter and returns what came out.
func sendRequest(t *testing.T, proxy proxytest.HostEmulator, headers [][2]string) [][2]string {
	t.Helper()
	id := proxy.InitializeHttpContext()
	if action := proxy.CallOnRequestHeaders(id, headers, true); action != types.ActionContinue {
		t.Errorf("the filter answered %v, want Continue", action)
	}
	out := proxy.GetCurrentRequestHeaders(id)
	proxy.CompleteHttpContext(id)
	return out
}

func counter(t *testing.T, proxy proxytest.HostEmulator, name string) uint64 {
	t.Helper()
	value, err := proxy.GetCounterMetric(name)
	if err != nil {
		t.Fatalf("counter %s: %v", name, err)
	}
	return value
}

var (
	stock = [][2]string{{":authority", "a"}, {":path", "/"}, {"x-own", "1"}, {"x", "2"}, {"b3", "0"}}
	front = [][2]string{{":authority", "a"}, {":path", "/"}, {"b3", "0"}, {"x-own", "1"}, {"x", "2"}}
	own   = [][2]string{{":authority", "a"}, {":path", "/"}, {"x-own", "1"}, {"b3", "0"}, {"x", "2"}}
)

func TestConfigurations(t *testing.T) {
	for _, test := range []struct {
		configuration string
		want          [][2]string
		warning       string // a part of the one line in the log, "" for none
	}{
		{"", front, ""},
		{" ", front, ""},
		{"{}", front, ""},
		{`{"headers":null}`, front, ""},
		{`{"headers":[]}`, front, ""},
		{`{"headers":["X-Own"]}`, own, ""},
		{`{"header":["x-own"]}`, stock, `unknown key "header" (known: "headers")`},
		{`{"Headers":["x-own"]}`, stock, `unknown key "Headers"`},
		{`{"headers":"x-own"}`, stock, `"headers" must be an array of strings`},
		{`{"headers":[1]}`, stock, `"headers" must be an array of strings`},
		{`{"headers":["x own"]}`, stock, `"x own" is not a header name`},
		{`{"headers":[""]}`, stock, `"" is not a header name`},
		{`{"headers":[null]}`, stock, `"" is not a header name`},
		{`["x-own"]`, stock, "not a JSON object"},
		{`true`, stock, "not a JSON object"},
		{`headers: [x-own]`, stock, "not a JSON object"},
		{`{"headers":[]} {}`, stock, "not a JSON object"},
		{`{"headers":[`, stock, "not a JSON object"},
		{`null`, front, ""},
	} {
		t.Run(test.configuration, func(t *testing.T) {
			proxy := start(t, test.configuration)
			for range 2 { // the log line must not come again with each request
				if diff := cmp.Diff(test.want, sendRequest(t, proxy, stock)); diff != "" {
					t.Errorf("headers behind the filter (-want +got):\n%s", diff)
				}
			}
			var want []string
			if test.warning != "" {
				want = []string{test.warning}
			}
			logged := proxy.GetWarnLogs()
			if len(logged) != len(want) || len(want) == 1 && !strings.Contains(logged[0], want[0]) {
				t.Errorf("log is %q, want one line with %q", logged, want)
			}
		})
	}
}

func TestCounters(t *testing.T) {
	proxy := start(t, "")
	sendRequest(t, proxy, stock)
	sendRequest(t, proxy, front)     // already in front
	sendRequest(t, proxy, stock[:4]) // no trace context
	sendRequest(t, proxy, stock)
	if got := counter(t, proxy, counterMoved); got != 2 {
		t.Errorf("%s is %d, want 2", counterMoved, got)
	}
	if got := counter(t, proxy, counterErrors); got != 0 {
		t.Errorf("%s is %d, want 0", counterErrors, got)
	}
}
