// SPDX-License-Identifier: Apache-2.0

package gobuild

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// userSettings takes the place of what the user set by go env -w, except for where Go and modules
// come from.
func userSettings(t *testing.T, text string) {
	t.Helper()
	for _, name := range []string{"GOPROXY", "GOSUMDB", "GONOSUMDB", "GOMODCACHE"} {
		value, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv(name, strings.TrimSpace(string(value)))
	}
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOENV", file)
}

// Neither go env -w nor the environment of a user changes how programs are compiled; where
// modules come from stays the user's.
func TestEnvironment(t *testing.T) {
	userSettings(t, "GOFLAGS=-tags=other\nGOAMD64=v3\nGOARM64=v9.0\nGOWASM=\nGOFIPS140=latest\nCGO_ENABLED=1\nGOINSECURE=modules.example\n")
	t.Setenv("GOINSECURE", "")
	t.Setenv("GOAMD64", "v4")
	t.Setenv("GOEXPERIMENT", "synctest")
	names := []string{"GOFLAGS", "GOAMD64", "GOARM64", "GOWASM", "GOFIPS140", "CGO_ENABLED", "GOEXPERIMENT", "GOINSECURE"}
	for _, arch := range []string{"amd64", "arm64"} {
		cmd := exec.CommandContext(t.Context(), "go", append([]string{"env"}, names...)...)
		cmd.Env = Environment("linux", arch)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for i, value := range strings.Split(strings.TrimSuffix(string(out), "\n"), "\n") {
			got[names[i]] = value
		}
		want := map[string]string{
			"GOFLAGS": "-trimpath", "GOAMD64": "v1", "GOARM64": "v8.0", "GOWASM": "satconv,signext", "GOFIPS140": "off",
			"CGO_ENABLED": "0", "GOEXPERIMENT": "", "GOINSECURE": "modules.example",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", arch, diff)
		}
	}
}

// An experiment of go env -w cannot be overridden without another change, so it is refused.
func TestExperimentIsRefused(t *testing.T) {
	userSettings(t, "GOEXPERIMENT=nogreenteagc\n")
	out := filepath.Join(t.TempDir(), "program")
	err := Build(t.Context(), "", Program{Package: "absent", Out: out, OS: runtime.GOOS, Arch: runtime.GOARCH})
	if err == nil || !strings.Contains(err.Error(), "experiment nogreenteagc of your Go") || !strings.Contains(err.Error(), "go env -u GOEXPERIMENT") {
		t.Errorf("got %v", err)
	}
}
