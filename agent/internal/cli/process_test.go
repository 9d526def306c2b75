// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// process is a running command whose lines can be waited for.
type process struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr chan string
}

// start runs the command inside s until it is stopped or the test ends.
func start(t *testing.T, s *space, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(binary, args...), stdout: make(chan string, 1000), stderr: make(chan string, 1000)}
	p.cmd.Env = []string{}
	for _, pipe := range []struct {
		open func() (io.ReadCloser, error)
		to   chan string
	}{{p.cmd.StdoutPipe, p.stdout}, {p.cmd.StderrPipe, p.stderr}} {
		r, err := pipe.open()
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer close(pipe.to)
			for lines := bufio.NewScanner(r); lines.Scan(); {
				pipe.to <- lines.Text()
			}
		}()
	}
	s.inside(p.cmd.Start)
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill() // the test failed before it ended the process
			_ = p.cmd.Wait()
		}
	})
	return p
}

// await returns the next line with all the texts in it.
func (p *process) await(lines <-chan string, texts ...string) string {
	p.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case line, open := <-lines:
			if !open {
				p.t.Fatalf("the agent ended before it said %q", texts)
			}
			if containsAll(line, texts) {
				return line
			}
		case <-deadline:
			p.t.Fatalf("the agent does not say %q", texts)
		}
	}
}

func containsAll(line string, texts []string) bool {
	for _, text := range texts {
		if !strings.Contains(line, text) {
			return false
		}
	}
	return true
}

// end waits for the process and returns its exit code and what is left on
// stdout.
func (p *process) end() (code int, rest []string) {
	for line := range p.stdout {
		rest = append(rest, line)
	}
	for range p.stderr { // Wait wants the pipes read
	}
	_ = p.cmd.Wait() // the exit code tells
	return p.cmd.ProcessState.ExitCode(), rest
}
