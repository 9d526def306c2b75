// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// runHere runs a command line in this process.
func runHere(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(context.Background(), args, &out, &err)
	return code, out.String(), err.String()
}

// A dry run prints all objects and needs neither cluster nor kubeconfig.
func TestInstallDryRun(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	code, stdout, stderr := runHere(t, "install", "--dry-run", "--reorder=lua", "--namespace=tracing", "--agent-setting=deep=true")
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	for _, want := range []string{"kind: Namespace\n", "name: tracing\n", "kind: EnvoyFilter\n", `deep: "true"`} {
		if !strings.Contains(stdout, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
}

// Refusals are one line that names the flag.
func TestClusterCommandsRefuse(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args string
		want string
	}{
		{"install --reorder=front", "--reorder"},
		{"install --kubeconfig=/nosuch", "--kubeconfig"},
		{"install --kubeconfig=" + broken, "--kubeconfig"},
		{"status --kubeconfig=/nosuch", "--kubeconfig"},
		{"status --window=-1s", "--window"},
		{"uninstall --kubeconfig=/nosuch", "--kubeconfig"},
		{"uninstall --reorder=lua", "unknown flag --reorder"},
		{"install --reorders=lua", "--reorder"},
		{"install --dry-run --reorder=lua --namespace-selector=team=web", "needs a cluster"},
	} {
		code, stdout, stderr := runHere(t, strings.Fields(test.args)...)
		wantCode := exitUsage
		if test.want == "--kubeconfig" {
			wantCode = exitFailed
		}
		if code != wantCode || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, test.want) {
			t.Errorf("%s: exit code %d, %q, %q", test.args, code, stdout, stderr)
		}
	}
}

// The commands report an unreachable cluster.
func TestClusterAway(t *testing.T) {
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	text := `{apiVersion: v1, kind: Config, current-context: a, clusters: [{name: a, cluster: {server: "http://127.0.0.1:1"}}], contexts: [{name: a, context: {cluster: a}}]}`
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"install --yes --reorder=lua", "status", "uninstall --yes", "try --yes --namespace=shop", "try --yes --remove"} {
		code, _, stderr := runHere(t, append(strings.Fields(command), "--kubeconfig="+kubeconfig)...)
		if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "127.0.0.1:1") {
			t.Errorf("%s: exit code %d, %q", command, code, stderr)
		}
	}
}
