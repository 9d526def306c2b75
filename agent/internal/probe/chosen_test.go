// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/bpf"
)

// Sockets of a chosen cgroup and of those below it are told from others by the
// program that is asked at a write; of all who write meanwhile, only they are.
func TestChosenCgroups(t *testing.T) {
	needsWrites(t)
	if !inNamespace(t) {
		return
	}
	own := ownCgroup(t)
	for name, test := range map[string]struct {
		chosen []string
		want   bool
	}{
		"own":           {[]string{own}, true},
		"one above":     {[]string{filepath.Dir(own)}, true},
		"another":       {[]string{newCgroup(t)}, false},
		"one of others": {[]string{newCgroup(t), newCgroup(t), own}, true},
	} {
		t.Run(name, func(t *testing.T) {
			k := newLoopbackOf(t, test.chosen...)
			writeUnread(t, []string{strings.Repeat("no HTTP\n", 1<<15), "GET / HTTP/1.1\r\n\r\n"})
			chosen, asked := false, false
			for _, answer := range answers(t, k) {
				chosen = chosen || answer&1 != 0
				asked = asked || answer != 0
			}
			if !asked || chosen != test.want {
				t.Errorf("asked for a cgroup: %v, chosen: %v, want %v", asked, chosen, test.want)
			}
		})
	}
}

// A cgroup that is made does not inherit what was known of one that was at its
// address.
func TestMadeCgroupIsAskedFor(t *testing.T) {
	needsWrites(t)
	if !inNamespace(t) {
		return
	}
	k := newLoopbackOf(t, newCgroup(t))
	const stale = 1 << 62
	var all bpf.SocketCgroupCache
	for i := range all.Of {
		all.Of[i] = stale
	}
	must(t, k.probe.sockets.collection.Maps[bpf.SocketMapCachedCgroups].Put(uint32(0), &all))
	newCgroup(t)
	if known := answers(t, k); !slices.Contains(known, 0) {
		t.Errorf("nothing was forgotten: %#x", known)
	}
}

// answers returns what the programs know of cgroups.
func answers(t *testing.T, k *kernel) []uint64 {
	t.Helper()
	var known bpf.SocketCgroupCache
	must(t, k.probe.sockets.collection.Maps[bpf.SocketMapCachedCgroups].Lookup(uint32(0), &known))
	return known.Of[:]
}

// A process may be in a cgroup below the chosen one: what it writes is noted.
func TestWriteOfACgroupBelow(t *testing.T) {
	needsWrites(t)
	if !inNamespace(t) {
		return
	}
	above := newCgroup(t)
	below := filepath.Join(above, "below")
	must(t, os.Mkdir(below, 0o755))
	must(t, joinCgroup(below))
	t.Cleanup(func() {
		must(t, joinCgroup(filepath.Dir(above)))
		must(t, os.Remove(below))
	})
	k := newLoopbackOf(t, above)
	checkWaiting(t, k)
}
