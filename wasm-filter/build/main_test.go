// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A module with a custom section, three exports (function 1, memory 0, function
// 300) and an empty code section.
const module = preamble +
	"\x00\x05\x04name" +
	"\x07\x12\x03" + "\x03one\x00\x01" + "\x01m\x02\x00" + "\x03big\x00\xac\x02" +
	"\x0a\x01\x00"

func TestKeepExports(t *testing.T) {
	got, err := keepExports([]byte(module), []string{"big", "m"})
	if err != nil {
		t.Fatal(err)
	}
	want := preamble + "\x00\x05\x04name" + "\x07\x0c\x02" + "\x01m\x02\x00" + "\x03big\x00\xac\x02" + "\x0a\x01\x00"
	if diff := cmp.Diff([]byte(want), got); diff != "" {
		t.Errorf("keepExports (-want +got):\n%s", diff)
	}
}

func TestKeepExportsNamesWhatIsMissing(t *testing.T) {
	_, err := keepExports([]byte(module), []string{"m", "absent"})
	if err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("keepExports of an absent name: %v, want an error that names it", err)
	}
}

func TestKeepExportsRefusesBrokenModules(t *testing.T) {
	sectionEnds := map[int]bool{len(preamble): true, len(preamble) + 7: true, len(module) - 3: true}
	for size := range len(module) {
		if sectionEnds[size] {
			continue // a module too, though with less in it
		}
		if _, err := keepExports([]byte(module[:size]), nil); err == nil {
			t.Errorf("keepExports of the first %d bytes: no error", size)
		}
	}
}

// TestImports keeps packages with I/O, locks and a larger heap out of the module:
// Go 1.26 guests that import fmt or os were reported to crash (golang/go#78513).
// The SDK's main package imports fmt.
func TestImports(t *testing.T) {
	list := exec.Command("go", "list", "-deps", filter)
	list.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0", "GOTOOLCHAIN="+toolchain)
	out, err := list.Output()
	if err != nil {
		t.Fatalf("%v: %v", list.Args, err)
	}
	packages := strings.Fields(string(out))
	if !slices.Contains(packages, filter+"/reorder") {
		t.Fatalf("the list of packages is not that of the filter: %q", packages)
	}
	for _, unwanted := range []string{
		"fmt", "os", "syscall", "time", "reflect", "encoding/json", "internal/poll", "log",
		"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm",
	} {
		if slices.Contains(packages, unwanted) {
			t.Errorf("the module contains package %s", unwanted)
		}
	}
}

// TestReproducible builds the module here, and with an empty build cache from a
// copy of the sources in another directory: the bytes must be the same.
func TestReproducible(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the module twice, once without a build cache")
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(here, "..", "..")
	copied := t.TempDir()
	for _, name := range []string{"go.mod", "go.sum", "internal/tracecontext/formats/*.go", "wasm-filter/*.go", "wasm-filter/reorder/*.go"} {
		copyFiles(t, root, copied, name)
	}
	build1 := buildIn(t, root)
	t.Setenv("GOCACHE", t.TempDir())
	build2 := buildIn(t, copied)
	if !bytes.Equal(build1, build2) {
		t.Errorf("two builds of the same source differ: %d bytes with SHA-256 %x, %d with %x",
			len(build1), sha256.Sum256(build1), len(build2), sha256.Sum256(build2))
	}
	for _, trace := range []string{root, filepath.Clean(root), copied} {
		if bytes.Contains(build1, []byte(trace)) || bytes.Contains(build2, []byte(trace)) {
			t.Errorf("the module names the directory %s", trace)
		}
	}
}

func copyFiles(t *testing.T, from, to, pattern string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(from, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files %s in %s: %v", pattern, from, err)
	}
	for _, file := range files {
		name, err := filepath.Rel(from, file)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(target, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func buildIn(t *testing.T, dir string) []byte {
	t.Helper()
	t.Chdir(dir)
	out := filepath.Join(t.TempDir(), "filter.wasm")
	if err := build(filter, strings.Split(exports, ","), out); err != nil {
		t.Fatal(err)
	}
	module, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return module
}
