// SPDX-License-Identifier: Apache-2.0

package envoypatch

import (
	"os"
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
