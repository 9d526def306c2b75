// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"os/exec"
	"testing"
)

// The revision to upgrade from is the latest release before this commit. A clone without any, and
// without beforeRevision, has none, and neither has what is no clone.
func TestRevisionBefore(t *testing.T) {
	dir := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		args = append([]string{"-C", dir, "-c", "user.name=test", "-c", "user.email=test@example.org"}, args...)
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	git("init", "-q")
	git("commit", "-q", "--allow-empty", "-m", "first")
	check := func(want string) {
		t.Helper()
		if got := revisionBefore(t.Context(), dir); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	check("")
	git("commit", "-q", "--allow-empty", "-m", "second")
	git("tag", "v1.0.0")
	check("") // not its own tag
	git("commit", "-q", "--allow-empty", "-m", "third")
	git("tag", "other")
	check("v1.0.0")
	if got := revisionBefore(t.Context(), t.TempDir()); got != "" {
		t.Errorf("%q outside of a clone", got)
	}
}
