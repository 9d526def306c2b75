// SPDX-License-Identifier: Apache-2.0

package envoypatch

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Patches returns the paths of the patches in dir (NNNN-*.patch), in the order
// in which they are applied.
func Patches(dir string) ([]string, error) {
	patches, err := filepath.Glob(filepath.Join(dir, "[0-9][0-9][0-9][0-9]-*.patch"))
	if err != nil {
		return nil, fmt.Errorf("look for patches: %w", err)
	}
	if len(patches) == 0 {
		return nil, fmt.Errorf("no patches (NNNN-*.patch) in %s", dir)
	}
	return patches, nil
}

// TreeVersion returns the minor release of the Envoy source tree in dir, as its
// VERSION.txt says: 1.37 for 1.37.0-dev or 1.37.2.
func TreeVersion(dir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "VERSION.txt"))
	if err != nil {
		return "", fmt.Errorf("%s is no Envoy source tree: %w", dir, err)
	}
	parts := strings.SplitN(strings.TrimSpace(string(text)), ".", 3)
	if len(parts) < 3 || !minor.MatchString(parts[0]+"."+parts[1]) {
		return "", fmt.Errorf("%s/VERSION.txt says %q: want a release such as 1.37.0", dir, text)
	}
	return parts[0] + "." + parts[1], nil
}

// ErrDoesNotApply is what Check returns for a tree that the patches do not fit.
var ErrDoesNotApply = errors.New("the patches do not apply")

// Check tells whether git could apply the patches to the source tree in dir,
// which it leaves as it is. The tree need not be a git repository. The error
// names the files and lines that differ.
func Check(dir string, patches []string) error {
	args := []string{"-C", dir, "apply", "--check", "--whitespace=error-all"}
	for _, patch := range patches {
		absolute, err := filepath.Abs(patch)
		if err != nil {
			return fmt.Errorf("locate a patch: %w", err)
		}
		args = append(args, absolute)
	}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("locate the source tree: %w", err)
	}
	cmd := exec.Command("git", args...)
	// Without a repository around it, git apply takes paths from the directory.
	cmd.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(absolute), "LC_ALL=C")
	output, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return fmt.Errorf("%w:\n%s", ErrDoesNotApply, strings.TrimSpace(string(output)))
	}
	if err != nil {
		return fmt.Errorf("run git apply: %w", err)
	}
	return nil
}
