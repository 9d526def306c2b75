// SPDX-License-Identifier: Apache-2.0

// Command wasm-filter is a proxy-wasm filter that puts the trace context right
// behind host, so that whoever reads the first bytes of a request finds it.
//
// It has to run as an upstream HTTP filter of Envoy's router: the tracer injects
// the context after all filters of the connection manager, and again on each
// retry. Build it with GOOS=wasip1 GOARCH=wasm and -buildmode=c-shared
// (make wasm).
package main

import (
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

func init() {
	proxywasm.SetPluginContext(func(uint32) types.PluginContext { return &plugin{host: sdkHost{}} })
}

// main never runs: the proxy calls the exported callbacks of a c-shared module.
func main() {}
