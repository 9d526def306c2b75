// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRunRefuses(t *testing.T) {
	empty := t.TempDir()
	foreign := t.TempDir() // of a release that is not supported, without any of its files
	if err := os.WriteFile(filepath.Join(foreign, "VERSION.txt"), []byte("1.20.0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		dir   string
		trees []string
		want  string
	}{
		"no source tree":          {"..", nil, "no source tree given for the supported releases"},
		"an empty directory":      {"..", []string{empty}, "is not an Envoy source tree"},
		"a tree that is no match": {"..", []string{foreign}, "1 of 1 source trees: the patches do not apply"},
		"no patches":              {empty, nil, "ENVOY_VERSION"},
	} {
		var out strings.Builder
		if err := run(&out, c.dir, c.trees); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
		if len(c.trees) > 0 && c.trees[0] == foreign && !strings.Contains(out.String(), "1.20 (not among SUPPORTED") {
			t.Errorf("%s: printed %q", name, out.String())
		}
	}
}
