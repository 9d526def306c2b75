// SPDX-License-Identifier: Apache-2.0

package main

import (
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
