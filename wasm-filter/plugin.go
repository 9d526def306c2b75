// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/layertrace/layertrace/wasm-filter/reorder"

// Counters of the filter. Envoy shows them in /stats behind "wasmcustom.". Each
// request is counted once, in one of the first four.
const (
	counterMoved   = "layertrace_requests_reordered"
	counterInFront = "layertrace_requests_already_in_front"
	counterAbsent  = "layertrace_requests_without_context"
	counterErrors  = "layertrace_host_call_errors"
)

// plugin is the filter with one configuration in one VM, which is one worker
// thread of the proxy.
type plugin struct {
	host  host
	lists *reorder.Lists // nil: passive
	roots *placeholders  // nil: none

	moved, inFront, absent, failed counter
}

// newPlugin reads the configuration. With one that cannot be used it says so
// once, and the plugin lets all requests pass as they are.
func newPlugin(h host) *plugin {
	p := &plugin{host: h}
	p.moved = newCounter(h, counterMoved)
	p.inFront = newCounter(h, counterInFront)
	p.absent = newCounter(h, counterAbsent)
	p.failed = newCounter(h, counterErrors)

	data, err := h.configuration()
	var c config
	var names *reorder.Names
	if err == nil {
		c, names, err = parseConfig(data)
	}
	if err != nil {
		h.warn("layertrace: plugin configuration: " + err.Error() + "; the order of headers stays as it is")
		return p
	}
	p.lists = reorder.NewLists(names)
	if c.placeholders != "" {
		p.roots = newPlaceholders(h, p.lists, findTracer(c.placeholders))
	}
	return p
}

// request moves the trace context of the current stream's request to the front.
// Whatever goes wrong is counted, and the request goes on as it came.
func (p *plugin) request(stream uint32) {
	if p.lists == nil {
		return
	}
	pairs, err := p.host.requestHeaders()
	if err != nil {
		p.failed.increment()
		return
	}
	front, outcome := p.lists.Front(pairs)
	switch outcome {
	case reorder.Malformed:
		p.failed.increment()
	case reorder.Absent:
		p.begin(stream, pairs)
	case reorder.InFront:
		p.inFront.increment()
	case reorder.Moved:
		if p.host.setRequestHeaders(front) != nil {
			p.failed.increment()
			return
		}
		p.moved.increment()
	}
}

// begin handles a request without a trace context: it gets placeholders, where
// it may.
func (p *plugin) begin(stream uint32, pairs []byte) {
	if p.roots != nil {
		if with := p.roots.begin(stream, pairs); with != nil {
			if p.host.setRequestHeaders(with) != nil {
				p.failed.increment()
				return
			}
			p.roots.set.increment()
		}
	}
	p.absent.increment()
}

// end is told of the end of each stream.
func (p *plugin) end(stream uint32) {
	if p.roots != nil && p.roots.watched == stream {
		p.roots.end()
	}
}
