// SPDX-License-Identifier: Apache-2.0

// Package process starts the lab's programs, each in a network namespace and a
// cgroup, and ends them.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/layertrace/layertrace/e2e/lab/cgroup"
	"github.com/layertrace/layertrace/e2e/lab/netspace"
)

// Spec says what to start and where.
type Spec struct {
	// Name is used in messages.
	Name string
	// Path and Args (without the program's own name) are the command.
	Path string
	Args []string
	// Space and Cgroup are where the process lives.
	Space  *netspace.Space
	Cgroup *cgroup.Group
	// UID and GID are the user and group under which it runs; 0 is root, as the
	// lab itself. Another user keeps root's way with files (CAP_DAC_OVERRIDE):
	// programs and outputs may be in directories that are root's own.
	UID, GID uint32
	// ClockOffset puts its monotonic clock ahead (behind) of the machine's, by a
	// time namespace.
	ClockOffset time.Duration
	// Env is added to the lab's own environment, as NAME=VALUE.
	Env []string
	// Stdout and Stderr are files; an empty Stdout goes to Stderr's file.
	Stdout, Stderr string
}

// Process is a started program.
type Process struct {
	spec Spec
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Start starts the program and returns at once.
func Start(spec Spec) (*Process, error) {
	fail := func(err error) (*Process, error) {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	group, err := os.Open(spec.Cgroup.Path)
	if err != nil {
		return fail(err)
	}
	defer group.Close()
	errFile, err := os.Create(spec.Stderr)
	if err != nil {
		return fail(err)
	}
	defer errFile.Close()
	outFile := errFile
	if spec.Stdout != "" {
		if outFile, err = os.Create(spec.Stdout); err != nil {
			return fail(err)
		}
		defer outFile.Close()
	}

	cmd := exec.Command(spec.Path, spec.Args...)
	cmd.Stdout, cmd.Stderr = outFile, errFile
	cmd.Dir = filepath.Dir(spec.Stderr)
	cmd.Env = append(os.Environ(), spec.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// A process group of its own: a Ctrl-C on the terminal reaches the
		// lab alone, which then ends its processes in order.
		Setpgid:     true,
		UseCgroupFD: true,
		CgroupFD:    int(group.Fd()),
		Credential:  &syscall.Credential{Gid: spec.GID, NoSetGroups: true},
	}
	run := spec.Space.Do
	if spec.ClockOffset != 0 {
		run = func(fn func() error) error { return spec.Space.DoOnce(shifted(spec.ClockOffset, fn)) }
	}
	if spec.UID != 0 {
		program, err := asUser(cmd, spec.UID)
		if err != nil {
			return fail(err)
		}
		defer program.Close()
	}
	if err := run(cmd.Start); err != nil {
		return fail(err)
	}
	p := &Process{spec: spec, cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID returns the process ID.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Name returns the name in the Spec.
func (p *Process) Name() string { return p.spec.Name }

// Running returns nil while the process runs, afterwards an error that says
// how it ended, with the last lines it wrote.
func (p *Process) Running() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended early: %v\n%s", p.spec.Name, p.cmd.ProcessState, p.Tail())
	default:
		return nil
	}
}

// Wait waits for the process to end by itself, and wants code 0. It is killed
// when ctx ends before.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("wait for %s: %w", p.spec.Name, ctx.Err()), p.Kill())
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w\n%s", p.spec.Name, p.err, p.Tail())
	}
	return nil
}

// Signal sends a signal.
func (p *Process) Signal(signal os.Signal) error {
	if err := p.cmd.Process.Signal(signal); err != nil {
		return fmt.Errorf("signal %s: %w", p.spec.Name, err)
	}
	return nil
}

// Stop asks the process to end (SIGTERM) and waits for that. One that is still
// there after limit is killed, which is an error.
func (p *Process) Stop(limit time.Duration) error {
	if err := p.Running(); err != nil {
		return err
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.spec.Name, err)
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.ended()
	case <-timer.C:
		err := p.Kill()
		return errors.Join(fmt.Errorf("stop %s: still running %v after SIGTERM\n%s", p.spec.Name, limit, p.Tail()), err)
	}
}

// Kill ends the process at once (SIGKILL) and waits for that.
func (p *Process) Kill() error {
	err := p.cmd.Process.Kill()
	<-p.done
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.spec.Name, err)
	}
	return nil
}

// ended judges an end that was asked for: by SIGTERM itself or with code 0.
func (p *Process) ended() error {
	state := p.cmd.ProcessState
	status, ok := state.Sys().(syscall.WaitStatus)
	if state.Success() || ok && status.Signaled() && status.Signal() == syscall.SIGTERM {
		return nil
	}
	return fmt.Errorf("stop %s: %w\n%s", p.spec.Name, p.err, p.Tail())
}

// Tail returns the last lines of what the process wrote to its error file.
func (p *Process) Tail() string {
	data, err := os.ReadFile(p.spec.Stderr)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "\n")
}
