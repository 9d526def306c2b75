// SPDX-License-Identifier: Apache-2.0

package main

// The callbacks of the proxy-wasm ABI 0.2.0 that the filter needs. A callback
// that is not there costs nothing; the proxy asks only for memory and, when a
// plugin has a configuration, for configure.

var filter = vm{host: proxy{}}

//go:wasmexport proxy_abi_version_0_2_0
func abiVersion() {}

//go:wasmexport proxy_on_configure
func onConfigure(_, _ int32) int32 {
	filter.configure()
	return 1
}

const actionContinue = 0

//go:wasmexport proxy_on_request_headers
func onRequestHeaders(stream uint32, _, _ int32) int32 {
	filter.request(stream)
	return actionContinue
}

// Envoy calls this at the end of streams in the connection manager, and never
// for an upstream filter.
//
//go:wasmexport proxy_on_log
func onLog(stream uint32) { filter.end(stream) }
