// SPDX-License-Identifier: Apache-2.0

// Package reorder tests and measures what moves the trace context to the start of
// the header list, on the wire of a real Envoy between a client and an upstream: it
// compares requests with the golden files of e2e/testdata/wire, measures the cost of
// a request, and keeps the Wasm filter busy for long.
package reorder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/layertrace/layertrace/e2e/lab"
	luafilter "github.com/layertrace/layertrace/lua-filter"
	"github.com/layertrace/layertrace/wasm-filter/compact"
)

// Options configure the suite of golden files.
type Options struct {
	// Envoy and Module are the paths of Envoy and of the Wasm filter in Go.
	Envoy, Module string
	// Dir is an existing directory for configurations and logs.
	Dir string
	// Golden has a directory of golden files for each tracer.
	Golden fs.FS
	// Placements are the placements to test, all if empty.
	Placements []Placement
	Progress   func(format string, args ...any)
	// After, if set, is called with each Envoy after its cases.
	After func(context.Context, *Testbed) error

	compact string // path of the compact module
}

// Tracers are the tracers with golden files.
var Tracers = []lab.Tracer{lab.Zipkin, lab.OpenTelemetry}

var protocols = []Protocol{HTTP1, HTTP2}

// Result is one case on the wire.
type Result struct {
	Tracer    lab.Tracer `json:"tracer"`
	Placement Placement  `json:"placement"`
	Case      string     `json:"case"`
	Protocol  Protocol   `json:"protocol"`
	Pass      bool       `json:"pass"`
	// Order has the names of the header fields in wire order, of the last attempt
	// if there were several.
	Order []string `json:"order"`
	// Offset is the offset of the tracer's first header in an HTTP/1.1 request, in
	// bytes; -1 without one.
	Offset int `json:"-"`
	// Err is the difference to the golden file when Pass is false.
	Err error `json:"-"`
}

// Run starts an Envoy per tracer and set of inline headers, and sends every case
// through every placement over both protocols. A case that differs from its file is
// a Result without Pass, not an error.
func Run(ctx context.Context, o Options) ([]Result, error) {
	if len(o.Placements) == 0 {
		o.Placements = Placements
	}
	var err error
	if o.compact, err = WriteCompact(o.Dir); err != nil {
		return nil, err
	}
	var results []Result
	for _, tracer := range Tracers {
		cases, err := LoadCases(o.Golden, string(tracer))
		if err != nil {
			return nil, err
		}
		for _, group := range groupByBootstrap(o.Placements) {
			o.Progress("%s: %d cases, %v", tracer, len(cases), group)
			part, err := runGroup(ctx, o, tracer, group, cases)
			results = append(results, part...)
			if err != nil {
				return results, fmt.Errorf("%s, %v: %w", tracer, group, err)
			}
		}
	}
	return results, nil
}

// groupByBootstrap groups the placements by the inline headers they need.
func groupByBootstrap(placements []Placement) [][]Placement {
	var groups [][]Placement
	for _, p := range placements {
		at := slices.IndexFunc(groups, func(g []Placement) bool {
			return slices.Equal(g[0].InlineHeaders(), p.InlineHeaders())
		})
		if at < 0 {
			groups = append(groups, nil)
			at = len(groups) - 1
		}
		groups[at] = append(groups[at], p)
	}
	return groups
}

// runGroup runs placements with the same bootstrap in one Envoy.
func runGroup(ctx context.Context, o Options, tracer lab.Tracer, placements []Placement, cases []Case) (results []Result, err error) {
	testbed, err := startTestbed(ctx, o, tracer, placements, cases)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, testbed.stop()) }()
	if err := testbed.warmUp(ctx, cases); err != nil {
		return nil, err
	}
	for _, c := range cases {
		for _, placement := range placements {
			for _, protocol := range protocols {
				result := Result{Tracer: tracer, Placement: placement, Case: c.Name, Protocol: protocol}
				heads, err := testbed.Exchange(ctx, placement, protocol, c)
				if ctx.Err() != nil {
					return results, ctx.Err()
				}
				if err == nil {
					err = c.Compare(placement.Golden(), heads)
				}
				result.Pass, result.Err = err == nil, err
				result.Order, result.Offset = lastOrder(heads), offset(heads, tracer)
				results = append(results, result)
			}
		}
	}
	if o.After != nil {
		return results, o.After(ctx, testbed)
	}
	return results, nil
}

// Placement is a filter, in its place, that moves the trace context to the start. Tables
// and out/reorder.json have its name.
type Placement string

// Placements that a stock Envoy can run. (The golden files also have "patch", the
// output of the patched Envoy, for its own tests.)
const (
	// Stock is Envoy without a filter.
	Stock Placement = "stock"
	// WasmUpstream is the Wasm filter as upstream HTTP filter of the router.
	WasmUpstream Placement = "wasm-upstream"
	// WasmConnectionManager is the Wasm filter in the connection manager, with
	// placeholders, and with the tracer's headers as inline headers in the
	// bootstrap.
	WasmConnectionManager Placement = "wasm-connection-manager"
	// LuaUpstream is the Lua script as upstream HTTP filter of the router.
	LuaUpstream Placement = "lua-upstream"
	// CompactUpstream and CompactConnectionManager are the compact module in the places
	// of the Wasm filter.
	CompactUpstream          Placement = "compact-upstream"
	CompactConnectionManager Placement = "compact-connection-manager"
)

