// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/layertrace/layertrace/wasm-filter/compact"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	file, layout := filepath.Join(dir, "new", "filter.wasm"), filepath.Join(dir, "filter.oci")
	if err := write(file, layout, "v1"); err != nil {
		t.Fatal(err)
	}
	if module, err := os.ReadFile(file); err != nil || !bytes.Equal(module, compact.Module) {
		t.Errorf("%s has %d bytes, not the module: %v", file, len(module), err)
	}
	if _, err := os.Stat(filepath.Join(layout, "index.json")); err != nil {
		t.Error(err)
	}
	if err := write(file, layout, "not a tag"); err == nil {
		t.Error("a version that cannot be a tag: no error")
	}
}
