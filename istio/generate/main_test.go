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
	files := []string{"reorder/lua/envoyfilter.yaml", ruleObject}
	for _, image := range images {
		files = append(files, image.file)
	}
	for _, file := range []string{"values.yaml", "Chart.yaml"} { // of the chart, not embedded
		text, err := os.ReadFile(filepath.Join("..", file))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	before := map[string][]byte{}
	for _, file := range files {
		var err error
		if before[file], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(writeImages(), writeScript(), writeRules()); err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if after, err := os.ReadFile(file); err != nil || !bytes.Equal(before[file], after) {
			t.Errorf("%s is out of date: run go generate ./istio (%v)", file, err)
		}
	}
}
