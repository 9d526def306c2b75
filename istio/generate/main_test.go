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

// The manifests hold the present script and the present hash: generating them
// once more changes nothing.
func TestManifestsAreGenerated(t *testing.T) {
	dir := t.TempDir()
	monitoring := os.DirFS("../monitoring")
	if err := errors.Join(os.CopyFS(dir, istio.Files), os.CopyFS(filepath.Join(dir, "monitoring"), monitoring)); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	if err := writeScript(); err != nil {
		t.Fatal(err)
	}
	if err := writeHash(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(ruleObject)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeRules(); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(ruleObject); err != nil || !bytes.Equal(before, after) {
		t.Errorf("%s is out of date: run go generate ./istio (%v)", ruleObject, err)
	}
	for _, file := range []string{"reorder/lua/envoyfilter.yaml", "agent/daemonset.yaml"} {
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := istio.Files.ReadFile(file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is out of date: run go generate ./istio (%v)", file, err)
		}
	}
}
