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
)

// TestImports keeps out of the module what would bring I/O, locks and a larger
// heap with it: Go 1.26 guests that import fmt or os were reported to crash
// (golang/go#78513). The SDK's main package imports fmt.
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
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(here, "..", "..")
	copied := t.TempDir()
	for _, name := range []string{"go.mod", "go.sum", "wasm-filter/*.go", "wasm-filter/reorder/*.go"} {
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
