// SPDX-License-Identifier: Apache-2.0

// Command build writes the proxy-wasm filter as a file and as an image, for make wasm
// and for the tests:
//
//	go run ./wasm-filter/build -o bin/layertrace.wasm -oci bin/layertrace.oci
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	wasmfilter "github.com/layertrace/layertrace/wasm-filter"
	"github.com/layertrace/layertrace/wasm-filter/oci"
)

func main() {
	out := flag.String("o", "layertrace.wasm", "file to write")
	layout := flag.String("oci", "", "directory for an OCI image layout of the module (default: none)")
	version := flag.String("version", "devel", "version of the image, and its name in the layout")
	flag.Parse()
	if err := write(*out, *layout, *version); err != nil {
		fmt.Fprintf(os.Stderr, "write the wasm filter: %v\n", err)
		os.Exit(1)
	}
}

// write writes the module, and with a layout also its image, whose digest it prints: the
// sha256 of a WasmPlugin.
func write(out, layout, version string) error {
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(out, wasmfilter.Module, 0o644); err != nil || layout == "" {
		return err
	}
	digest, err := oci.Write(context.Background(), layout, wasmfilter.Module, version)
	if err != nil {
		return fmt.Errorf("write the image layout: %w", err)
	}
	fmt.Printf("%s:%s %s\n", layout, version, digest)
	return nil
}
