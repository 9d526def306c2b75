// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/proxytest"

	"github.com/layertrace/layertrace/wasm-filter/reorder/reordertest"
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
		{`{"formats":["w3c","b3","jaeger","datadog","skywalking","xray","gcp"]}`, front, ""},
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
		{`{"formats":["B3"]}`, stock, `"B3" is not a format (known: w3c, b3, jaeger, datadog, skywalking, xray, gcp)`},
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
					t.Errorf("headers after the filter (-want +got):\n%s", diff)
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
	sendRequest(t, proxy, front)     // already first
	sendRequest(t, proxy, stock[:4]) // no trace context
	sendRequest(t, proxy, stock)
	for name, want := range map[string]uint64{
		counterReordered: 2, counterFirst: 1, counterNoContext: 1, counterErrors: 0,
	} {
		if got := readCounter(t, proxy, name); got != want {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
}

var errHost = errors.New("host call failed")

// brokenHost is a proxy whose calls fail one by one.
type brokenHost struct {
	getFails, setFails, cut, countersFail, configFails bool

	replaced bool
	names    []string // of the counters; their index is the ID
	counted  map[string]int
	warnings []string
}

func (h *brokenHost) configuration() ([]byte, error) {
	if h.configFails {
		return nil, errHost
	}
	return nil, nil
}

func (h *brokenHost) property(string) ([]byte, error) { return nil, errHost }

func (h *brokenHost) requestHeaders() ([]byte, error) {
	pairs := reordertest.Encode(stock)
	switch {
	case h.getFails:
		return nil, errHost
	case h.cut:
		return pairs[:len(pairs)-1], nil
	}
	return pairs, nil
}

func (h *brokenHost) setRequestHeaders([]byte) error {
	if h.setFails {
		return errHost
	}
	h.replaced = true
	return nil
}

func (h *brokenHost) defineCounter(name string) (uint32, error) {
	if h.countersFail {
		return 0, errHost
	}
	h.names = append(h.names, name)
	return uint32(len(h.names) - 1), nil
}

func (h *brokenHost) increment(id uint32) { h.counted[h.names[id]]++ }

func (h *brokenHost) warn(message string) { h.warnings = append(h.warnings, message) }

// TestHostFailures checks that no failure of the proxy changes a request, and
// that each is counted or logged.
func TestHostFailures(t *testing.T) {
	for name, test := range map[string]struct {
		host             brokenHost
		replaced         bool
		errors, warnings int
	}{
		"none":            {brokenHost{}, true, 0, 0},
		"get headers":     {brokenHost{getFails: true}, false, 1, 0},
		"cut headers":     {brokenHost{cut: true}, false, 1, 0},
		"replace headers": {brokenHost{setFails: true}, false, 1, 0},
		"counters":        {brokenHost{countersFail: true}, true, 0, 4},
		"configuration":   {brokenHost{configFails: true}, false, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := &test.host
			h.counted = map[string]int{}
			v := vm{host: h}
			v.configure()
			v.request(1)
			if h.replaced != test.replaced {
				t.Errorf("headers replaced: %v, want %v", h.replaced, test.replaced)
			}
			if got := h.counted[counterErrors]; got != test.errors {
				t.Errorf("%s is %d, want %d", counterErrors, got, test.errors)
			}
			if len(h.warnings) != test.warnings {
				t.Errorf("warnings %q, want %d", h.warnings, test.warnings)
			}
		})
	}
}

// sharedHost is a proxy with several plugins in one VM: the current stream or
// configuration belongs to the plugin of this name.
type sharedHost struct {
	brokenHost
	name, json string
	headers    [][2]string
}

func (h *sharedHost) configuration() ([]byte, error) { return []byte(h.json), nil }

func (h *sharedHost) property(name string) ([]byte, error) {
	if name != "plugin_name" {
		return nil, errHost
	}
	return []byte(h.name), nil
}

func (h *sharedHost) setRequestHeaders(pairs []byte) error {
	h.headers = reordertest.Decode(pairs)
	return nil
}

// TestPluginsOfOneVM checks that each stream gets the configuration of its own
// plugin, and that a plugin can be reconfigured.
func TestPluginsOfOneVM(t *testing.T) {
	h := &sharedHost{brokenHost: brokenHost{counted: map[string]int{}}}
	v := vm{host: h}
	configure := func(name, json string) {
		h.name, h.json = name, json
		v.configure()
	}
	check := func(name string, want [][2]string) {
		t.Helper()
		h.name, h.headers = name, slices.Clone(stock)
		v.request(1)
		if diff := cmp.Diff(want, h.headers); diff != "" {
			t.Errorf("headers after plugin %q (-want +got):\n%s", name, diff)
		}
	}
	configure("one", `{"headers":["x-own"]}`)
	check("one", own)
	configure("two", ``)
	check("two", front)
	check("one", own)
	configure("passive", `{"header":[]}`)
	check("passive", stock)
	check("one", own)
	check("unknown", stock)
	configure("one", ``)
	check("one", front)
	v.end(1) // of a stream that is not watched
}

// fixedHost returns the same request each time, from one buffer.
type fixedHost struct {
	brokenHost
	pairs []byte
}

func (h *fixedHost) requestHeaders() ([]byte, error) { return h.pairs, nil }

func TestRequestAllocatesNothing(t *testing.T) {
	for name, headers := range map[string][][2]string{
		"reordered": stock, "already first": front, "without context": stock[:4],
	} {
		h := &fixedHost{brokenHost: brokenHost{counted: map[string]int{}}, pairs: reordertest.Encode(headers)}
		v := vm{host: h}
		v.configure()
		v.request(1) // the buffers get their size
		if n := testing.AllocsPerRun(100, func() { v.request(1) }); n != 0 {
			t.Errorf("%s: a request allocates %v times, want 0", name, n)
		}
	}
}
