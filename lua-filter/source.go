// SPDX-License-Identifier: Apache-2.0

// Package luafilter holds the Lua script that moves the trace context to the start
// of the header list, for Envoy's Lua filter as an upstream HTTP filter.
package luafilter

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"

	"github.com/layertrace/layertrace/internal/tracecontext/formats"
)

//go:embed trace_context_first.lua
var script string

// Config is the configuration, as of the Wasm filter's keys of the same names.
type Config struct {
	// Formats whose headers are moved, by the names of formats.Groups; none: all.
	Formats []string
	// Headers are the names of further headers with a trace context.
	Headers []string
}

// Source returns the script after a line with its settings, as Envoy's
// default_source_code. It rejects unknown formats and invalid header names, which
// would make Envoy reject the listener.
func Source(c Config) (string, error) {
	var known []string
	for _, g := range formats.Groups() {
		known = append(known, g.Name)
	}
	for _, format := range c.Formats {
		if !slices.Contains(known, format) {
			return "", fmt.Errorf("unknown format %q (known: %s)", format, strings.Join(known, ", "))
		}
	}
	for _, name := range c.Headers {
		if !formats.IsToken(name) {
			return "", fmt.Errorf("%q is not a header name (RFC 9110, section 5.1)", name)
		}
		if strings.EqualFold(name, "host") {
			return "", fmt.Errorf("%q cannot be moved: it always precedes the trace context", name)
		}
	}
	var settings []string
	if len(c.Formats) > 0 {
		settings = append(settings, "formats = "+table(c.Formats))
	}
	if len(c.Headers) > 0 {
		settings = append(settings, "headers = "+table(c.Headers))
	}
	if len(settings) == 0 {
		return script, nil
	}
	return "local settings = {" + strings.Join(settings, ", ") + "}\n" + script, nil
}

// table writes strings without quotes and backslashes as a Lua table.
func table(list []string) string {
	return `{"` + strings.Join(list, `", "`) + `"}`
}
