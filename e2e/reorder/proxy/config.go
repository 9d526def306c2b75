// SPDX-License-Identifier: Apache-2.0

// Package proxy runs one Envoy with many listeners, which differ in the filters
// that a request meets and in the protocol in which it leaves.
package proxy

import (
	"bytes"
	_ "embed"
	"fmt"
	"net/netip"
	"strings"
	"text/template"

	"github.com/layertrace/layertrace/e2e/lab"
)

// Protocol is what Envoy speaks with the upstream.
type Protocol string

// Protocols, by their ALPN-like names as in out/reorder.json.
const (
	HTTP1 Protocol = "http/1.1"
	HTTP2 Protocol = "http/2"
)

// MetadataSize is the length in bytes of the x-envoy-peer-metadata that every
// listener adds before the router, as Istio does at a gateway.
const MetadataSize = 1100

// Config is one Envoy process.
type Config struct {
	// Envoy is the path of the program, Dir an existing directory for its
	// configuration and its log.
	Envoy, Dir string
	// Tracer is what all listeners trace with.
	Tracer lab.Tracer
	// InlineHeaders are registered as custom inline headers of requests in
	// the bootstrap: tracers then write them in place.
	InlineHeaders []string
	// Upstream takes the requests, in whichever protocol they come; Collector
	// takes the spans over HTTP/1.1.
	Upstream, Collector netip.AddrPort
	// Concurrency is the number of worker threads; 0 means 1.
	Concurrency int
	Listeners   []Listener
}

// Listener is one address to send requests to.
type Listener struct {
	// Name tells listeners apart. It is also the stat prefix.
	Name string
	// Protocol of the upstream; empty means HTTP1.
	Protocol Protocol
	// Downstream filters run in the connection manager, before the router;
	// Upstream filters run in the router, once per attempt.
	Downstream, Upstream []Filter
	// NoTracer leaves tracing out of the connection manager.
	NoTracer bool
	// Unsampled begins traces that are not sampled.
	Unsampled bool
	// UpstreamSpans lets the tracer begin a span for each attempt.
	UpstreamSpans bool
	// UntracedRoute switches tracing off for the route: its sampling rates are 0.
	UntracedRoute bool
}

//go:embed envoy.yaml.tmpl
var bootstrap string

var bootstrapTemplate = template.Must(template.New("envoy.yaml").
	Funcs(template.FuncMap{"json": toJSON, "filter": Filter.config}).Parse(bootstrap))

// Bootstrap writes the Envoy configuration.
func (c Config) Bootstrap() ([]byte, error) {
	values := struct {
		Config
		Metadata string
	}{c, strings.Repeat("m", MetadataSize)}
	var out bytes.Buffer
	if err := bootstrapTemplate.Execute(&out, values); err != nil {
		return nil, fmt.Errorf("write the Envoy configuration: %w", err)
	}
	return out.Bytes(), nil
}
