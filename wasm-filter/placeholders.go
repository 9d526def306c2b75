// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"

	"github.com/layertrace/layertrace/wasm-filter/reorder"
)

// placeholders gives requests that begin a trace the headers of the tracer, for
// it to overwrite them where they stand. The tracer decides before the filter
// runs and writes behind it, and the proxy does not say whether there is one.
// So that no placeholder reaches an upstream, two things must hold:
//
//   - Envoy shows that it traces this request: x-envoy-decorator-operation, which
//     it sets before the filters, only when tracing is configured, on listeners
//     of direction OUTBOUND and routes with a decorator (Istio's have one).
//     (Envoy, conn_manager_impl.cc, setRequestDecorator.)
//   - The tracer has proven to be the configured one: at the end of an earlier
//     request of this kind, without placeholders, all its headers were there.
type placeholders struct {
	host   host
	lists  *reorder.Lists
	tracer *tracer
	all    *reorder.Names // of every format, also those that do not move

	state   proof
	watched uint32 // the stream whose end is waited for, 0 for none
	passed  int    // streams that could have been watched since

	set, left counter
}

// proof is what is known of the tracer.
type proof uint8

const (
	unproven proof = iota
	proven
	refuted // for good: another tracer, or none
)

// maxPassed is how many streams a watched one may outlast: it could be one that
// lasts for days.
const maxPassed = 1000

// Counters of placeholders.
const (
	counterPlaceholders = "layertrace_requests_with_placeholders"
	counterLeft         = "layertrace_placeholders_left"
)

func newPlaceholders(h host, lists *reorder.Lists, t *tracer) *placeholders {
	all, err := reorder.NewNames(nil, nil)
	if err != nil {
		panic(err) // the names are our own
	}
	return &placeholders{
		host: h, lists: lists, tracer: t, all: all,
		set: newCounter(h, counterPlaceholders), left: newCounter(h, counterLeft),
	}
}

// begin is told of a request in which lists found no trace context. It returns
// the headers with placeholders, or nil when there must be none.
func (p *placeholders) begin(stream uint32, pairs []byte) []byte {
	if p.state == refuted || !p.traced(pairs) {
		return nil
	}
	var with []byte
	if p.state == proven {
		with = p.lists.Insert(pairs, p.tracer.root)
	}
	// Asked for last: the answer overwrites pairs.
	if direction, err := p.host.property("xds\x00listener_direction"); err != nil || !bytes.Equal(direction, outbound) {
		return nil
	}
	p.watch(stream)
	return with
}

// outbound is envoy.config.core.v3.TrafficDirection.OUTBOUND, an int64.
var outbound = []byte{2, 0, 0, 0, 0, 0, 0, 0}

// traced reports whether Envoy shows that it traces the request. A header that
// the client sent stands where the client's stand: in front of x-request-id,
// unless it sent that as well.
func (p *placeholders) traced(pairs []byte) bool {
	if p.lists.Any(pairs, p.all) || p.lists.Find(pairs, "tracestate") >= 0 {
		return false
	}
	id := p.lists.Find(pairs, "x-request-id")
	return id >= 0 && p.lists.Find(pairs, "x-envoy-decorator-operation") > id
}

func (p *placeholders) watch(stream uint32) {
	p.passed++
	if p.watched == 0 || p.passed > maxPassed {
		p.watched, p.passed = stream, 0
	}
}

// end is told of the end of the watched stream: are the tracer's headers there?
func (p *placeholders) end() {
	p.watched = 0
	if address, err := p.host.property("upstream\x00address"); err != nil || len(address) == 0 {
		return // it went nowhere, so nothing was injected
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

// written reports whether each of the tracer's headers is there, and the first
// one not as a placeholder.
func (p *placeholders) written(pairs []byte) bool {
	if _, outcome := p.lists.Front(pairs); outcome == reorder.Malformed {
		return false
	}
	for i, h := range p.tracer.root {
		at := p.lists.Find(pairs, h[0])
		if at < 0 || i == 0 && string(p.lists.Value(pairs, at)) == h[1] {
			return false
		}
	}
	return true
}

func (p *placeholders) refute(what string) {
	p.state = refuted
	p.host.warn("layertrace: the tracer of this proxy " + what + " as " + p.tracer.name + " does; no more placeholders")
}
