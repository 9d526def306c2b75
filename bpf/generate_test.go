// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// clangVersion compiled the committed objects; another version may differ.
const clangVersion = "version 14."

// TestObjectsAreCurrent generates the objects and bindings again and compares.
func TestObjectsAreCurrent(t *testing.T) {
	version, err := exec.Command("clang", "--version").Output()
	if err != nil {
		t.Skipf("clang is not installed (make setup installs it): %v", err)
	}
	if !strings.Contains(string(version), clangVersion) {
		t.Skipf("the committed objects are from clang %s, installed is %s", clangVersion, bytes.SplitN(version, []byte("\n"), 2)[0])
	}
	// Inside the module: go tool needs its go.mod.
	dir, err := os.MkdirTemp(".", "generate-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	copyMatching(t, dir, "*.c", "doc.go", "include/*.h", "bench/*.c", "bench/main.go", "bench/encrypted.go")
	generate := exec.Command("go", "generate", "./...")
	generate.Dir = dir
	if out, err := generate.CombinedOutput(); err != nil {
		t.Fatalf("go generate: %v\n%s", err, out)
	}
	compared := 0
	for _, pattern := range []string{"*_bpfel.*", "bench/*_bpfel.*"} {
		made, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range made {
			name, err := filepath.Rel(dir, file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(read(t, file), read(t, name)) {
				t.Errorf("%s does not match its source: run \"make generate\" and commit", name)
			}
			compared++
		}
	}
	if compared != 18 {
		t.Errorf("%d generated files, want 18: an object and its binding for capture, device, encrypted, socket, driver, sockops and three of the benchmark", compared)
	}
}

func copyMatching(t *testing.T, dir string, patterns ...string) {
	t.Helper()
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("no files match %s (%v)", pattern, err)
		}
		for _, file := range files {
			to := filepath.Join(dir, file)
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(to, read(t, file), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
