// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"

// request is one attempt of the proxy to send a request upstream.
type request struct {
	types.DefaultHttpContext
	plugin *plugin
}

// OnHttpRequestHeaders moves the trace context to the front. Whatever goes
// wrong is counted, and the request goes on as it came.
func (r *request) OnHttpRequestHeaders(int, bool) types.Action {
	p := r.plugin
	if p.names == nil {
		return types.ActionContinue
	}
	defer func() {
		if recover() != nil { // a panic would end the VM and the requests in it
			p.failed()
		}
	}()
	headers, err := p.host.requestHeaders()
	if err != nil {
		p.failed()
		return types.ActionContinue
	}
	front, moved := p.names.Front(headers)
	if !moved {
		return types.ActionContinue
	}
	if err := p.host.setRequestHeaders(front); err != nil {
		p.failed()
		return types.ActionContinue
	}
	p.moved()
	return types.ActionContinue
}
