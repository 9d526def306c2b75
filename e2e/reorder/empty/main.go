// SPDX-License-Identifier: Apache-2.0

// Command empty is a proxy-wasm filter that does nothing, on the SDK: its cost is the
// lower bound of the real filter's.
package main

import (
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

func init() {
	proxywasm.SetPluginContext(func(uint32) types.PluginContext { return &plugin{} })
}

// main never runs: the proxy calls the exported functions of a c-shared module.
func main() {}

type plugin struct{ types.DefaultPluginContext }

// NewHttpContext begins a request.
func (*plugin) NewHttpContext(uint32) types.HttpContext { return &stream{} }

type stream struct{ types.DefaultHttpContext }
