// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"os/exec"
	"strings"
	"testing"
)

// The revision to upgrade from is the latest release before this commit; in a clone without
// any, and without beforeRevision, this commit.
func TestRevisionBefore(t *testing.T) {
	dir := t.TempDir()
	git := func(args ...string) string {
		t.Helper()
		args = append([]string{"-C", dir, "-c", "user.name=test", "-c", "user.email=test@example.org"}, args...)
		out, err := exec.Command("git", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "-q")
	git("commit", "-q", "--allow-empty", "-m", "first")
	first := git("rev-parse", "HEAD")
	check := func(want string) {
		t.Helper()
		if got, err := revisionBefore(t.Context(), dir); err != nil || got != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	check(first)
	git("commit", "-q", "--allow-empty", "-m", "second")
	git("tag", "v1.0.0")
	check(git("rev-parse", "HEAD")) // not its own tag
	git("commit", "-q", "--allow-empty", "-m", "third")
	git("tag", "other")
	check("v1.0.0")
	if _, err := revisionBefore(t.Context(), t.TempDir()); err == nil {
		t.Error("no error outside a repository")
	}
}
