// SPDX-License-Identifier: Apache-2.0

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

// Spec describes a process to start.
type Spec struct {
	// Name is used in messages.
	Name string
	// Path and Args (without the program's name) are the command.
	Path string
	Args []string
	// Namespace and Cgroup are where the process runs.
	Namespace *Namespace
	Cgroup    *Group
	// Memory is a limit of Cgroup; nil: none.
	Memory *MemoryLimit
	// UID and GID are the process's user and group; 0 is root. Another user keeps
	// CAP_DAC_OVERRIDE: programs and outputs may be in directories of root.
	UID, GID uint32
	// ClockOffset shifts its monotonic clock against the machine's, by a time
	// namespace.
	ClockOffset time.Duration
	// Env is added to this process's environment, as NAME=VALUE.
	Env []string
	// Stdout and Stderr are files. An empty Stdout goes to the file of Stderr.
	Stdout, Stderr string
}

// Process is a started program.
type Process struct {
	spec Spec
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Start starts the program. It does not wait for it.
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
		// A process group of its own: Ctrl-C on the terminal reaches only this
		// process, which then ends the others in order.
		Setpgid:     true,
		UseCgroupFD: true,
		CgroupFD:    int(group.Fd()),
		Credential:  &syscall.Credential{Gid: spec.GID, NoSetGroups: true},
	}
	run := spec.Namespace.Do
	start := cmd.Start
	if spec.ClockOffset != 0 {
		run, start = spec.Namespace.DoOnce, shifted(spec.ClockOffset, start)
	}
	if spec.Memory != nil {
		start = spec.Memory.within(start)
	}
	if spec.UID != 0 {
		program, err := asUser(cmd, spec.UID)
		if err != nil {
			return fail(err)
		}
		defer program.Close()
	}
	if err := run(start); err != nil {
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

// Running returns nil while the process runs, then an error with how it ended and
// the last lines it wrote.
func (p *Process) Running() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended early: %v\n%s", p.spec.Name, p.cmd.ProcessState, p.Tail())
	default:
		return nil
	}
}

// Wait waits until the process ends by itself; a code other than 0 is an error.
// When ctx ends first, Wait kills the process.
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

// Stop asks the process to end (SIGTERM) and waits for it. One that still runs
// after limit is killed, which is an error.
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

// Kill kills the process (SIGKILL) and waits for its end.
func (p *Process) Kill() error {
	err := p.cmd.Process.Kill()
	<-p.done
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.spec.Name, err)
	}
	return nil
}

// ended returns nil after an orderly end: by the SIGTERM, or with code 0.
func (p *Process) ended() error {
	state := p.cmd.ProcessState
	status, ok := state.Sys().(syscall.WaitStatus)
	if state.Success() || ok && status.Signaled() && status.Signal() == syscall.SIGTERM {
		return nil
	}
	return fmt.Errorf("stop %s: %w\n%s", p.spec.Name, p.err, p.Tail())
}

// Used returns the CPU time and the highest resident memory, in bytes, of a process that has
// ended.
func (p *Process) Used() (cpu time.Duration, peak uint64, err error) {
	select {
	case <-p.done:
	default:
		return 0, 0, fmt.Errorf("read what %s used: it still runs", p.spec.Name)
	}
	usage, ok := p.cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0, 0, fmt.Errorf("read what %s used: the system does not report it", p.spec.Name)
	}
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime(), uint64(usage.Maxrss) << 10, nil
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

// AwaitReady is Await for a process to become ready. It fails at once when the
// process ends. The error has the last lines that the process wrote.
func AwaitReady(ctx context.Context, p *Process, limit, interval time.Duration, ready func(context.Context) error) error {
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	var ended error
	err := Await(ctx, p.Name(), limit, interval, func(ctx context.Context) error {
		if ended = p.Running(); ended != nil {
			giveUp()
			return ended
		}
		return ready(ctx)
	})
	switch {
	case ended != nil:
		return ended
	case err != nil:
		return fmt.Errorf("%w\n%s", err, p.Tail())
	}
	return nil
}

// Await calls ready every interval until it returns nil. When ctx ends or limit
// passes first, the error has what was waited for and the last error of ready: of the
// call before, if the end interrupted a call.
func Await(ctx context.Context, what string, limit, interval time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var last error
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		if ctx.Err() != nil { // also when both were ready
			return fmt.Errorf("wait for %s (at most %v): %w: %w", what, limit, ctx.Err(), last)
		}
	}
}

// asUser makes cmd run as another user with root's access to files. It opens the
// program, as that user cannot yet; close the file after the start.
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

// shifted returns fn with the children of the calling thread in a time namespace
// whose monotonic clock is shifted. The thread cannot leave it.
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

// clockOffset returns a line of timens_offsets. The nanoseconds count upwards even
// from negative seconds.
func clockOffset(offset time.Duration) string {
	seconds, rest := offset/time.Second, offset%time.Second
	if rest < 0 {
		seconds, rest = seconds-1, rest+time.Second
	}
	return fmt.Sprintf("monotonic %d %d\n", seconds, rest)
}

// Memory is the memory of a process, in bytes.
type Memory struct {
	// Resident is VmRSS of proc_pid_status(5), Peak its highest value (VmHWM). Anonymous
	// is the part of Resident that no file backs (RssAnon): what the process has written.
	Resident, Peak, Anonymous uint64
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
		return Memory{}, fmt.Errorf("read memory of process %d: no VmRSS or VmHWM: it has ended", pid)
	}
	return Memory{Resident: values["VmRSS"], Peak: values["VmHWM"], Anonymous: values["RssAnon"]}, nil
}

// ReadBPFMemory returns the memory of the BPF maps and programs that a process has open,
// in bytes, as the kernel counts it (memlock in proc_pid_fdinfo(5)), each once.
func ReadBPFMemory(pid int) (total uint64, err error) {
	dir := fmt.Sprintf("/proc/%d/fdinfo", pid)
	files, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("read BPF memory: %w", err)
	}
	seen := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(dir, file.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // closed meanwhile
		}
		if err != nil {
			return 0, fmt.Errorf("read BPF memory: %w", err)
		}
		var memlock uint64
		id := ""
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			value = strings.TrimSpace(value)
			switch name {
			case "map_id", "prog_id":
				id = name + value
			case "memlock":
				if memlock, err = strconv.ParseUint(value, 10, 64); err != nil {
					return 0, fmt.Errorf("read BPF memory of process %d: %w", pid, err)
				}
			}
		}
		if id != "" && !seen[id] {
			seen[id] = true
			total += memlock
		}
	}
	return total, nil
}