// Placements are all placements, in the order of tables.
var Placements = []Placement{Stock, WasmUpstream, WasmConnectionManager, LuaUpstream, CompactUpstream, CompactConnectionManager}

// reference returns the placement that must send the same: of the compact module that of
// the filter in Go.
func (p Placement) reference() Placement {
	switch p {
	case CompactUpstream:
		return WasmUpstream
	case CompactConnectionManager:
		return WasmConnectionManager
	default:
		return p
	}
}

// Golden returns the name of a placement in the golden files.
func (p Placement) Golden() string { return string(p.reference()) }

// WriteCompact writes the compact module into a file in the directory and returns its path.
func WriteCompact(dir string) (string, error) {
	path := filepath.Join(dir, "layertrace-compact.wasm")
	if err := os.WriteFile(path, compact.Module, 0o644); err != nil {
		return "", fmt.Errorf("write the compact module: %w", err)
	}
	return path, nil
}

// formatOf is the name, in the filters' configuration, of a tracer's format.
var formatOf = map[lab.Tracer]string{lab.Zipkin: "b3", lab.OpenTelemetry: "w3c"}

// headersOf are the headers that a tracer writes.
var headersOf = map[lab.Tracer][]string{
	lab.Zipkin:        {"x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled"},
	lab.OpenTelemetry: {"traceparent", "tracestate"},
}

// InlineHeaders returns the inline headers that the bootstrap must register for a
// placement: all that the tracers write, as in istio/reorder.
func (p Placement) InlineHeaders() []string {
	if p.reference() != WasmConnectionManager {
		return nil
	}
	return slices.Concat(headersOf[lab.OpenTelemetry], headersOf[lab.Zipkin])
}

// filterConfig is the configuration of a placement's filter, without the part that
// belongs to the placement. The zero value is the default.
type filterConfig struct {
	// Formats are the formats to move, all if empty; Headers are further names.
	Formats, Headers []string
	// UnknownKey adds a key that the Wasm filter rejects.
	UnknownKey bool
}

// filter returns the HTTP filter of a placement, for the connection manager or for
// the router; nil where there is none. module is the path of the Wasm filter.
func (p Placement) filter(tracer lab.Tracer, module string, c filterConfig) (downstream, upstream *Filter, err error) {
	switch p.reference() {
	case Stock:
		return nil, nil, nil
	case LuaUpstream:
		source, err := luafilter.Source(luafilter.Config{Formats: c.Formats, Headers: c.Headers})
		return nil, &Filter{Lua: source}, err
	case WasmUpstream:
		configuration, err := c.json("", "")
		return nil, &Filter{Wasm: module, Configuration: configuration}, err
	case WasmConnectionManager:
		configuration, err := c.json("connection-manager", string(tracer))
		return &Filter{Wasm: module, Configuration: configuration}, nil, err
	default:
		return nil, nil, fmt.Errorf("unknown placement %q", p)
	}
}

// json returns the plugin configuration without empty values.
func (c filterConfig) json(placement, placeholders string) (string, error) {
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

func listenerName(placement Placement, protocol Protocol, setup Setup) string {
	return strings.Join([]string{string(placement), string(protocol), setup.String()}, " ")
}

func newListener(tracer lab.Tracer, placement Placement, protocol Protocol, setup Setup, module string) (envoyListener, error) {
	config := filterConfig{Headers: setup.Headers, UnknownKey: setup.Refused}
	if setup.OwnFormatOnly {
		config.Formats = []string{formatOf[tracer]}
	}
	l := envoyListener{
		Name:     listenerName(placement, protocol, setup),
		Protocol: protocol,
		NoTracer: setup.NoTracer, Unsampled: setup.Unsampled,
		UpstreamSpans: setup.UpstreamSpans, UntracedRoute: setup.UntracedRoute,
	}
	downstream, upstream, err := placement.filter(tracer, module, config)
	for range setup.Filters {
		l.Downstream = appendFilter(l.Downstream, downstream, l.Name)
		l.Upstream = appendFilter(l.Upstream, upstream, l.Name)
	}
	return l, err
}

func appendFilter(list []Filter, filter *Filter, name string) []Filter {
	if filter == nil {
		return list
	}
	filter.Name = name
	return append(list, *filter)
}

// lastOrder returns the names of the last head's fields.
func lastOrder(heads []Head) []string {
	names := []string{} // an empty list in JSON, not null
	if len(heads) == 0 {
		return names
	}
	for _, f := range heads[len(heads)-1].Fields {
		names = append(names, f.Name)
	}
	return names
}

// offset returns the offset of the tracer's first header in the last head, or -1.
func offset(heads []Head, tracer lab.Tracer) int {
	if len(heads) == 0 || heads[len(heads)-1].Protocol != HTTP1 {
		return -1
	}
	head := heads[len(heads)-1]
	at := len(head.RequestLine) + len("\r\n")
	for _, f := range head.Fields {
		if slices.Contains(headersOf[tracer], f.Name) {
			return at
		}
		at += len(f.Name) + len(": ") + len(f.Value) + len("\r\n")
	}
	return -1
}
