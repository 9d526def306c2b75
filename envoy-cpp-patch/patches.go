// SPDX-License-Identifier: Apache-2.0

// Package envoypatch holds the patches that make Envoy write the trace context
// before the other request headers, and the releases that they fit.
package envoypatch

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Version is the content of the file ENVOY_VERSION.
type Version struct {
	// Istio is the release of istio/proxy that the image is built from: 1.29.0.
	Istio string
	// Envoy is the minor release of Envoy that it ships: 1.37.
	Envoy string
	// Supported are the minor releases of Envoy that the patches fit.
	Supported []string
}

var (
	release = regexp.MustCompile(`^[1-9]\d*\.\d+\.\d+$`)
	minor   = regexp.MustCompile(`^[1-9]\d*\.\d+$`)
)

// ReadVersion reads a file of KEY=VALUE lines, empty lines and # comments, with each
// of the three keys once.
func ReadVersion(path string) (Version, error) {
	file, err := os.Open(path)
	if err != nil {
		return Version{}, fmt.Errorf("read the Envoy version: %w", err)
	}
	defer file.Close()

	values := map[string]string{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || !slices.Contains([]string{"ISTIO", "ENVOY", "SUPPORTED"}, key) || values[key] != "" {
			return Version{}, fmt.Errorf("%s: line %q: want ISTIO, ENVOY and SUPPORTED=VALUE, once each", path, line)
		}
		values[key] = value
	}
	if err := lines.Err(); err != nil {
		return Version{}, fmt.Errorf("read the Envoy version: %w", err)
	}
	v := Version{Istio: values["ISTIO"], Envoy: values["ENVOY"], Supported: strings.Fields(values["SUPPORTED"])}
	return v, v.check(path)
}

func (v Version) check(path string) error {
	if !release.MatchString(v.Istio) {
		return fmt.Errorf("%s: ISTIO=%s: want a release such as 1.29.0", path, v.Istio)
	}
	for _, envoy := range append([]string{v.Envoy}, v.Supported...) {
		if !minor.MatchString(envoy) {
			return fmt.Errorf("%s: Envoy release %q: want a minor release such as 1.37", path, envoy)
		}
	}
	if !slices.Contains(v.Supported, v.Envoy) {
		return fmt.Errorf("%s: ENVOY=%s is not among SUPPORTED", path, v.Envoy)
	}
	return nil
}

// Patches returns the paths of the patches in dir (NNNN-*.patch), in the order of
// their application: what the image is built with.
func Patches(dir string) ([]string, error) {
	patches, err := filepath.Glob(filepath.Join(dir, "[0-9][0-9][0-9][0-9]-*.patch"))
	if err != nil {
		return nil, fmt.Errorf("find patches: %w", err)
	}
	if len(patches) == 0 {
		return nil, fmt.Errorf("no patches (NNNN-*.patch) in %s", dir)
	}
	return patches, nil
}

// Changelogs returns the paths of the patches of Envoy's changelog that belong to the
// patches in dir. Only a pull request needs them, and they fit only Envoy's
// development tree: a release has another changelog.
func Changelogs(dir string) ([]string, error) { return Patches(filepath.Join(dir, "changelog")) }

// TreeVersion returns the minor release of the Envoy source tree in dir, from its
// VERSION.txt: 1.37 for 1.37.0-dev or 1.37.2.
func TreeVersion(dir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "VERSION.txt"))
	if err != nil {
		return "", fmt.Errorf("%s is not an Envoy source tree: %w", dir, err)
	}
	parts := strings.SplitN(strings.TrimSpace(string(text)), ".", 3)
	if len(parts) < 3 || !minor.MatchString(parts[0]+"."+parts[1]) {
		return "", fmt.Errorf("%s/VERSION.txt has %q: want a release such as 1.37.0", dir, text)
	}
	return parts[0] + "." + parts[1], nil
}

// ErrDoesNotApply is the error of Check for a tree that the patches do not fit.
var ErrDoesNotApply = errors.New("the patches do not apply")

// Check returns an error unless git can apply the patches, one after the other, to
// the source tree in dir, which stays unchanged and need not be a git repository. The
// error names the files and lines that differ.
func Check(dir string, patches []string) error {
	// As one: of several files git apply --check tries each on the tree as it is.
	var all bytes.Buffer
	for _, patch := range patches {
		text, err := os.ReadFile(patch)
		if err != nil {
			return fmt.Errorf("read a patch: %w", err)
		}
		all.Write(text)
	}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("locate the source tree: %w", err)
	}
	cmd := exec.Command("git", "-C", dir, "apply", "--check", "--whitespace=error-all", "-")
	cmd.Stdin = &all
	// Outside a repository, git apply takes paths relative to the directory.
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
