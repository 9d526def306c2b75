// SPDX-License-Identifier: Apache-2.0

// Package luafilter holds the Lua script that puts the trace context in front,
// for Envoy's Lua filter as an upstream HTTP filter.
package luafilter

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
)

//go:embed trace_context_first.lua
var script string

// formats are those that the script knows, in its order.
var formats = []string{"w3c", "b3", "jaeger", "datadog", "skywalking"}

// Config is what can be set, with the meaning of the Wasm filter's keys of the
// same names.
type Config struct {
	// Formats whose headers are moved; none means all.
	Formats []string
	// Headers are names of further headers that carry a trace context.
	Headers []string
}

// Source returns the script with its settings in front, to be given to Envoy as
// default_source_code. It refuses unknown formats and what is no header name, as
// Envoy would refuse the listener.
func Source(c Config) (string, error) {
	for _, format := range c.Formats {
		if !slices.Contains(formats, format) {
			return "", fmt.Errorf("unknown format %q (known: %s)", format, strings.Join(formats, ", "))
		}
	}
	for _, name := range c.Headers {
		if name == "" || strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~") != "" {
			return "", fmt.Errorf("%q is not a header name (RFC 9110, section 5.1)", name)
		}
		if strings.EqualFold(name, "host") {
			return "", fmt.Errorf("%q cannot be moved: it always stands in front of the trace context", name)
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

// table writes strings, which hold neither quotes nor backslashes, as a Lua table.
func table(list []string) string {
	return `{"` + strings.Join(list, `", "`) + `"}`
}
