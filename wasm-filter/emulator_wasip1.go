// SPDX-License-Identifier: Apache-2.0

//go:build emulator

package main

// Callbacks that Envoy does without and that the SDK's emulator of a proxy calls
// unasked.

//go:wasmexport proxy_on_vm_start
func onVMStart(_, _ int32) int32 { return 1 }

//go:wasmexport proxy_on_context_create
func onContextCreate(_, _ int32) {}
