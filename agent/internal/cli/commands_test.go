// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/doctor"
)

func TestVersion(t *testing.T) {
	r := runBinary(t, exec.Command(binary, "version"))
	if r.code != 0 || !strings.HasPrefix(r.stdout, "layertrace ") || r.stderr != "" {
		t.Errorf("got %+v", r)
	}
}

// The text and the JSON say the same, and the exit code says it too.
func TestDoctor(t *testing.T) {
	text := runBinary(t, exec.Command(binary, "doctor"))
	asJSON := runBinary(t, exec.Command(binary, "doctor", "--json"))
	var report doctor.Report
	if err := json.Unmarshal([]byte(asJSON.stdout), &report); err != nil {
		t.Fatal(err)
	}
	if want := map[bool]int{true: 0, false: 1}[report.Capture]; text.code != want || asJSON.code != want {
		t.Errorf("exit codes %d and %d, want %d", text.code, asJSON.code, want)
	}
	if report.Kernel == "" || len(report.Checks) < 10 {
		t.Errorf("report %+v", report)
	}
	for _, c := range report.Checks {
		if !strings.Contains(text.stdout, c.Name+" ") {
			t.Errorf("the text lacks %s", c.Name)
		}
	}
	verdict := map[bool]string{true: "The agent can capture here", false: "The agent cannot capture here"}[report.Capture]
	if !strings.Contains(text.stdout, verdict) {
		t.Errorf("the text does not say: %s", verdict)
	}
}

func TestHelpListsTheCommands(t *testing.T) {
	r := runBinary(t, exec.Command(binary, "--help"))
	for _, command := range []string{"agent", "decode", "doctor", "explain", "install", "status", "uninstall", "version"} {
		if !strings.Contains(r.stdout, "\n  "+command+" ") {
			t.Errorf("the help lacks %s:\n%s", command, r.stdout)
		}
	}
}
