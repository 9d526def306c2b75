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

// userSettings sets what go env -w sets.
func userSettings(t *testing.T, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOENV", file)
}

// Neither go env -w nor the environment of a user changes how programs are compiled; where
// modules come from stays the user's.
func TestEnvironment(t *testing.T) {
	userSettings(t, "GOFLAGS=-tags=other\nGOAMD64=v3\nGOARM64=v9.0\nGOWASM=\nGOFIPS140=latest\nCGO_ENABLED=1\nGOPROXY=https://proxy.example\n")
	t.Setenv("GOPROXY", "")
	t.Setenv("GOAMD64", "v4")
	t.Setenv("GOEXPERIMENT", "synctest")
	names := []string{"GOFLAGS", "GOAMD64", "GOARM64", "GOWASM", "GOFIPS140", "CGO_ENABLED", "GOEXPERIMENT", "GOPROXY"}
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
			"CGO_ENABLED": "0", "GOEXPERIMENT": "", "GOPROXY": "https://proxy.example",
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
