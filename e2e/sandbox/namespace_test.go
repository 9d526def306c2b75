// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
)

// inOwnRun runs the test again in a mount namespace with an empty /run, where
// /run/netns is not a mount point yet and nothing reaches the machine's own. It
// reports whether this is that run.
func inOwnRun(t *testing.T) bool {
	t.Helper()
	const variable = "LAYERTRACE_TEST_OWN_RUN"
	if os.Getenv(variable) != "" {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("mount namespaces need root")
	}
	cmd := exec.Command("unshare", "--mount", "--propagation=private", "sh", "-c", `mount -t tmpfs run /run && exec "$@"`,
		"sh", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("in a mount namespace of its own: %v\n%s", err, out)
	}
	return false
}

// ipNetnsAdd is what another user of the machine does.
func ipNetnsAdd(t *testing.T, name string) {
	t.Helper()
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Fatalf("ip netns add %s: %v\n%s", name, err, out)
	}
}

// onlyRemains fails unless other is the only namespace with a file, and none with
// the prefix is mounted. (The machine's own are, below the empty /run.)
func onlyRemains(t *testing.T, other, prefix string) {
	t.Helper()
	entries, err := os.ReadDir(namespaceDir)
	if err != nil || len(entries) != 1 || entries[0].Name() != other {
		t.Errorf("files in %s: %v, %v; want only %s", namespaceDir, entries, err, other)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if point := strings.Fields(line)[4]; strings.HasPrefix(filepath.Base(point), prefix) {
			t.Errorf("%s is still mounted", point)
		}
	}
}

// Someone else's first `ip netns add` must not keep a namespace from going.
func TestDeleteAfterIPNetnsAdd(t *testing.T) {
	if !inOwnRun(t) {
		return
	}
	s, err := NewNamespace("lt-own")
	if err != nil {
		t.Fatal(err)
	}
	ipNetnsAdd(t, "other")
	if err := s.Delete(); err != nil {
		t.Error(err)
	}
	onlyRemains(t, "other", "lt-own")
}

// Namespaces that were made without preparing the directory, and which an
// `ip netns add` has covered since, can be removed as well.
func TestDeleteCoveredNamespaces(t *testing.T) {
	if !inOwnRun(t) {
		return
	}
	for _, name := range []string{"lt-stale-1", "lt-stale-2"} {
		err := onOwnThread(func() error {
			handle, err := netns.NewNamed(name)
			if err != nil {
				return err
			}
			return handle.Close()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	ipNetnsAdd(t, "other")
	// Its file has lost its mount to an earlier attempt.
	if err := netns.DeleteNamed("lt-stale-2"); err == nil {
		t.Fatal("the namespace was not covered: this test tests nothing")
	}
	if err := os.WriteFile(filepath.Join(namespaceDir, "lt-stale-3"), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if n, err := DeleteNamespaces("lt-stale-"); n != 3 || err != nil {
		t.Errorf("removed %d: %v; want 3", n, err)
	}
	onlyRemains(t, "other", "lt-stale")
}
