// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"
)

// simulatedProxy does to a request what Envoy's connection manager and router do
// around the filter, as far as the trace context goes. What Envoy really does is
// looked at in the golden suite (e2e/reorder); this is for orders of events that
// are hard to bring about there.
type simulatedProxy struct {
	// tracer writes its headers to each request; nil for none.
	tracer *tracer
	// inbound is the direction of the listener; the route has a decorator.
	inbound bool
	// unreachable is an upstream that no request is sent to.
	unreachable bool
	// streaming leaves streams open: they do not end by themselves.
	streaming bool

	filter   vm
	stream   uint32
	headers  [][2]string
	sent     bool
	counters []string
	counted  map[string]int
	warnings []string
}

func newSimulatedProxy(configuration string, p simulatedProxy) *simulatedProxy {
	p.counted = map[string]int{}
	p.filter.host = &configured{&p, configuration}
	p.filter.configure()
	return &p
}

// configured is the host of one plugin.
type configured struct {
	*simulatedProxy
	json string
}

func (c *configured) configuration() ([]byte, error) { return []byte(c.json), nil }

func (p *simulatedProxy) property(name string) ([]byte, error) {
	switch {
	case name == "xds\x00listener_direction" && p.inbound:
		return []byte{1, 0, 0, 0, 0, 0, 0, 0}, nil
	case name == "xds\x00listener_direction":
		return []byte{2, 0, 0, 0, 0, 0, 0, 0}, nil
	case name == "upstream\x00address" && p.sent:
		return []byte("127.0.0.1:80"), nil
	}
	return nil, errHost
}

func (p *simulatedProxy) requestHeaders() ([]byte, error) { return encodePairs(p.headers), nil }

func (p *simulatedProxy) setRequestHeaders(pairs []byte) error {
	p.headers = decodePairs(pairs)
	return nil
}

func (p *simulatedProxy) defineCounter(name string) (uint32, error) {
	p.counters = append(p.counters, name)
	return uint32(len(p.counters) - 1), nil
}

func (p *simulatedProxy) increment(id uint32) { p.counted[p.counters[id]]++ }

func (p *simulatedProxy) warn(message string) { p.warnings = append(p.warnings, message) }

// send passes a request of the client through the proxy. It returns what the
// upstream gets, as "name name=value ...": with values where a client's or a
// placeholder's is still there.
func (p *simulatedProxy) send(client string) string {
	p.stream++
	p.sent = false
	p.headers = [][2]string{{":path", "/"}}
	for _, field := range strings.Fields(client) {
		name, value, _ := strings.Cut(field, "=")
		p.headers = append(p.headers, [2]string{name, value})
	}
	p.write("x-request-id", "id")
	if p.tracer != nil && !p.inbound {
		p.write("x-envoy-decorator-operation", "op")
	}
	p.filter.request(p.stream)
	if !p.unreachable {
		p.sent = true
		if p.tracer != nil {
			for _, h := range p.tracer.root {
				p.write(h[0], "TRACER")
			}
		}
	}
	if !p.streaming {
		p.filter.end(p.stream)
	}
	var upstream []string
	for _, h := range p.headers[1:] {
		switch h[1] {
		case "TRACER", "id", "op", "":
			upstream = append(upstream, h[0])
		default:
			upstream = append(upstream, h[0]+"="+h[1])
		}
	}
	return strings.Join(upstream, " ")
}

// write sets a header in place, or appends it.
func (p *simulatedProxy) write(name, value string) {
	i := slices.IndexFunc(p.headers, func(h [2]string) bool { return h[0] == name })
	if i < 0 {
		p.headers = append(p.headers, [2]string{name, value})
		return
	}
	p.headers[i][1] = value
}

// expect sends a request and compares.
func (p *simulatedProxy) expect(t *testing.T, client, want string) {
	t.Helper()
	if got := p.send(client); got != want {
		t.Errorf("request %q:\n got %s\nwant %s", client, got, want)
	}
}
