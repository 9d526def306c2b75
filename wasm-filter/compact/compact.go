// SPDX-License-Identifier: Apache-2.0

// Package compact holds the compact module: the Wasm filter again, in C without a library,
// for sidecars with little memory. Its source is in src. The module is committed, so that a
// build needs no clang; a test compiles it again and compares. The filter in Go is the
// reference: tests compare both.
package compact

import _ "embed"

//go:generate clang --target=wasm32 -std=c11 -Oz -ffreestanding -nostdlib -mbulk-memory -msign-ext -Wall -Wextra -Werror -Wl,--no-entry,--strip-all,--stack-first,-z,stack-size=16384 -o layertrace.wasm src/layertrace.c

// Module is the filter.
//
//go:embed layertrace.wasm
var Module []byte
