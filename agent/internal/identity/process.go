// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"
)

const (
	// processNameTime is how long the name of a process is kept without looking
	// again: a program can replace itself, and a container can be renamed.
	processNameTime = time.Minute
	// maxProcesses bounds the names that are kept, some 200 bytes each.
	maxProcesses = 8192
	// maxName bounds the length of a name.
	maxName = 128
	// maxComm is the length to which the kernel cuts the name of a process
	// (TASK_COMM_LEN of include/linux/sched.h, without its end).
	maxComm = 15
)

// Process is what a socket shows of the process that uses it.
type Process struct {
	// Cgroup is the ID of its cgroup, 0 if unknown.
	Cgroup uint64
	// PID and Name, as in /proc/PID/comm, are 0 and "" if unknown.
	PID  uint32
	Name string
}

// Processes names processes on a machine without a cluster: by their container, else
// their systemd service, else their program. It must not be used concurrently.
type Processes struct {
	opts    ProcessOptions
	cgroups *cgroupPaths
	names   map[Process]processName
}

type processName struct {
	name string
	at   time.Time
}

// ProcessOptions are where Processes looks. Their zero value means this machine.
type ProcessOptions struct {
	// Root has the files of container runtimes, Proc is the mount of procfs, Cgroup
	// that of cgroup2.
	Root, Proc, Cgroup string
	// Now is the clock.
	Now func() time.Time
}

// NewProcesses returns a Processes.
func NewProcesses(opts ProcessOptions) *Processes {
	if opts.Root == "" {
		opts.Root = "/"
	}
	if opts.Proc == "" {
		opts.Proc = "/proc"
	}
	if opts.Cgroup == "" {
		opts.Cgroup = findCgroupMount(cgroupMounts)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Processes{opts: opts, cgroups: newCgroupPaths(opts.Cgroup, opts.Now), names: map[Process]processName{}}
}

// Service returns the name of the container, service or program that a process belongs
// to, "" if nothing is known of it.
func (p *Processes) Service(x Process) string {
	if x == (Process{}) {
		return ""
	}
	now := p.opts.Now()
	known, ok := p.names[x]
	if ok && now.Sub(known.at) < processNameTime {
		return known.name
	}
	name := clean(p.find(x))
	if ok && !p.isAlive(x) { // what was found while it lived is better
		name = known.name
	}
	if len(p.names) >= maxProcesses {
		clear(p.names) // the next sockets fill it again
	}
	p.names[x] = processName{name, now}
	return name
}

func (p *Processes) find(x Process) string {
	path := p.cgroups.path(x.Cgroup)
	if name := p.container(path); name != "" {
		return name
	}
	alive := p.isAlive(x)
	if alive {
		// The cgroups of containers can be of version 1 only.
		for _, line := range p.read(x, "cgroup", "\n") {
			_, other, _ := strings.Cut(line, "::")
			if name := p.container(line); name != "" {
				return name
			}
			if path == "" {
				path = other
			}
		}
	}
	if unit := unitOf(path); unit != "" {
		return unit
	}
	if alive {
		return p.program(x)
	}
	return x.Name
}

// container returns the name of the container that a cgroup belongs to, or "".
func (p *Processes) container(path string) string {
	id, name := containerOf(path)
	if id != "" {
		return containerName(p.opts.Root, id)
	}
	return name
}

// program returns the name of a process: the script for an interpreter, else the
// program's as the kernel has it, in full.
func (p *Processes) program(x Process) string {
	file, err := os.Readlink(p.file(x, "exe"))
	if err != nil {
		return x.Name
	}
	program := filepath.Base(strings.TrimSuffix(file, " (deleted)"))
	if isInterpreter(program) {
		if script := scriptOf(p.read(x, "cmdline", "\x00")); script != "" {
			return script
		}
	}
	if len(x.Name) == maxComm && strings.HasPrefix(program, x.Name) {
		return program
	}
	return x.Name
}

// isAlive reports whether the process still exists: the same PID with the same name.
func (p *Processes) isAlive(x Process) bool {
	if x.PID == 0 {
		return false
	}
	comm, err := os.ReadFile(p.file(x, "comm"))
	return err == nil && strings.TrimSuffix(string(comm), "\n") == x.Name
}

// read returns the parts of a file of the process, none if it cannot be read.
func (p *Processes) read(x Process, name, separator string) []string {
	text, err := os.ReadFile(p.file(x, name))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(text), separator), separator)
}

func (p *Processes) file(x Process, name string) string {
	return filepath.Join(p.opts.Proc, strconv.FormatUint(uint64(x.PID), 10), name)
}

// clean replaces what does not belong in a name: a process chooses its own.
func clean(name string) string {
	name = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsGraphic(r) {
			return '_'
		}
		return r
	}, strings.TrimSpace(name))
	if len(name) > maxName {
		name = strings.ToValidUTF8(name[:maxName], "")
	}
	return name
}
