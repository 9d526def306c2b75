// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"slices"
	"strconv"
)

// tracer is one of Envoy's tracers, as far as placeholders go.
type tracer struct {
	name   string
	format string      // in which it writes
	root   [][2]string // headers that it always writes to a request that begins a trace
}

var tracers = []tracer{
	{"zipkin", "b3", [][2]string{{"x-b3-traceid", "0"}, {"x-b3-spanid", "0"}, {"x-b3-sampled", "0"}}},
	{"opentelemetry", "w3c", [][2]string{{"traceparent", "0"}, {"tracestate", ""}}},
}

// findTracer returns the tracer of this name, or nil.
func findTracer(name string) *tracer {
	i := slices.IndexFunc(tracers, func(t tracer) bool { return t.name == name })
	if i < 0 {
		return nil
	}
	return &tracers[i]
}

// check returns an error when values do not fit, or do not fit together.
func (c *config) check() error {
	if c.placement != placementUpstream && c.placement != placementManager {
		return errors.New(`"placement" is ` + strconv.Quote(c.placement) + `, must be "upstream" or "connection-manager"`)
	}
	if c.formats != nil && len(c.formats)+len(c.headers) == 0 {
		return errors.New(`"formats" is empty and there are no "headers": nothing to move`)
	}
	if c.placeholders == "" {
		return nil
	}
	t := findTracer(c.placeholders)
	switch {
	case t == nil:
		return errors.New(`"placeholders" is ` + strconv.Quote(c.placeholders) + `, must be "", "zipkin" or "opentelemetry"`)
	case c.placement != placementManager:
		return errors.New(`"placeholders" needs "placement" "connection-manager"`)
	case c.formats != nil && !slices.Contains(c.formats, t.format):
		return errors.New(`"placeholders" ` + strconv.Quote(c.placeholders) + ` needs ` + strconv.Quote(t.format) + ` among the "formats"`)
	}
	return nil
}
