// SPDX-License-Identifier: Apache-2.0

// Package reorder holds what puts the trace context in front to the golden
// files of e2e/testdata/wire, on the wire of a real Envoy.
package reorder

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/reorder/proxy"
	luafilter "github.com/layertrace/layertrace/lua-filter"
)

// Placement is a way to put the trace context in front, by its name in the
// golden files, in tables and in out/reorder.json.
type Placement string

// Placements that a stock Envoy can run. (The golden files also have "patch",
// what the patched Envoy has to produce; its own tests read that.)
const (
	// Stock is Envoy as it is.
	Stock Placement = "stock"
	// WasmUpstream is the Wasm filter as upstream HTTP filter of the router.
	WasmUpstream Placement = "wasm-upstream"
	// WasmConnectionManager is the Wasm filter in the connection manager, with
	// placeholders, and the tracer's headers as inline headers of the bootstrap.
	WasmConnectionManager Placement = "wasm-connection-manager"
	// LuaUpstream is the Lua script as upstream HTTP filter of the router.
	LuaUpstream Placement = "lua-upstream"
)

// Placements are all that can be run, in the order of tables.
var Placements = []Placement{Stock, WasmUpstream, WasmConnectionManager, LuaUpstream}

// format is the name, in the filters' configuration, of what a tracer writes.
var format = map[lab.Tracer]string{lab.Zipkin: "b3", lab.OpenTelemetry: "w3c"}

// written are the headers that each tracer writes.
var written = map[lab.Tracer][]string{
	lab.Zipkin:        {"x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled"},
	lab.OpenTelemetry: {"traceparent", "tracestate"},
}

// InlineHeaders returns what the bootstrap has to register for a placement: all
// that the tracers write, as in istio/reorder.
func (p Placement) InlineHeaders() []string {
	if p != WasmConnectionManager {
		return nil
	}
	return slices.Concat(written[lab.OpenTelemetry], written[lab.Zipkin])
}

// FilterConfig is what a placement's filter is configured with, beside what
// belongs to the placement. Its zero value means defaults.
type FilterConfig struct {
	// Formats limits what is moved, none means all; Headers are further names.
	Formats, Headers []string
	// UnknownKey adds a key that the Wasm filter does not know.
	UnknownKey bool
}

// Filter returns the HTTP filter of a placement: for the connection manager or
// for the router, or nil for both. module is the path of the Wasm filter.
func (p Placement) Filter(tracer lab.Tracer, module string, c FilterConfig) (downstream, upstream *proxy.Filter, err error) {
	switch p {
	case Stock:
		return nil, nil, nil
	case LuaUpstream:
		source, err := luafilter.Source(luafilter.Config{Formats: c.Formats, Headers: c.Headers})
		return nil, &proxy.Filter{Lua: source}, err
	case WasmUpstream:
		configuration, err := c.json("", "")
		return nil, &proxy.Filter{Wasm: module, Configuration: configuration}, err
	case WasmConnectionManager:
		configuration, err := c.json("connection-manager", string(tracer))
		return &proxy.Filter{Wasm: module, Configuration: configuration}, nil, err
	default:
		return nil, nil, fmt.Errorf("unknown placement %q", p)
	}
}

// json writes the plugin configuration; what is empty is left out.
func (c FilterConfig) json(placement, placeholders string) (string, error) {
	keys := map[string]any{}
	for key, value := range map[string]string{"placement": placement, "placeholders": placeholders} {
		if value != "" {
			keys[key] = value
		}
	}
	for key, value := range map[string][]string{"formats": c.Formats, "headers": c.Headers} {
		if len(value) > 0 {
			keys[key] = value
		}
	}
	if c.UnknownKey {
		keys["unknown"] = true
	}
	if len(keys) == 0 {
		return "", nil
	}
	data, err := json.Marshal(keys)
	return string(data), err
}
