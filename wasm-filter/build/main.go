// SPDX-License-Identifier: Apache-2.0

// Command build builds the proxy-wasm filter, for make wasm and for the tests:
//
//	go run ./wasm-filter/build -o bin/layertrace.wasm -oci bin/layertrace.oci
//
// It compiles with the standard Go compiler, of a fixed version so that the same
// source gives the same bytes everywhere, and then takes the exports that Envoy
// has no use for out of the module.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const filter = "github.com/layertrace/layertrace/wasm-filter"

// toolchain compiles the module; where another one is installed, Go downloads
// it. README.md says why this one.
const toolchain = "go1.26.8"

// exports are what Envoy needs of the filter.
const exports = "memory,_initialize,proxy_abi_version_0_2_0,proxy_on_memory_allocate," +
	"proxy_on_configure,proxy_on_request_headers,proxy_on_log"

func main() {
	out := flag.String("o", "layertrace.wasm", "file to write")
	pkg := flag.String("package", filter, "main package to build")
	keep := flag.String("exports", exports, "exports that stay in the module, with commas between them")
	layout := flag.String("oci", "", "directory to write an OCI image layout of the module to (default: none)")
	version := flag.String("version", "devel", "the image's version and name in the layout")
	flag.Parse()
	if err := build(*pkg, strings.Split(*keep, ","), *out); err != nil {
		fmt.Fprintf(os.Stderr, "build the wasm filter: %v\n", err)
		os.Exit(1)
	}
	if *layout == "" {
		return
	}
	if err := writeLayout(*layout, *out, *version); err != nil {
		fmt.Fprintf(os.Stderr, "build the wasm filter: %v\n", err)
		os.Exit(1)
	}
}

func build(pkg string, exports []string, out string) error {
	dir, err := os.MkdirTemp("", "layertrace-wasm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	whole := filepath.Join(dir, "whole.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w -buildid=", "-o", whole, pkg)
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOWASM=", "GOEXPERIMENT=", "GODEBUG=", "GOFLAGS=", "GOWORK=off",
		"CGO_ENABLED=0", "GOTOOLCHAIN="+toolchain)
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
