// SPDX-License-Identifier: Apache-2.0

// Command wasm-filter is a proxy-wasm filter that puts the trace context right
// behind host, so that whoever reads the first bytes of a request finds it.
//
// Its place is that of an upstream HTTP filter of Envoy's router: the tracer
// injects the context after all filters of the connection manager, and again on
// each retry. README.md says what it needs to run in the connection manager.
// Build it with make wasm.
package main

// main never runs: the proxy calls the exported callbacks of a c-shared module.
func main() {}
