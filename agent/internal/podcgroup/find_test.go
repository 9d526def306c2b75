// SPDX-License-Identifier: Apache-2.0

package podcgroup

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	any := func(string) bool { return true }
	for name, test := range map[string]struct{ dirs, want []string }{
		"systemd":            {[]string{"node/kubepods.slice", "node/system.slice"}, []string{"node/kubepods.slice"}},
		"cgroupfs":           {[]string{"node/kubepods"}, []string{"node/kubepods"}},
		"kind":               {[]string{"node/kubelet.slice/kubelet-kubepods.slice"}, []string{"node/kubelet.slice/kubelet-kubepods.slice"}},
		"beside version 1":   {[]string{"node/unified/kubepods"}, []string{"node/unified/kubepods"}},
		"two drivers":        {[]string{"node/kubepods.slice", "node/kubepods"}, []string{"node/kubepods.slice", "node/kubepods"}},
		"the mount wins":     {[]string{"node/kubepods", "own/kubepods.slice"}, []string{"node/kubepods"}},
		"not in a container": {[]string{"own/kubepods.slice"}, []string{"own/kubepods.slice"}},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			in := func(names ...string) (all []string) {
				for _, n := range names {
					all = append(all, filepath.Join(root, n))
				}
				return all
			}
			for _, dir := range in(test.dirs...) {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			got, err := find(in("node", "node/unified", "own"), any)
			if err != nil || !slices.Equal(got, in(test.want...)) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

// A directory of the right name on another file system is none.
func TestFindNothing(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "kubepods"), 0o755); err != nil {
		t.Fatal(err)
	}
	got, err := Find([]string{root})
	if err == nil || got != nil || !strings.Contains(err.Error(), "--socket-cgroup") || !strings.Contains(err.Error(), root) {
		t.Errorf("got %v, %v", got, err)
	}
}
