// SPDX-License-Identifier: Apache-2.0

package envoypatch

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestEnvoyVersion(t *testing.T) {
	if _, err := ReadVersion("ENVOY_VERSION"); err != nil {
		t.Error(err)
	}
}

func TestReadVersionRefuses(t *testing.T) {
	good := "# comment\n\nISTIO=1.29.0\nENVOY=1.37\nSUPPORTED=1.36 1.37\n"
	for name, c := range map[string]struct{ old, new, want string }{
		"an unknown key":        {"ISTIO=", "ISTO=", `line "ISTO=1.29.0"`},
		"a key twice":           {"ENVOY=1.37\n", "ENVOY=1.37\nENVOY=1.37\n", `line "ENVOY=1.37"`},
		"no release":            {"ISTIO=1.29.0\n", "", "ISTIO="},
		"a minor for a release": {"ISTIO=1.29.0", "ISTIO=1.29", "ISTIO=1.29"},
		"a release for a minor": {"1.36 ", "1.36.2 ", `"1.36.2"`},
		"an unsupported minor":  {"1.36 1.37", "1.36", "not among SUPPORTED"},
	} {
		file := filepath.Join(t.TempDir(), "ENVOY_VERSION")
		if err := os.WriteFile(file, []byte(strings.Replace(good, c.old, c.new, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadVersion(file); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
	file := filepath.Join(t.TempDir(), "ENVOY_VERSION")
	if err := os.WriteFile(file, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := ReadVersion(file)
	if err != nil || v.Istio != "1.29.0" || v.Envoy != "1.37" || strings.Join(v.Supported, " ") != "1.36 1.37" {
		t.Errorf("ReadVersion = %+v, %v", v, err)
	}
}

// contextTree writes a tree that has nothing of Envoy but the lines that the
// patches expect to find, and returns its directory.
func contextTree(t *testing.T, patches []patchFile) string {
	t.Helper()
	before, after := map[string][]string{}, map[string][]string{}
	for _, patch := range patches {
		for _, file := range patch.files {
			if file.created {
				continue
			}
			for _, h := range file.hunks {
				at := indexOf(after[file.path], h.before)
				if at < 0 { // not what an earlier patch has left
					at = len(after[file.path])
					before[file.path] = append(before[file.path], h.before...)
					after[file.path] = append(after[file.path], h.before...)
				}
				after[file.path] = slices.Replace(after[file.path], at, at+len(h.before), h.after...)
			}
		}
	}
	dir := t.TempDir()
	before["VERSION.txt"] = []string{"1.37.0-dev"}
	for name, lines := range before {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// indexOf returns where the lines of part are in all, or -1.
func indexOf(all, part []string) int {
	for at := 0; at+len(part) <= len(all); at++ {
		if slices.Equal(all[at:at+len(part)], part) {
			return at
		}
	}
	return -1
}

func TestCheckReportsWhatDoesNotFit(t *testing.T) {
	patches, err := Patches(".")
	if err != nil {
		t.Fatal(err)
	}
	tree := contextTree(t, readPatches(t, "."))
	if err := Check(tree, patches); err != nil {
		t.Fatalf("a tree with the patches' own context: %v", err)
	}

	header := filepath.Join(tree, "source/common/http/header_map_impl.h")
	text, err := os.ReadFile(header)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), "pseudo_headers_end_ == headers_.end()", "!pseudo_headers_end_", 1)
	if err := os.WriteFile(header, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	err = Check(tree, patches)
	if !errors.Is(err, ErrDoesNotApply) || !strings.Contains(err.Error(), "header_map_impl.h") {
		t.Errorf("a tree that differs in header_map_impl.h: error %v", err)
	}
	if release, err := TreeVersion(tree); release != "1.37" || err != nil {
		t.Errorf("TreeVersion = %q, %v", release, err)
	}
}

// A release has another changelog than the development tree; the image needs none.
func TestPatchesDoNotNeedTheChangelog(t *testing.T) {
	for _, patch := range readPatches(t, ".") {
		for _, file := range patch.files {
			if strings.HasPrefix(file.path, "changelogs/") {
				t.Errorf("%s changes %s, which differs between the commits of a release", patch.name, file.path)
			}
		}
	}
	changelogs, err := Changelogs(".")
	if err != nil {
		t.Fatal(err)
	}
	if err := Check(contextTree(t, readPatches(t, ".")), changelogs); !errors.Is(err, ErrDoesNotApply) {
		t.Errorf("the changelog of a tree without one: %v", err)
	}
	if err := Check(contextTree(t, readPatches(t, "changelog")), changelogs); err != nil {
		t.Errorf("the changelog in its own context: %v", err)
	}
}

// TestGitAm applies the patches as the image build does.
func TestGitAm(t *testing.T) {
	list := readPatches(t, ".")
	patches, err := Patches(".")
	if err != nil {
		t.Fatal(err)
	}
	tree := contextTree(t, list)
	am := []string{"am", "-q"}
	for _, patch := range patches {
		absolute, err := filepath.Abs(patch)
		if err != nil {
			t.Fatal(err)
		}
		am = append(am, absolute)
	}
	for _, args := range [][]string{
		{"init", "-q"},
		{"add", "-A"},
		{"commit", "-q", "-m", "release"},
		am,
	} {
		cmd := exec.Command("git", append([]string{"-C", tree, "-c", "commit.gpgsign=false", "-c", "user.name=test", "-c", "user.email=test@test.example"}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		if output, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, output)
		}
	}
	for n, patch := range list {
		for _, file := range patch.files {
			text, err := os.ReadFile(filepath.Join(tree, file.path))
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range file.added() {
				removedLater := slices.ContainsFunc(list[n+1:], func(later patchFile) bool {
					return slices.Contains(later.file(file.path).removed(), line)
				})
				if !removedLater && !strings.Contains(string(text), line+"\n") {
					t.Fatalf("%s has no line %q after git am", file.path, line)
				}
			}
		}
	}
}
