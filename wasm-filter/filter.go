// SPDX-License-Identifier: Apache-2.0

// Command wasm-filter is a proxy-wasm filter that moves the trace context of each
// request to the start of its header list, right after the host: into the first
// bytes of the request on the wire.
//
// It is meant as an upstream HTTP filter of Envoy's router, because the tracer
// injects the context after all filters of the connection manager, and again on
// each retry. README.md lists what it needs to run in the connection manager.
// Build it with make wasm.
package main

import "github.com/layertrace/layertrace/wasm-filter/reorder"

// main never runs: the proxy calls the exported callbacks of a c-shared module
// (proxy_wasip1.go).
func main() {}

// host is the proxy as the filter uses it. Returned bytes are valid until the next
// call.
type host interface {
	// configuration returns the plugin configuration, nil if there is none.
	configuration() ([]byte, error)
	// property returns an attribute of the plugin or the stream.
	property(name string) ([]byte, error)
	// requestHeaders returns all request headers in their order, in the form that
	// package reorder reads.
	requestHeaders() ([]byte, error)
	// setRequestHeaders replaces all request headers.
	setRequestHeaders(pairs []byte) error
	// defineCounter creates a counter, or finds the one of that name.
	defineCounter(name string) (id uint32, err error)
	// increment adds one to a counter.
	increment(id uint32)
	// warn writes one line to the proxy's log.
	warn(message string)
}

// vm is the state of one VM. The proxy puts all filters with the same code and VM
// configuration into one VM, even if their plugin configurations differ.
type vm struct {
	host    host
	plugins map[string]*plugin // by pluginKey
	only    *plugin            // set if there is exactly one
	key     []byte             // buffer of pluginKey
}

// configure starts a plugin, or restarts it with a new configuration. It never
// fails: the proxy would then reject requests.
func (v *vm) configure() {
	if v.plugins == nil {
		v.plugins = map[string]*plugin{}
	}
	p := newPlugin(v.host)
	v.plugins[string(v.pluginKey())] = p
	v.only = p
	if len(v.plugins) > 1 {
		v.only = nil
	}
}

// request handles the request of the current stream.
func (v *vm) request(stream uint32) {
	p := v.only
	if p == nil {
		if p = v.plugins[string(v.pluginKey())]; p == nil {
			return
		}
	}
	p.request(stream)
}

// end handles the end of the current stream.
func (v *vm) end(stream uint32) {
	if v.only != nil {
		v.only.end(stream)
		return
	}
	for _, p := range v.plugins {
		p.end(stream)
	}
}

// pluginKey identifies the plugin by its names, which the proxy shows to plugins
// and streams alike. Contexts would do the same, at the price of two callbacks per
// stream. The result is valid until the next call.
func (v *vm) pluginKey() []byte {
	v.key = v.key[:0]
	for _, property := range [...]string{"plugin_name", "plugin_root_id"} {
		value, err := v.host.property(property)
		if err == nil {
			v.key = append(v.key, value...)
		}
		v.key = append(v.key, 0)
	}
	return v.key
}

// Counters of the filter, in Envoy's /stats with the prefix "wasmcustom.". Each
// request counts once, in one of these four.
const (
	counterReordered = "layertrace_requests_reordered"
	counterFirst     = "layertrace_requests_already_first"
	counterNoContext = "layertrace_requests_without_context"
	counterErrors    = "layertrace_host_call_errors"
)

// plugin is the filter with one configuration in one VM, which is one worker
// thread of the proxy.
type plugin struct {
	host  host
	list  *reorder.List // nil: passive
	roots *placeholders // nil: none

	reordered, first, noContext, failed counter
}

// newPlugin reads the configuration. If it is invalid, the plugin logs that once
// and passes all requests unchanged.
func newPlugin(h host) *plugin {
	p := &plugin{
		host:      h,
		reordered: newCounter(h, counterReordered),
		first:     newCounter(h, counterFirst),
		noContext: newCounter(h, counterNoContext),
		failed:    newCounter(h, counterErrors),
	}
	data, err := h.configuration()
	var c config
	var names *reorder.Names
	if err == nil {
		c, names, err = parseConfig(data)
	}
	if err != nil {
		h.warn("layertrace: read plugin configuration: " + err.Error() + "; headers are not reordered")
		return p
	}
	p.list = reorder.NewList(names)
	if c.placeholders != "" {
		p.roots = newPlaceholders(h, p.list, findTracer(c.placeholders))
	}
	return p
}

// request reorders the headers of the current stream's request. After an error,
// which is counted, the request passes unchanged.
func (p *plugin) request(stream uint32) {
	if p.list == nil {
		return
	}
	pairs, err := p.host.requestHeaders()
	if err != nil {
		p.failed.increment()
		return
	}
	reordered, outcome := p.list.Reorder(pairs)
	switch outcome {
	case reorder.Malformed:
		p.failed.increment()
	case reorder.NoContext:
		p.root(stream, pairs)
	case reorder.AlreadyFirst:
		p.first.increment()
	case reorder.Reordered:
		if p.host.setRequestHeaders(reordered) != nil {
			p.failed.increment()
			return
		}
		p.reordered.increment()
	}
}

// root handles a request without a trace context, which gets placeholders where
// they are safe.
func (p *plugin) root(stream uint32, pairs []byte) {
	if p.roots != nil {
		if with := p.roots.begin(stream, pairs); with != nil {
			if p.host.setRequestHeaders(with) != nil {
				p.failed.increment()
				return
			}
			p.roots.set.increment()
		}
	}
	p.noContext.increment()
}

// end handles the end of a stream.
func (p *plugin) end(stream uint32) {
	if p.roots != nil && p.roots.watched == stream {
		p.roots.end()
	}
}

// counter is a counter of the proxy, or nothing if the proxy refused to create it.
type counter struct {
	host host // nil: refused
	id   uint32
}

func newCounter(h host, name string) counter {
	id, err := h.defineCounter(name)
	if err != nil {
		h.warn("layertrace: define counter " + name + ": " + err.Error() + "; it stays absent")
		return counter{}
	}
	return counter{host: h, id: id}
}

func (c counter) increment() {
	if c.host != nil {
		c.host.increment(c.id)
	}
}
