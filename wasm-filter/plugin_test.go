// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/proxytest"
)

func readCounter(t *testing.T, proxy proxytest.HostEmulator, name string) uint64 {
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
		{" { } ", front, ""},
		{"null", front, ""},
		{`{"headers":null,"formats":null,"placement":null,"placeholders":null}`, front, ""},
		{`{"headers":[]}`, front, ""},
		{`{"headers":["X-Own"]}`, own, ""},
		{`{"headers":["x-o\u0077n"]}`, own, ""},
		{`{"formats":["b3"]}`, front, ""},
		{`{"formats":["w3c","b3","jaeger","datadog","skywalking"]}`, front, ""},
		{`{"formats":["w3c","jaeger","datadog","skywalking"]}`, stock, ""},
		{`{"formats":["w3c"],"headers":["x-own","b3"]}`, own, ""},
		{`{"formats":[],"headers":["b3"]}`, front, ""},
		{`{"placement":"upstream","placeholders":""}`, front, ""},
		{`{"placement":"connection-manager"}`, front, ""},

		{`{"header":["x-own"]}`, stock, `unknown key "header" (known: "formats", "headers", "placement", "placeholders")`},
		{`{"Headers":["x-own"]}`, stock, `unknown key "Headers"`},
		{`{"headers":["x-own"],"more":1}`, stock, `unknown key "more"`},
		{`{"headers":"x-own"}`, stock, `"headers" must be an array of strings`},
		{`{"headers":[1]}`, stock, `"headers" must be an array of strings`},
		{`{"headers":[null]}`, stock, `"headers" must be an array of strings`},
		{`{"headers":[["x-own"]]}`, stock, `"headers" must be an array of strings`},
		{`{"headers":["x own"]}`, stock, `"x own" is not a header name`},
		{`{"headers":[""]}`, stock, `"" is not a header name`},
		{`{"headers":["Host"]}`, stock, `"Host" cannot be moved`},
		{`{"headers":["x-own"],"headers":["b3"]}`, stock, `duplicate object member name "headers"`},
		{`{"formats":"b3"}`, stock, `"formats" must be an array of strings`},
		{`{"formats":["B3"]}`, stock, `"B3" is not a format (known: w3c, b3, jaeger, datadog, skywalking)`},
		{`{"formats":[]}`, stock, `"formats" is empty`},
		{`{"placement":1}`, stock, `"placement" must be a string`},
		{`{"placement":"router"}`, stock, `"placement" is "router", must be`},
		{`{"placeholders":true}`, stock, `"placeholders" must be a string`},
		{`{"placeholders":"zipkin"}`, stock, `"placeholders" needs "placement" "connection-manager"`},
		{`{"placement":"connection-manager","placeholders":"b3"}`, stock, `"placeholders" is "b3", must be`},
		{`{"placement":"connection-manager","placeholders":"zipkin","formats":["w3c"]}`, stock, `"placeholders" "zipkin" needs "b3"`},
		{`["x-own"]`, stock, "not a JSON object"},
		{`true`, stock, "not a JSON object"},
		{`headers: [x-own]`, stock, "not a JSON object"},
		{`{"headers":[]} {}`, stock, "not a JSON object"},
		{`{"headers":[]} x`, stock, "not a JSON object"},
		{`{"headers":["x-own",]}`, stock, "not a JSON object"},
		{`{"headers":[],}`, stock, "not a JSON object"},
		{`{"headers":[`, stock, "not a JSON object"},
		{`{"headers":["x-own"]`, stock, "not a JSON object"},
		{`{"headers"`, stock, "not a JSON object"},
		{`{`, stock, "not a JSON object"},
		{`nul`, stock, "not a JSON object"},
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
	for name, want := range map[string]uint64{
		counterMoved: 2, counterInFront: 1, counterAbsent: 1, counterErrors: 0,
	} {
		if got := readCounter(t, proxy, name); got != want {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
}
