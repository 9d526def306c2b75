// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/agent/internal/probe"
)

// Names that conclude refers to.
const (
	namePrivileges   = "privileges"
	nameTCX          = "tcx"
	nameClsact       = "clsact"
	nameSocketFilter = "socket-filter"
)

const (
	useCapture = "capture"
	useOptions = "--tcp-option"
	useLayers  = "--spans=layers"
)

// allFeatures returns all checks in the order of the report. Kprobes are not used:
// the agent also works on locked-down kernels, and this check identifies those.
func allFeatures() []feature {
	return []feature{
		{namePrivileges, true, "loading and attaching anything", "", privileges},
		{"btf", true, "reading kernel types", "", btfPresent},
		{"ring-buffer", true, useCapture + ": exchanges from kernel to agent", "5.8", only(haveMap(ebpf.RingBuf))},
		{"lru-hash", true, useCapture + ": request heads in several segments", "4.10", only(haveMap(ebpf.LRUHash))},
		{"lpm-trie", true, useCapture + ": trusted prefixes", "4.11", only(haveMap(ebpf.LPMTrie))},
		{"per-cpu-array", true, useCapture + ": counters", "4.6", only(haveMap(ebpf.PerCPUArray))},
		{"bounded-loops", true, useCapture + ": reading header lines", "5.3", only(features.HaveBoundedLoops)},
		{"atomic-cmpxchg", true, useCapture + ": reporting each exchange once", "5.12 (BPF CPU v3 atomics)", only(cmpxchg)},
		{"map-walk", true, useCapture + ": reporting idle exchanges", "5.14", only(mapWalk)},
		{nameTCX, false, "--mode tcx, the cheapest hook", "6.6", only(tryTCX)},
		{nameClsact, false, "--mode clsact, the hook of older kernels", "4.5", only(tryClsact)},
		{nameSocketFilter, false, "--mode socket-filter, the fallback hook", "3.19", only(trySocketFilter)},
		{"capture-programs", true, useCapture + ": all of the above together", "", only(tryCapture)},
		{"cgroup2", false, useLayers + " and " + useOptions + ": selecting sockets", "", cgroup2},
		{"sockops", false, useOptions + ": hook", "4.13", only(trySockops)},
		{"header-options", false, useOptions + ": writing and reading", "5.10", only(headerOptions)},
		{"sk-storage", false, useLayers + " and " + useOptions + ": state of a socket", "5.2", only(haveMap(ebpf.SkStorage))},
		{"cgroup-skb", false, useLayers + ": sockets; without it, protocol stack and application are one layer", "4.10", only(tryCgroupSKB)},
		{"tp-tcp-write", false, useLayers + ": write times (tcp_sendmsg_locked or sock_send_length, and cgroup_mkdir); without it, a sender's queue counts as application", "6.3", only(tryWrites)},
		{"tp-tcp-read", false, useLayers + ": read times (tcp_rcv_space_adjust); without it, a receiver's queue counts as application", "5.5", only(tryTracepoint("tcp_rcv_space_adjust", 1))},
		{"tp-driver", false, useLayers + ": transmit times (qdisc_dequeue); without it, the node driver counts as relay network", "5.5", only(tryTracepoint("qdisc_dequeue", 4))},
		{"tp-drop", false, useLayers + ": dropped packets, with the reason (kfree_skb)", "5.17", only(tryTracepoint("kfree_skb", 3))},
		{"layer-programs", false, useLayers + ": all programs with a hook in this kernel", "", only(tryLayers)},
		{"kprobe", false, "", "", only(tryKprobe)},
		{"memlock", false, "maps on kernels before 5.11; later ones do not need it", "", memlock},
	}
}

// only adapts a try without detail.
func only(try func() error) func() (string, error) {
	return func() (string, error) { return "", try() }
}

func haveMap(t ebpf.MapType) func() error {
	return func() error { return features.HaveMapType(t) }
}

// mapWalk tries to walk a map in a program that user space runs.
func mapWalk() error { return features.HaveProgramHelper(ebpf.Syscall, asm.FnForEachMapElem) }

