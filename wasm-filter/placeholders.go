// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"

	"github.com/layertrace/layertrace/internal/tracecontext/formats"
	"github.com/layertrace/layertrace/wasm-filter/reorder"
)

// placeholders adds the tracer's headers to requests that begin a trace, for the
// tracer to overwrite in place. The tracer decides before the filter runs and
// writes after it, and the proxy does not show whether there is a tracer. Two
// conditions keep placeholders from reaching an upstream:
//
//   - Envoy shows that it traces this request: x-envoy-decorator-operation, which
//     it sets before the filters, only if tracing is configured, on listeners of
//     direction OUTBOUND and routes with a decorator (Istio's have one).
//     (Envoy, conn_manager_impl.cc, setRequestDecorator.)
//   - The tracer has proven to be the configured one: at the end of an earlier
//     request of this kind, without placeholders, all its headers were there.
type placeholders struct {
	host   host
	list   *reorder.List
	tracer *tracer
	all    *reorder.Names // of every format, also those that do not move

	state   proof
	watched uint32 // the stream whose end decides, 0 for none
	passed  int    // streams since then that could have been watched

	set, left counter
}

// proof is what is known about the tracer.
type proof uint8

const (
	unproven proof = iota
	proven
	refuted // permanently: another tracer, or none
)

// maxPassed is the number of streams that a watched one may outlast: it could last
// for days.
const maxPassed = 1000

// Counters of placeholders.
const (
	counterPlaceholders = "layertrace_requests_with_placeholders"
	counterLeft         = "layertrace_placeholders_left"
)

func newPlaceholders(h host, list *reorder.List, t *tracer) *placeholders {
	all, err := reorder.NewNames(nil, nil)
	if err != nil {
		panic(err) // built-in names are valid
	}
	return &placeholders{
		host: h, list: list, tracer: t, all: all,
		set: newCounter(h, counterPlaceholders), left: newCounter(h, counterLeft),
	}
}

// begin handles a request in which list found no trace context. It returns the
// headers with placeholders, or nil if there must be none.
func (p *placeholders) begin(stream uint32, pairs []byte) []byte {
	if p.state == refuted || !p.traced(pairs) {
		return nil
	}
	var with []byte
	if p.state == proven {
		with = p.list.Insert(pairs, p.tracer.root)
	}
	// The last use of pairs was above: property overwrites them.
	if direction, err := p.host.property("xds\x00listener_direction"); err != nil || !bytes.Equal(direction, outbound) {
		return nil
	}
	p.watch(stream)
	return with
}

// outbound is envoy.config.core.v3.TrafficDirection.OUTBOUND, an int64.
var outbound = []byte{2, 0, 0, 0, 0, 0, 0, 0}

// traced reports whether Envoy shows that it traces the request. A header from the
// client precedes x-request-id, unless the client sent that as well.
func (p *placeholders) traced(pairs []byte) bool {
	if p.list.Any(pairs, p.all) || p.list.Find(pairs, formats.TraceState) >= 0 {
		return false
	}
	id := p.list.Find(pairs, "x-request-id")
	return id >= 0 && p.list.Find(pairs, "x-envoy-decorator-operation") > id
}

func (p *placeholders) watch(stream uint32) {
	p.passed++
	if p.watched == 0 || p.passed > maxPassed {
		p.watched, p.passed = stream, 0
	}
}

// end looks for the tracer's headers at the end of the watched stream.
func (p *placeholders) end() {
	p.watched = 0
	if address, err := p.host.property("upstream\x00address"); err != nil || len(address) == 0 {
		return // not sent to an upstream, so nothing was injected
	}
	pairs, err := p.host.requestHeaders()
	if err != nil {
		return
	}
	written := p.written(pairs)
	switch {
	case written && p.state == unproven:
		p.state = proven
	case !written && p.state == unproven:
		p.refute("does not write its headers")
	case !written && p.state == proven:
		p.left.increment()
		p.refute("has left placeholders in a request")
	}
}

// written reports whether all of the tracer's headers are there, and the first one
// is not a placeholder.
func (p *placeholders) written(pairs []byte) bool {
	if _, outcome := p.list.Reorder(pairs); outcome == reorder.Malformed {
		return false
	}
	for i, h := range p.tracer.root {
		at := p.list.Find(pairs, h[0])
		if at < 0 || i == 0 && string(p.list.Value(pairs, at)) == h[1] {
			return false
		}
	}
	return true
}

func (p *placeholders) refute(reason string) {
	p.state = refuted
	p.host.warn("layertrace: the tracer of this proxy " + reason + " as " + p.tracer.name + " does; placeholders are off")
}
