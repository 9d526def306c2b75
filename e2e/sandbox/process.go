// SPDX-License-Identifier: Apache-2.0

// Package process starts the lab's programs, each in a network namespace and a
// cgroup, and ends them.
//
// Package await waits for conditions by asking again and again.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Spec says what to start and where.
type Spec struct {
	// Name is used in messages.
	Name string
	// Path and Args (without the program's own name) are the command.
	Path string
	Args []string
	// Space and Cgroup are where the process lives.
	Namespace *Namespace
	Cgroup    *Group
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
	run := spec.Namespace.Do
	if spec.ClockOffset != 0 {
		run = func(fn func() error) error { return spec.Namespace.DoOnce(shifted(spec.ClockOffset, fn)) }
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

// asUser makes cmd run as another user who may do with files what root may. The
// program is opened here, since that user could not before it runs; close the
// file when it does.
func asUser(cmd *exec.Cmd, uid uint32) (*os.File, error) {
	program, err := os.Open(cmd.Path)
	if err != nil {
		return nil, err
	}
	cmd.ExtraFiles = []*os.File{program}
	cmd.Path = "/proc/self/fd/3"
	cmd.Dir = "/"
	cmd.SysProcAttr.Credential.Uid = uid
	cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_DAC_OVERRIDE}
	return program, nil
}

// shifted returns fn with the calling thread's children in a time namespace
// whose monotonic clock is off. The thread cannot leave it again.
func shifted(offset time.Duration, fn func() error) func() error {
	return func() error {
		if err := unix.Unshare(unix.CLONE_NEWTIME); err != nil {
			return fmt.Errorf("make a time namespace (needs CONFIG_TIME_NS): %w", err)
		}
		path := fmt.Sprintf("/proc/%d/timens_offsets", unix.Gettid())
		if err := os.WriteFile(path, []byte(clockOffset(offset)), 0); err != nil {
			return fmt.Errorf("shift the clock: %w", err)
		}
		return fn()
	}
}

// clockOffset is a line of timens_offsets: the nanoseconds count upwards, also
// from negative seconds.
func clockOffset(offset time.Duration) string {
	seconds, rest := offset/time.Second, offset%time.Second
	if rest < 0 {
		seconds, rest = seconds-1, rest+time.Second
	}
	return fmt.Sprintf("monotonic %d %d\n", seconds, rest)
}

// Memory is what a process occupies, in bytes.
type Memory struct {
	// Resident is VmRSS of proc_pid_status(5), Peak its highest value (VmHWM).
	Resident, Peak uint64
}

// ReadMemory reads the memory of a process from /proc/PID/status.
func ReadMemory(pid int) (Memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Memory{}, fmt.Errorf("read memory: %w", err)
	}
	values := map[string]uint64{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		kib, found := strings.CutSuffix(strings.TrimSpace(value), " kB")
		if !found {
			continue
		}
		n, err := strconv.ParseUint(kib, 10, 64)
		if err != nil {
			return Memory{}, fmt.Errorf("read memory of process %d: %s: %w", pid, name, err)
		}
		values[name] = n << 10
	}
	if values["VmRSS"] == 0 || values["VmHWM"] == 0 {
		return Memory{}, fmt.Errorf("read memory of process %d: no VmRSS or VmHWM, it has ended", pid)
	}
	return Memory{Resident: values["VmRSS"], Peak: values["VmHWM"]}, nil
}

// Until calls ready every interval until it returns nil. When ctx is done or
// limit has passed first, the error names what was waited for and ready's last
// answer.
func Await(ctx context.Context, what string, limit, interval time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s (at most %v): %w: %w", what, limit, ctx.Err(), err)
		case <-tick.C:
		}
	}
}
