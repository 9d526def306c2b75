// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sharedHost is a proxy with several plugins in one VM: the current stream, and
// the plugin that is being configured, belong to the one of this name.
type sharedHost struct {
	brokenHost
	name, json string
	headers    [][2]string
}

func (h *sharedHost) configuration() ([]byte, error) { return []byte(h.json), nil }

func (h *sharedHost) property(name string) ([]byte, error) {
	if name != "plugin_name" {
		return nil, errHost
	}
	return []byte(h.name), nil
}

func (h *sharedHost) setRequestHeaders(pairs []byte) error {
	h.headers = decodePairs(pairs)
	return nil
}

// TestPluginsOfOneVM checks that each stream gets the configuration of its own
// plugin, and that a plugin can be configured again.
func TestPluginsOfOneVM(t *testing.T) {
	h := &sharedHost{brokenHost: brokenHost{counted: map[string]int{}}}
	v := vm{host: h}
	configure := func(name, json string) {
		h.name, h.json = name, json
		v.configure()
	}
	check := func(name string, want [][2]string) {
		t.Helper()
		h.name, h.headers = name, slices.Clone(stock)
		v.request(1)
		if diff := cmp.Diff(want, h.headers); diff != "" {
			t.Errorf("headers behind plugin %q (-want +got):\n%s", name, diff)
		}
	}
	configure("one", `{"headers":["x-own"]}`)
	check("one", own)
	configure("two", ``)
	check("two", front)
	check("one", own)
	configure("passive", `{"header":[]}`)
	check("passive", stock)
	check("one", own)
	check("unknown", stock)
	configure("one", ``)
	check("one", front)
	v.end(1) // of a stream that nobody waits for
}
