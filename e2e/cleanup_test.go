// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
	"github.com/layertrace/layertrace/e2e/testrun"
)

// An interrupted demo removes everything, at any step.
func TestInterruptedDemoLeavesNothing(t *testing.T) {
	command := buildDemo(t)
	for _, step := range []string{"creating", "starting Jaeger", "starting applications", " requests"} {
		t.Run(strings.TrimSpace(step), func(t *testing.T) {
			demo := startDemo(t, command)
			demo.awaitOutput(t, step)
			if err := demo.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			if err := demo.Wait(); err == nil {
				t.Error("exit code 0 after an interrupt")
			}
			if left := leftovers(t); len(left) > 0 {
				t.Errorf("leftovers: %v\n%s", left, demo.output())
			}
		})
	}
}

// The next demo removes what a killed one left.
func TestKilledDemoIsCleanedUpByTheNext(t *testing.T) {
	command := buildDemo(t)
	first := startDemo(t, command)
	first.awaitOutput(t, " requests")
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); err == nil {
		t.Fatal("the killed demo exits with code 0")
	}
	if len(leftovers(t)) == 0 {
		t.Fatal("a killed demo left nothing: this test tests nothing")
	}
	second := startDemo(t, command)
	if err := second.Wait(); err != nil {
		t.Errorf("demo after a killed one: %v\n%s", err, second.output())
	}
	if left := leftovers(t); len(left) > 0 {
		t.Errorf("leftovers: %v", left)
	}
}

// demoLab is a lab name of its own, so that the tests do not affect a running demo.
const demoLab = "leave"

// leftovers lists the namespaces, cgroups and processes of the demo's lab.
func leftovers(t *testing.T) []string {
	t.Helper()
	left, err := filepath.Glob("/run/netns/lt-" + demoLab + "-*")
	if err != nil {
		t.Fatal(err)
	}
	mount, err := sandbox.CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	group := filepath.Join(mount, "layertrace-lab-"+demoLab)
	if _, err := os.Stat(group); err == nil {
		left = append(left, group)
	} else if !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	// Processes by the lab's directory in their command line, which also finds
	// those outside of the cgroup.
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range commands {
		if line, err := os.ReadFile(path); err == nil && bytes.Contains(line, []byte("/"+demoLab+"-out/lab/")) {
			left = append(left, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return left
}

func buildDemo(t *testing.T) string {
	t.Helper()
	theTools(t)
	command := filepath.Join(t.TempDir(), "lab")
	build := exec.CommandContext(interrupted, "go", "build", "-o", command, "./cmd/lab")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the demo: %v\n%s", err, out)
	}
	return command
}

type demoProcess struct {
	*exec.Cmd
	log string
}

func startDemo(t *testing.T, command string) *demoProcess {
	t.Helper()
	out := testrun.Out(t, demoLab+"-out")
	log, err := os.Create(filepath.Join(t.TempDir(), "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.CommandContext(interrupted, command, "demo", "--name", demoLab, "--requests", "60", "--out", out)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &demoProcess{cmd, log.Name()}
}

func (d *demoProcess) output() string {
	data, err := os.ReadFile(d.log)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// awaitOutput waits until the demo has printed text.
func (d *demoProcess) awaitOutput(t *testing.T, text string) {
	t.Helper()
	err := sandbox.Await(interrupted, "output "+text, 2*time.Minute, 5*time.Millisecond, func(context.Context) error {
		if !strings.Contains(d.output(), text) {
			return errors.New("not yet:\n" + d.output())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
