// SPDX-License-Identifier: Apache-2.0

// Command build builds the proxy-wasm filter, for make wasm and for the tests:
//
//	go run ./wasm-filter/build -o bin/layertrace.wasm
//
// It compiles with the standard Go compiler and then takes the exports that the
// filter has no use for out of the module.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const filter = "github.com/layertrace/layertrace/wasm-filter"

// exports are what Envoy needs of the module.
var exports = []string{
	"memory",
	"_initialize",
	"proxy_abi_version_0_2_0",
	"proxy_on_memory_allocate",
	"proxy_on_configure",
	"proxy_on_request_headers",
}

func main() {
	out := flag.String("o", "layertrace.wasm", "file to write")
	flag.Parse()
	if err := build(*out); err != nil {
		fmt.Fprintf(os.Stderr, "build the wasm filter: %v\n", err)
		os.Exit(1)
	}
}

func build(out string) error {
	dir, err := os.MkdirTemp("", "layertrace-wasm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	whole := filepath.Join(dir, "whole.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-o", whole, filter)
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%v: %w", cmd.Args, err)
	}
	module, err := os.ReadFile(whole)
	if err != nil {
		return err
	}
	if module, err = keepExports(module, exports); err != nil {
		return fmt.Errorf("take out unused exports: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	return os.WriteFile(out, module, 0o644)
}
