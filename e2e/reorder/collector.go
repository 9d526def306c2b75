// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// collector takes the tracers' spans and throws them away: an Envoy that cannot
// get rid of them would log it.
type collector struct {
	server  *http.Server
	address netip.AddrPort
}

// zipkinPath is where the zipkin tracer sends spans (envoy.yaml.tmpl).
const zipkinPath = "/api/v2/spans"

func startCollector() (*collector, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for spans: %w", err)
	}
	c := &collector{address: listener.Addr().(*net.TCPAddr).AddrPort()}
	c.server = &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // not looked at
			if r.URL.Path == zipkinPath {
				w.WriteHeader(http.StatusAccepted) // the only answer that Envoy's zipkin tracer takes
			}
		}),
	}
	go func() { _ = c.server.Serve(listener) }() // until close
	return c, nil
}

func (c *collector) close() { _ = c.server.Close() }
