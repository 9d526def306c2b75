// SPDX-License-Identifier: Apache-2.0

package envoypatch

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
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
// patch expects to find, and returns its directory.
func contextTree(t *testing.T, files map[string]fileDiff) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("VERSION.txt", "1.37.0-dev\n")
	for name, file := range files {
		if !file.created {
			write(name, strings.Join(file.before, "\n")+"\n")
		}
	}
	return dir
}

func TestCheckReportsWhatDoesNotFit(t *testing.T) {
	_, files := readPatch(t)
	patches, err := Patches(".")
	if err != nil {
		t.Fatal(err)
	}
	tree := contextTree(t, files)
	if err := Check(tree, patches); err != nil {
		t.Fatalf("a tree with the patch's own context: %v", err)
	}

	header := filepath.Join(tree, "source/common/http/header_map_impl.h")
	text, err := os.ReadFile(header)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), "pseudo_headers_end_++", "++pseudo_headers_end_", 1)
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

// TestGitAm applies the patch as the image build does.
func TestGitAm(t *testing.T) {
	_, files := readPatch(t)
	patches, err := Patches(".")
	if err != nil {
		t.Fatal(err)
	}
	tree := contextTree(t, files)
	patch, err := filepath.Abs(patches[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"init", "-q"},
		{"add", "-A"},
		{"commit", "-q", "-m", "release"},
		{"am", "-q", patch},
	} {
		cmd := exec.Command("git", append([]string{"-C", tree, "-c", "commit.gpgsign=false", "-c", "user.name=test", "-c", "user.email=test@test.example"}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		if output, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, output)
		}
	}
	for name, file := range files {
		text, err := os.ReadFile(filepath.Join(tree, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range file.added {
			if !strings.Contains(string(text), line+"\n") {
				t.Fatalf("%s has no line %q after git am", name, line)
			}
		}
	}
}
