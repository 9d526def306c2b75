// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/bpf"
)

const (
	// messagesOfRound is how many messages are timed with the same program.
	messagesOfRound = 1000
	messageBytes    = 700
	hookTurns       = 60
)

// hookPrice is what an empty program at one hook adds to a message over loopback,
// from its write to its read: the least that capture there can cost. Most of it
// is what the kernel does to run a program, which varies with its mitigations
// (retpolines, return thunks).
type hookPrice struct {
	Hook string `json:"hook"`
	// AddedNS is the median over turns of with and without, in ns of the thread
	// that writes and reads.
	AddedNS float64 `json:"added_ns"`
}

// hook is a program and where it belongs.
type hook struct {
	name, ours string // of the hook, and of the agent's program there
	program    *ebpf.Program
	attach     func(*ebpf.Program) (link.Link, error)
	added      []float64
}

// measureHooks returns the price of each hook that an agent with --spans=layers
// uses. Like measureSends it stays on one CPU.
func measureHooks() (prices []hookPrice, err error) {
	group, err := makeCgroup()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.Remove(group)) }()
	l, err := openLoopbackIn(group)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := pin(); err != nil {
		return nil, err
	}
	hooks, err := emptyHooks(group)
	if err != nil {
		return nil, err
	}
	for turn := range hookTurns + 1 {
		for i := range hooks {
			if err := hooks[i].turn(l, turn > 0); err != nil { // the first warms up
				return nil, err
			}
		}
	}
	closeHooks(hooks)
	for _, h := range hooks {
		prices = append(prices, hookPrice{h.name, median(h.added)})
	}
	return prices, nil
}

// turn times messages without, with and without the program.
func (h *hook) turn(l loopback, counts bool) error {
	before, err := timeMessages(l)
	if err != nil {
		return err
	}
	attached, err := h.attach(h.program)
	if err != nil {
		return fmt.Errorf("attach an empty program to %s: %w", h.name, err)
	}
	with, err := timeMessages(l)
	if err := errors.Join(err, attached.Close()); err != nil {
		return err
	}
	after, err := timeMessages(l)
	if err != nil {
		return err
	}
	if counts {
		h.added = append(h.added, with-(before+after)/2)
	}
	return nil
}

// emptyHooks loads a program for each hook: the tracepoints of our programs, the
// cgroup's hooks for packets, and those of the loopback interface.
func emptyHooks(group string) (hooks []hook, err error) {
	loopback, err := net.InterfaceByName("lo")
	if err != nil {
		return nil, fmt.Errorf("find the loopback interface: %w", err)
	}
	add := func(name, ours string, spec *ebpf.ProgramSpec, result int32, attach func(*ebpf.Program) (link.Link, error)) error {
		spec.License, spec.Instructions = "Dual BSD/GPL", asm.Instructions{asm.Mov.Imm(asm.R0, result), asm.Return()}
		p, err := ebpf.NewProgram(spec)
		if err != nil {
			return fmt.Errorf("load an empty program for %s: %w", name, err)
		}
		hooks = append(hooks, hook{name: name, ours: ours, program: p, attach: attach})
		return nil
	}
	socket, err := bpf.LoadSocket()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{bpf.SocketProgSocketWrite, bpf.SocketProgSocketRead} {
		tracepoint := socket.Programs[name].AttachTo
		spec := &ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: tracepoint}
		err = errors.Join(err, add("tp_btf/"+tracepoint, name, spec, 0, func(p *ebpf.Program) (link.Link, error) {
			return link.AttachTracing(link.TracingOptions{Program: p})
		}))
	}
	for _, at := range []struct {
		name   string
		attach ebpf.AttachType
	}{{"cgroup_skb/egress", ebpf.AttachCGroupInetEgress}, {"cgroup_skb/ingress", ebpf.AttachCGroupInetIngress}} {
		spec := &ebpf.ProgramSpec{Type: ebpf.CGroupSKB, AttachType: at.attach}
		err = errors.Join(err, add(at.name, bpf.SocketProgSocketPacket, spec, 1, func(p *ebpf.Program) (link.Link, error) {
			return link.AttachCgroup(link.CgroupOptions{Path: group, Attach: at.attach, Program: p})
		}))
	}
	for _, at := range []struct {
		name, ours string
		attach     ebpf.AttachType
	}{
		{"tcx/egress", bpf.CaptureProgCaptureOut, ebpf.AttachTCXEgress},
		{"tcx/ingress", bpf.CaptureProgCaptureIn, ebpf.AttachTCXIngress},
	} {
		spec := &ebpf.ProgramSpec{Type: ebpf.SchedCLS, AttachType: at.attach}
		err = errors.Join(err, add(at.name, at.ours, spec, -1, func(p *ebpf.Program) (link.Link, error) {
			return link.AttachTCX(link.TCXOptions{Interface: loopback.Index, Attach: at.attach, Program: p})
		}))
	}
	return hooks, err
}

// timeMessages returns the thread's CPU time in ns from the write of a message to
// its read. Messages go to and fro: each acknowledges the one before, so that a
// hook is passed once for each.
func timeMessages(l loopback) (ns float64, err error) {
	data, room := make([]byte, messageBytes), make([]byte, messageBytes)
	start, err := threadTime()
	if err != nil {
		return 0, err
	}
	from, to := l.writer, l.reader
	for range messagesOfRound {
		if _, err := syscall.Write(int(from.Fd()), data); err != nil {
			return 0, fmt.Errorf("write over loopback: %w", err)
		}
		if _, err := io.ReadFull(to, room); err != nil {
			return 0, fmt.Errorf("read over loopback: %w", err)
		}
		from, to = to, from
	}
	end, err := threadTime()
	return float64(end-start) / messagesOfRound, err
}

// makeCgroup makes a cgroup beside all others, for sockets of this process.
func makeCgroup() (string, error) {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var fs unix.Statfs_t
		if err := unix.Statfs(root, &fs); err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		dir, err := os.MkdirTemp(root, "layertrace-bench-")
		if err != nil {
			return "", fmt.Errorf("make a cgroup: %w", err)
		}
		return dir, nil
	}
	return "", errors.New("measure the hooks of a cgroup: cgroup2 is not mounted at /sys/fs/cgroup or /sys/fs/cgroup/unified")
}

// openLoopbackIn opens a connection whose sockets belong to the cgroup. The
// process is in it only meanwhile.
func openLoopbackIn(group string) (l loopback, err error) {
	own, err := ownCgroup(filepath.Dir(group))
	if err != nil {
		return l, err
	}
	if err := enter(group); err != nil {
		return l, err
	}
	l, err = openLoopback()
	return l, errors.Join(err, enter(own))
}

// ownCgroup is the directory of this process's cgroup below root.
func ownCgroup(root string) (string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("read the own cgroup: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if path, found := strings.CutPrefix(strings.TrimSpace(line), "0::"); found {
			return filepath.Join(root, path), nil
		}
	}
	return "", errors.New("read the own cgroup: /proc/self/cgroup has no line of cgroup2")
}

// enter moves this process into a cgroup.
func enter(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("enter the cgroup %s: %w", dir, err)
	}
	return nil
}
