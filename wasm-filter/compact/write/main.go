// SPDX-License-Identifier: Apache-2.0

// Command write writes the compact module as a file and as an image, for make wasm-compact:
//
//	go run ./wasm-filter/compact/write -o bin/layertrace-compact.wasm -oci bin/layertrace-compact.oci
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/layertrace/layertrace/wasm-filter/compact"
	"github.com/layertrace/layertrace/wasm-filter/oci"
)

func main() {
	out := flag.String("o", "layertrace-compact.wasm", "file to write")
	layout := flag.String("oci", "", "directory for an OCI image layout of the module (default: none)")
	version := flag.String("version", "devel", "version of the image, and its name in the layout")
	flag.Parse()
	if err := write(*out, *layout, *version); err != nil {
		fmt.Fprintf(os.Stderr, "write the compact module: %v\n", err)
		os.Exit(1)
	}
}

// write writes the module, and with a layout also its image, whose digest it prints: the
// sha256 of a WasmPlugin.
func write(out, layout, version string) error {
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(out, compact.Module, 0o644); err != nil || layout == "" {
		return err
	}
	digest, err := oci.Write(context.Background(), layout, compact.Module, version)
	if err != nil {
		return fmt.Errorf("write the image layout: %w", err)
	}
	fmt.Printf("%s:%s %s\n", layout, version, digest)
	return nil
}
