// SPDX-License-Identifier: Apache-2.0

package compact

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/layertrace/layertrace/wasm-filter/reorder/reordertest"
)

// Counters of the filter, in Envoy's /stats with the prefix "wasmcustom.". Each
// request counts in one of the first four.
const (
	counterReordered    = "layertrace_requests_reordered"
	counterFirst        = "layertrace_requests_already_first"
	counterNoContext    = "layertrace_requests_without_context"
	counterErrors       = "layertrace_host_call_errors"
	counterPlaceholders = "layertrace_requests_with_placeholders"
	counterLeft         = "layertrace_placeholders_left"
)

var (
	stock = [][2]string{{":authority", "a"}, {":path", "/"}, {"x-own", "1"}, {"x", "2"}, {"b3", "0"}}
	front = [][2]string{{":authority", "a"}, {":path", "/"}, {"b3", "0"}, {"x-own", "1"}, {"x", "2"}}
	own   = [][2]string{{":authority", "a"}, {":path", "/"}, {"x-own", "1"}, {"b3", "0"}, {"x", "2"}}
)

var configurations = []struct {
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
	{`{"headers":[":path"]}`, stock, `":path" is not a header name`},
	{`{"headers":["x:"]}`, stock, `"x:" is not a header name`},
	{`{"headers":["é"]}`, stock, `"é" is not a header name`},
	{`{"headers":["a\nb\u0000"]}`, stock, `"a\x0ab\x00" is not a header name`},
	{`{"headers":["\ud83d\ude00\u00e9\u20ac"]}`, stock, `"😀é€" is not a header name`},
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
	{`{"headers" ["x-own"]}`, stock, "not a JSON object: invalid at byte 11"},
	{`{"headers":["x-o`, stock, "not a JSON object"},
	{`{"headers":["x-o\`, stock, "not a JSON object"},
	{`{"headers":["x-o\u00`, stock, "not a JSON object"},
	{`{"headers":["\ud83d"]}`, stock, "not a JSON object"},
	{`{"headers":["\ud83d\u0041"]}`, stock, "not a JSON object"},
	{`{"headers":["\x"]}`, stock, "not a JSON object"},
	{"{\"headers\":[\"a\nb\"]}", stock, "not a JSON object"},
	{"{}\x00", stock, "not a JSON object"},
	{`{"formats":["` + strings.Repeat("x", 2000) + `"]}`, stock, `"xxx`},
}

func TestConfigurations(t *testing.T) {
	for _, test := range configurations {
		t.Run(test.configuration, func(t *testing.T) {
			h := &fakeHost{json: test.configuration}
			i := start(t, h)
			for range 2 { // the log line must not come again with each request
				if diff := cmp.Diff(test.want, h.send(i, stock)); diff != "" {
					t.Errorf("headers after the filter (-want +got):\n%s", diff)
				}
			}
			if len(h.warnings) != 0 && test.warning == "" || test.warning != "" &&
				(len(h.warnings) != 1 || !strings.HasPrefix(h.warnings[0], "layertrace: read plugin configuration: ") ||
					!strings.Contains(h.warnings[0], test.warning) || !strings.HasSuffix(h.warnings[0], "; headers are not reordered")) {
				t.Errorf("log is %q, want one line with %q", h.warnings, test.warning)
			}
		})
	}
}

// TestSameConfigurationsAsGo passes these configurations and random changes of them to both
// modules: both must accept and reject the same, and then do the same.
func TestSameConfigurationsAsGo(t *testing.T) {
	var c, g fakeHost
	inC, inGo := start(t, &c), newInstanceOf(t, buildGo(t), &g)
	const seed, changes = 3, 40
	random := rand.New(rand.NewPCG(seed, seed))
	rejected, accepted := 0, 0
	check := func(configuration string) {
		t.Helper()
		c, g = fakeHost{json: configuration}, fakeHost{json: configuration}
		inC.configure()
		inGo.configure()
		if len(c.warnings) != len(g.warnings) {
			t.Fatalf("configuration %q: C logs %q, Go %q", configuration, c.warnings, g.warnings)
		}
		if diff := cmp.Diff(g.send(inGo, stock), c.send(inC, stock)); diff != "" {
			t.Fatalf("configuration %q (-Go +C):\n%s", configuration, diff)
		}
		if len(c.warnings) > 0 {
			rejected++
		} else {
			accepted++
		}
	}
	for _, test := range configurations {
		check(test.configuration)
		for range changes {
			check(changed(random, test.configuration))
		}
	}
	if rejected < 100 || accepted < 100 {
		t.Errorf("%d configurations rejected and %d accepted: too few to compare", rejected, accepted)
	}
}

// changed returns text with a byte removed, added or replaced, or without its end.
func changed(random *rand.Rand, text string) string {
	const bytes = "{}[]\",:\\ \t\x00\x1f\x80\xffnulteXxb30-"
	at := random.IntN(len(text) + 1)
	with := string(bytes[random.IntN(len(bytes))])
	switch rest := text[at:]; {
	case random.IntN(8) == 0:
		return text[:at]
	case rest == "" || random.IntN(3) == 0:
		return text[:at] + with + rest
	case random.IntN(2) == 0:
		return text[:at] + rest[1:]
	default:
		return text[:at] + with + rest[1:]
	}
}

func TestCounters(t *testing.T) {
	h := &fakeHost{}
	i := start(t, h)
	h.send(i, stock)
	h.send(i, front)     // already first
	h.send(i, stock[:4]) // no trace context
	h.send(i, stock)
	want := map[string]int{counterReordered: 2, counterFirst: 1, counterNoContext: 1}
	if diff := cmp.Diff(want, h.counted); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}

// fakeHost is a proxy with one plugin.
type fakeHost struct {
	json     string
	pairs    []byte   // of the current request
	names    []string // of the counters; their index is the ID
	counted  map[string]int
	warnings []string
}

func (h *fakeHost) configuration() ([]byte, error) {
	if h.json == "" {
		return nil, nil
	}
	return []byte(h.json), nil
}

func (h *fakeHost) property(string) ([]byte, error) { return nil, errHost }

func (h *fakeHost) requestHeaders() ([]byte, error) { return h.pairs, nil }

func (h *fakeHost) setRequestHeaders(pairs []byte) error {
	h.pairs = pairs
	return nil
}

func (h *fakeHost) defineCounter(name string) (uint32, error) {
	h.names = append(h.names, name)
	return uint32(len(h.names) - 1), nil
}

func (h *fakeHost) increment(id uint32) {
	if h.counted == nil {
		h.counted = map[string]int{}
	}
	h.counted[h.names[id]]++
}

func (h *fakeHost) warn(message string) { h.warnings = append(h.warnings, message) }

// send passes headers through the filter and returns the result.
func (h *fakeHost) send(i *instance, headers [][2]string) [][2]string {
	h.pairs = reordertest.Encode(headers)
	i.request(1)
	i.end(1)
	return reordertest.Decode(h.pairs)
}

// start runs the filter with the configuration of a host.
func start(t testing.TB, h host) *instance {
	t.Helper()
	i := newInstance(t, h)
	i.configure()
	return i
}

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
			start(t, h).request(1)
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
	i := newInstance(t, h)
	configure := func(name, json string) {
		h.name, h.json = name, json
		i.configure()
	}
	check := func(name string, want [][2]string) {
		t.Helper()
		h.name, h.headers = name, slices.Clone(stock)
		i.request(1)
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
	i.end(1) // of a stream that is not watched
}

// TestMemoryDoesNotGrow: the module frees nothing, so requests, and configurations after
// the first ones, must allocate nothing.
func TestMemoryDoesNotGrow(t *testing.T) {
	h := &fakeHost{json: `{"headers":["x-own"]}`}
	i := start(t, h)
	long := append([][2]string{{":path", "/"}, {"cookie", strings.Repeat("c", 100_000)}}, stock[2:]...)
	many := slices.Concat(slices.Repeat([][2]string{{"a", "b"}}, 5000), stock)
	use := func() {
		for _, headers := range [][][2]string{stock, long, many, front, stock[:4]} {
			h.send(i, headers)
		}
		h.names = nil // their IDs begin at 0 again
		i.configure()
	}
	use()
	before := i.module.Memory().Size()
	for range 200 {
		use()
	}
	if after := i.module.Memory().Size(); after != before {
		t.Errorf("the memory grew from %d to %d bytes", before, after)
	}
	if got, want := h.send(i, long)[1], (h.send(i, stock)[2]); got != want {
		t.Errorf("a long request has %v first, a short one %v", got, want)
	}
}

// FuzzConfiguration runs the module's JSON reader on any bytes: it must not trap, it accepts
// only valid JSON, and what it refuses leaves requests alone.
func FuzzConfiguration(f *testing.F) {
	for _, text := range []string{
		"", "null", `{"headers":["x-o\u0077n","\ud83d\ude00"],"formats":["b3","w3c"]}`, `{"headers":null,"formats":[]}`,
		`{"placement":"connection-manager","placeholders":"zipkin"}`, `{"header":1}`, `{"headers":["`, "{}\x00",
	} {
		f.Add(text)
	}
	h := &fakeHost{}
	i := newInstance(f, h)
	f.Fuzz(func(t *testing.T, text string) {
		h.json, h.warnings, h.names, h.counted = text, nil, nil, nil
		i.configure()
		if len(h.warnings) > 1 {
			t.Fatalf("%q: %q, want one line at most", text, h.warnings)
		}
		refused := len(h.warnings) == 1
		if !refused && strings.Trim(text, " \t\r\n") != "" && !json.Valid([]byte(text)) {
			t.Errorf("%q is not JSON and was accepted", text)
		}
		if refused && !slices.Equal(h.send(i, stock), stock) {
			t.Errorf("%q was refused, and a request was changed", text)
		}
		h.json, h.names = "", nil
		if i.configure(); !slices.Equal(h.send(i, stock), front) {
			t.Errorf("after %q, the default configuration gives %q", text, reordertest.Decode(h.pairs))
		}
	})
}
