// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// binary is the built command.
var binary string

// hideBTF makes the test binary, run anew, hide the kernel's BTF from the
// command that it becomes.
const hideBTF = "TEST_HIDE_BTF"

func TestMain(m *testing.M) {
	if os.Getenv(hideBTF) != "" {
		fmt.Fprintln(os.Stderr, becomeWithoutBTF()) // it returns only when it failed
		os.Exit(2)
	}
	os.Exit(withBinary(m))
}

func withBinary(m *testing.M) int {
	dir, err := os.MkdirTemp("", "layertrace-cli-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "layertrace")
	build := exec.Command("go", "build", "-o", binary, "github.com/layertrace/layertrace/agent/cmd/layertrace")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	// An unprivileged user runs it too.
	if err := errors.Join(build.Run(), os.Chmod(dir, 0o755)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func becomeWithoutBTF() error {
	// In a mount namespace of its own, an empty directory over the BTF.
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount("none", "/sys/kernel/btf", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("hide BTF: %w", err)
	}
	args := os.Args[1:]
	return syscall.Exec(args[0], args, nil)
}

// result of one run.
type result struct {
	code           int
	stdout, stderr string
}

// runBinary runs the command to its end.
func runBinary(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// checkRefusal wants exit code 1 and one line with a text on stderr.
func checkRefusal(t *testing.T, r result, want string) {
	t.Helper()
	if r.code != 1 {
		t.Errorf("exit code %d, want 1", r.code)
	}
	if strings.Count(r.stderr, "\n") != 1 || !strings.HasPrefix(r.stderr, "layertrace: ") || !strings.Contains(r.stderr, want) {
		t.Errorf("stderr is %q, want one line with %q", r.stderr, want)
	}
	if r.stdout != "" {
		t.Errorf("stdout is %q", r.stdout)
	}
}
