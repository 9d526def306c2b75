// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/layertrace/layertrace/istio"
)

// The generated parts are up to date: generating them again changes nothing.
func TestManifestsAreGenerated(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "monitoring"), os.DirFS("../monitoring")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, istio.Files); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	files := []string{"reorder/lua/envoyfilter.yaml", ruleObject}
	before := map[string][]byte{}
	for _, file := range files {
		var err error
		if before[file], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(writeScript(), writeRules()); err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if after, err := os.ReadFile(file); err != nil || !bytes.Equal(before[file], after) {
			t.Errorf("%s is out of date: run go generate ./istio (%v)", file, err)
		}
	}
}