// headerOptions tries the helpers that reserve, write and read TCP options.
func headerOptions() error {
	for _, helper := range []asm.BuiltinFunc{asm.FnReserveHdrOpt, asm.FnStoreHdrOpt, asm.FnLoadHdrOpt} {
		if err := features.HaveProgramHelper(ebpf.SockOps, helper); err != nil {
			return err
		}
	}
	return nil
}

// load loads a program that only returns value.
func load(t ebpf.ProgramType, attach ebpf.AttachType, to string, value int32) (*ebpf.Program, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "doctor", Type: t, AttachType: attach, AttachTo: to, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, value), asm.Return()},
	})
	if err != nil {
		return nil, fmt.Errorf("load a %s program: %w", t, err)
	}
	return p, nil
}

// cmpxchg loads a program that compares and exchanges 8 bytes of its stack.
func cmpxchg() error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "doctor", Type: ebpf.SocketFilter, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R0, 0),
			asm.Mov.Imm(asm.R1, 0),
			asm.StoreMem(asm.R10, -8, asm.R1, asm.DWord),
			asm.CmpXchg.Mem(asm.R10, asm.R1, asm.DWord, -8),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		},
	})
	if err != nil {
		return fmt.Errorf("load a program with an atomic compare-and-exchange: %w", err)
	}
	return p.Close()
}

// loopback is the index of lo in every network namespace.
const loopback = 1

// verdictNext is TCX_NEXT and TC_ACT_UNSPEC: pass the packet on.
const verdictNext = -1

// inNamespace calls try in a new network namespace, which ends with its thread:
// the goroutine never unlocks it. Without CAP_SYS_ADMIN, a try that changes
// nothing (harmless) runs in the present namespace.
func inNamespace(harmless bool, try func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil && !harmless {
			result <- fmt.Errorf("%w: make a network namespace: %w", errUnknown, err)
			return
		}
		result <- try()
	}()
	return <-result
}

func tryTCX() error {
	return inNamespace(true, func() error {
		for _, attach := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			p, err := load(ebpf.SchedCLS, attach, "", verdictNext)
			if err != nil {
				return err
			}
			l, err := link.AttachTCX(link.TCXOptions{Interface: loopback, Program: p, Attach: attach})
			if err != nil {
				return errors.Join(fmt.Errorf("attach to %s: %w", attach, err), p.Close())
			}
			if err := errors.Join(l.Close(), p.Close()); err != nil {
				return err
			}
		}
		return nil
	})
}

func tryClsact() error {
	return inNamespace(false, func() error {
		qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: loopback, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		}}
		if err := netlink.QdiscAdd(qdisc); err != nil {
			return fmt.Errorf("add a clsact qdisc: %w", err)
		}
		p, err := load(ebpf.SchedCLS, ebpf.AttachNone, "", verdictNext)
		if err != nil {
			return err
		}
		defer p.Close()
		filter := &netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: loopback, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL,
			},
			Fd: p.FD(), Name: "doctor", DirectAction: true,
		}
		if err := netlink.FilterAdd(filter); err != nil {
			return fmt.Errorf("add a BPF filter: %w; the kernel needs CONFIG_NET_CLS_BPF", err)
		}
		return nil
	})
}

func trySocketFilter() error {
	return inNamespace(true, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open a packet socket: %w", err)
		}
		defer unix.Close(fd)
		p, err := load(ebpf.SocketFilter, ebpf.AttachNone, "", 0)
		if err != nil {
			return err
		}
		defer p.Close()
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, p.FD()); err != nil {
			return fmt.Errorf("attach to a packet socket: %w", err)
		}
		return nil
	})
}

// cgroup2 returns the mount point of the cgroup2 hierarchy, which is "unified"
// on hosts that still use version 1.
func cgroup2() (string, error) {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir, nil
		}
	}
	return "", errors.New("not mounted at /sys/fs/cgroup or /sys/fs/cgroup/unified: mount -t cgroup2 none DIR, and mount it into a container")
}

func trySockops() error { return tryCgroup(ebpf.SockOps, ebpf.AttachCGroupSockOps) }

