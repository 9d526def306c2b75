// SPDX-License-Identifier: Apache-2.0

package config

import (
	"slices"
	"strings"
	"testing"
)

// In a cluster the pods' cgroup is looked for unless another one is named.
func TestSocketCgroup(t *testing.T) {
	for args, want := range map[string][]string{
		"":                            nil,
		"--spans=layers":              nil,
		"--kubernetes":                nil,
		"--kubernetes --spans=layers": {SocketCgroupAuto},
		"--kubernetes --spans=layers --socket-cgroup=/a,/b": {"/a", "/b"},
		"--spans=layers --socket-cgroup=auto":               {SocketCgroupAuto},
	} {
		c, err := load(t, strings.Fields(args), nil, "")
		if err != nil || !slices.Equal(c.SocketCgroups, want) {
			t.Errorf("%q: %v, %v", args, c.SocketCgroups, err)
		}
	}
}

func TestLayersRefused(t *testing.T) {
	for args, want := range map[string]string{
		"--socket-cgroup=auto":                    "--spans=layers",
		"--spans=layers --socket-cgroup=auto,/a":  "cannot stand beside",
		"--layer-min-duration=20us":               "--spans=layers",
		"--spans=layers --layer-min-duration=-1s": "choose 0 or more",
	} {
		if _, err := load(t, strings.Fields(args), nil, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", args, err)
		}
	}
}
