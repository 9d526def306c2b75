// SPDX-License-Identifier: Apache-2.0

// Command build builds the proxy-wasm filter, for make wasm and for the tests:
//
//	go run ./wasm-filter/build -o bin/layertrace.wasm -oci bin/layertrace.oci
//
// It compiles with the standard Go compiler, in a fixed version so that the same
// source gives the same bytes everywhere, and removes the exports that Envoy does
// not need.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/layertrace/layertrace/internal/gobuild"
	"github.com/layertrace/layertrace/wasm-filter/oci"
)

const filter = "github.com/layertrace/layertrace/wasm-filter"

// toolchain compiles the module. If another one is installed, Go downloads it.
// README.md gives the reason for this version.
const toolchain = gobuild.Toolchain

// exports are what Envoy needs from the filter.
const exports = "memory,_initialize,proxy_abi_version_0_2_0,proxy_on_memory_allocate," +
	"proxy_on_configure,proxy_on_request_headers,proxy_on_log"

func main() {
	out := flag.String("o", "layertrace.wasm", "file to write")
	pkg := flag.String("package", filter, "main package to build")
	keep := flag.String("exports", exports, "comma-separated exports to keep")
	layout := flag.String("oci", "", "directory for an OCI image layout of the module (default: none)")
	version := flag.String("version", "devel", "version of the image, and its name in the layout")
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
	err = gobuild.Build(context.Background(), "", gobuild.Program{
		Package: pkg, Out: whole, OS: "wasip1", Arch: "wasm", Flags: []string{"-buildmode=c-shared"},
	})
	if err != nil {
		return err
	}
	module, err := os.ReadFile(whole)
	if err != nil {
		return err
	}
	if module, err = keepExports(module, exports); err != nil {
		return fmt.Errorf("remove unused exports: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	return os.WriteFile(out, module, 0o644)
}

// writeLayout writes the module in the file as an OCI image layout into dir and
// prints the digest, which is the sha256 of a WasmPlugin.
func writeLayout(dir, file, version string) error {
	module, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	digest, err := oci.Write(context.Background(), dir, module, version)
	if err != nil {
		return fmt.Errorf("write the image layout: %w", err)
	}
	fmt.Printf("%s:%s %s\n", dir, version, digest)
	return nil
}

// Constants of the WebAssembly binary format (core specification 1.0, section 5.5).
const (
	preamble      = "\x00asm\x01\x00\x00\x00"
	exportSection = 7
)

var errShort = errors.New("the module ends in the middle of a section")

// keepExports returns the module with only the named exports, and fails if one is
// missing. The functions of the removed exports stay.
func keepExports(module []byte, names []string) ([]byte, error) {
	rest, ok := bytes.CutPrefix(module, []byte(preamble))
	if !ok {
		return nil, errors.New("not a WebAssembly 1.0 module")
	}
	out := []byte(preamble)
	missing := slices.Clone(names)
	for len(rest) > 0 {
		id := rest[0]
		body, after, err := cutBytes(rest[1:])
		if err != nil {
			return nil, err
		}
		if id == exportSection {
			var found []string
			if body, found, err = filterExports(body, names); err != nil {
				return nil, err
			}
			missing = slices.DeleteFunc(missing, func(n string) bool { return slices.Contains(found, n) })
		}
		out = append(out, id)
		out = binary.AppendUvarint(out, uint64(len(body)))
		out = append(out, body...)
		rest = after
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("the module does not export %q", missing)
	}
	return out, nil
}

// filterExports returns the content of the export section with only the named
// entries, and the names that it found.
func filterExports(section []byte, names []string) (kept []byte, found []string, err error) {
	count, n := binary.Uvarint(section)
	if n <= 0 {
		return nil, nil, errShort
	}
	section = section[n:]
	var entries []byte
	for range count {
		name, after, err := cutBytes(section)
		if err != nil || len(after) == 0 {
			return nil, nil, errShort
		}
		_, n := binary.Uvarint(after[1:]) // the kind, then the index
		if n <= 0 {
			return nil, nil, errShort
		}
		size := len(section) - len(after) + 1 + n
		if slices.Contains(names, string(name)) {
			entries = append(entries, section[:size]...)
			found = append(found, string(name))
		}
		section = section[size:]
	}
	kept = binary.AppendUvarint(nil, uint64(len(found)))
	return append(kept, entries...), found, nil
}

// cutBytes splits data after a vector of bytes: its length in LEB128, then the
// bytes.
func cutBytes(data []byte) (vector, after []byte, err error) {
	size, n := binary.Uvarint(data)
	if n <= 0 || size > uint64(len(data)-n) {
		return nil, nil, errShort
	}
	return data[n : n+int(size)], data[n+int(size):], nil
}
