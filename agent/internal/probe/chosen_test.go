// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/layertrace/layertrace/bpf"
)

// Sockets of a chosen cgroup and of those below it are known by their ID, others
// as such, in programs that are asked when a write has to wait.
func TestChosenCgroups(t *testing.T) {
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
			var known bpf.SocketAnswers
			must(t, k.probe.sockets.collection.Maps[bpf.SocketMapKnownCgroups].Lookup(uint32(0), &known))
			var st syscall.Stat_t
			must(t, syscall.Stat(own, &st))
			want := st.Ino << 1
			if test.want {
				want |= 1
			}
			if got := known.Of[st.Ino%uint64(len(known.Of))]; got != want {
				t.Errorf("of cgroup %d the programs know %#x, want %#x", st.Ino, got, want)
			}
		})
	}
}

// A process may be in a cgroup below the chosen one: what it writes is noted.
func TestWriteOfACgroupBelow(t *testing.T) {
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
