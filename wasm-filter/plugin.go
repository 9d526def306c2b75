// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/layertrace/layertrace/wasm-filter/reorder"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

// Counters of the filter. Envoy shows them in /stats behind "wasmcustom.".
const (
	counterMoved  = "layertrace_requests_reordered"
	counterErrors = "layertrace_host_call_errors"
)

// plugin is the filter in one VM, which is one worker thread of the proxy.
type plugin struct {
	types.DefaultPluginContext
	host host

	names         *reorder.Names // nil: passive
	moved, failed func()         // count one
}

// OnPluginStart reads the configuration. It never fails, as the proxy would then
// refuse requests: with a configuration that cannot be used the filter says so
// once and lets all requests pass as they are.
func (p *plugin) OnPluginStart(int) types.OnPluginStartStatus {
	p.moved = p.counter(counterMoved)
	p.failed = p.counter(counterErrors)
	data, err := p.host.configuration()
	if err == nil {
		p.names, err = parseConfig(data)
	}
	if err != nil {
		p.names = nil
		p.host.warn(fmt.Sprintf("layertrace: plugin configuration: %v; the order of headers stays as it is", err))
	}
	return types.OnPluginStartStatusOK
}

// counter returns the function that counts one, or one that does nothing where
// the proxy has no such counter.
func (p *plugin) counter(name string) func() {
	add, err := p.host.defineCounter(name)
	if err != nil {
		p.host.warn(fmt.Sprintf("layertrace: %v; it will not be counted", err))
		return func() {}
	}
	return add
}

// NewHttpContext begins a request.
func (p *plugin) NewHttpContext(uint32) types.HttpContext {
	return &request{plugin: p}
}
