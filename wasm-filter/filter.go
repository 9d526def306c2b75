// SPDX-License-Identifier: Apache-2.0

// Package wasmfilter holds the proxy-wasm filter that moves the trace context of each
// request to the start of its header list. Its source is in src. The modules are
// committed, so that a build needs no clang; a test compiles them again and compares.
package wasmfilter

import _ "embed"

//go:generate clang --target=wasm32 -std=c11 -Oz -ffreestanding -nostdlib -mbulk-memory -msign-ext -Wall -Wextra -Werror -Wl,--no-entry,--strip-all,--stack-first,-z,stack-size=16384 -o layertrace.wasm src/layertrace.c
//go:generate clang --target=wasm32 -std=c11 -Oz -ffreestanding -nostdlib -mbulk-memory -msign-ext -Wall -Wextra -Werror -Wl,--no-entry,--strip-all,--stack-first,-z,stack-size=16384 -o empty.wasm src/empty.c

// Module is the filter.
//
//go:embed layertrace.wasm
var Module []byte

// Empty is a filter that does nothing: what it costs is the price of any filter.
//
//go:embed empty.wasm
var Empty []byte