func tryCgroupSKB() error {
	for _, attach := range []ebpf.AttachType{ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInetIngress} {
		if err := tryCgroup(ebpf.CGroupSKB, attach); err != nil {
			return err
		}
	}
	return nil
}

// tryCgroup attaches to a new cgroup.
func tryCgroup(kind ebpf.ProgramType, attach ebpf.AttachType) error {
	return inCgroup(func(dir string) error {
		p, err := load(kind, attach, "", 1)
		if err != nil {
			return err
		}
		defer p.Close()
		l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: attach, Program: p})
		if err != nil {
			return fmt.Errorf("attach to a cgroup: %w", err)
		}
		return l.Close()
	})
}

// inCgroup calls try with the directory of a new cgroup, and removes it.
func inCgroup(try func(dir string) error) (err error) {
	root, err := cgroup2()
	if err != nil {
		return fmt.Errorf("%w: no cgroup2", errUnknown)
	}
	dir, err := os.MkdirTemp(root, fmt.Sprintf("layertrace-doctor-%d-", os.Getpid()))
	if err != nil {
		return fmt.Errorf("%w: make a cgroup: %w", errUnknown, err)
	}
	defer func() {
		// RemoveAll would first try to remove the kernel's files in it.
		if e := unix.Rmdir(dir); e != nil && err == nil {
			err = fmt.Errorf("remove the cgroup %s: %w; remove it with rmdir", filepath.Base(dir), e)
		}
	}()
	return try(dir)
}

// tryWrites tries the tracepoints for write times; cgroup_mkdir reports new
// cgroups below the watched ones.
func tryWrites() error {
	name, err := probe.HaveWrites()
	if err != nil {
		return err
	}
	if err := tryTracepoint(name, 2)(); err != nil {
		return err
	}
	return tryTracepoint("cgroup_mkdir", 1)()
}

// tryTracepoint attaches to a BTF-typed tracepoint.
func tryTracepoint(name string, arguments int) func() error {
	return func() error {
		if err := probe.HaveTracepoint(name, arguments); err != nil {
			return err
		}
		p, err := load(ebpf.Tracing, ebpf.AttachTraceRawTp, name, 0)
		if err != nil {
			return err
		}
		defer p.Close()
		l, err := link.AttachTracing(link.TracingOptions{Program: p})
		if err != nil {
			return fmt.Errorf("attach to %s: %w", name, err)
		}
		return l.Close()
	}
}

func tryKprobe() error {
	p, err := load(ebpf.Kprobe, ebpf.AttachNone, "", 0)
	if err != nil {
		return withLockdown(err)
	}
	defer p.Close()
	l, err := link.Kprobe("tcp_sendmsg", p, nil)
	if err != nil {
		return withLockdown(fmt.Errorf("attach to tcp_sendmsg: %w", err))
	}
	return l.Close()
}

func withLockdown(err error) error {
	if errors.Is(err, ebpf.ErrNotSupported) {
		return err
	}
	return fmt.Errorf("not used by layertrace; a locked-down kernel (Secure Boot) has no kprobes: %w", err)
}

// tryCapture loads the agent's own programs and attaches them to an interface:
// the verifier may reject them although each feature works. One working mode is
// enough.
func tryCapture() error {
	automatic := tryMode(probe.ModeAuto)
	if automatic == nil {
		return nil
	}
	if err := tryMode(probe.ModeSocketFilter); err != nil {
		return errors.Join(automatic, err)
	}
	return nil
}

func tryMode(mode probe.Mode) error { return tryProbe(probe.Options{Mode: mode}) }

// tryLayers also loads the programs of --spans=layers.
func tryLayers() error {
	return inCgroup(func(dir string) error {
		return tryProbe(probe.Options{SocketCgroups: []string{dir}, Drivers: true})
	})
}

func tryProbe(o probe.Options) error {
	o.MaxConnections, o.RingBytes, o.Log = 16, os.Getpagesize(), slog.New(slog.DiscardHandler)
	return inNamespace(true, func() error {
		p, err := probe.Open(o)
		if err != nil {
			return err
		}
		return errors.Join(p.Attach(loopback), p.Close())
	})
}
