// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCurrent compares the committed files with the table.
func TestCurrent(t *testing.T) {
	for file, generate := range files {
		committed, err := os.ReadFile(filepath.Join("..", "..", "..", file))
		if err != nil {
			t.Fatal(err)
		}
		want, err := generate(committed)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(committed)); diff != "" {
			t.Errorf("%s is outdated, run \"make generate\" (-want +got):\n%s", file, diff)
		}
	}
}

func TestLuaScriptNeedsItsBlock(t *testing.T) {
	if _, err := luaScript([]byte(luaBegin + "local known = {}\n")); err == nil {
		t.Error("a script without the end of the block: no error")
	}
}
