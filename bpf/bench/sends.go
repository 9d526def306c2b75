// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/bpf"
	"github.com/layertrace/layertrace/internal/stats"
)

const (
	// sendsOfRound is the number of writes of sendBytes timed with the same programs.
	sendsOfRound = 2048
	sendBytes    = 64
	// sendsAtOnce is the number of writes, timed together, before a read.
	sendsAtOnce = 32
)

// sends is the cost of a write to a TCP socket outside the target cgroups: without
// programs, with empty ones at the tracepoints, and with ours. Times in ns of the
// writing thread; differences are medians within a turn of the three.
type sends struct {
	OffNS   float64 `json:"off_ns"`
	EmptyNS float64 `json:"empty_ns"`
	OnNS    float64 `json:"on_ns"`
	// OursNS is ours over empty, AddedNS ours over none.
	OursNS  float64 `json:"ours_ns"`
	AddedNS float64 `json:"added_ns"`
	Turns   int     `json:"turns"`
}

// loads is the number of times that the programs are loaded: results vary more
// between loads than between turns of the same load.
const loads = 8

// measureSends writes over loopback in turns of the three. The thread stays on one
// CPU from then on.
func measureSends(turns int) (s sends, err error) {
	l, err := openLoopback()
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := pin(); err != nil {
		return s, err
	}
	times := make([][]float64, 3)
	for range loads {
		if err := measureLoad(l, turns/loads, times); err != nil {
			return s, err
		}
	}
	return sends{
		OffNS: stats.Median(times[0]), EmptyNS: stats.Median(times[1]), OnNS: stats.Median(times[2]), Turns: len(times[0]),
		OursNS: medianDifference(times[2], times[1]), AddedNS: medianDifference(times[2], times[0]),
	}, nil
}

// measureLoad loads the programs and adds turns of writes to the times of off,
// empty and on.
func measureLoad(l loopback, turns int, times [][]float64) error {
	ours, err := tracepoints()
	if err != nil {
		return err
	}
	defer closeAll(ours)
	empty, err := emptyOnes(ours)
	if err != nil {
		return err
	}
	defer closeAll(empty)
	states := [][]*ebpf.Program{nil, empty, ours}
	for turn := range turns + 1 {
		for i := range states {
			state := (i + turn) % len(states) // the first one rotates
			ns, err := timeSends(l, states[state])
			if err != nil {
				return err
			}
			if turn > 0 { // the first warms up
				times[state] = append(times[state], ns)
			}
		}
	}
	return nil
}

func closeAll(programs []*ebpf.Program) {
	for _, p := range programs {
		_ = p.Close()
	}
}

// tracepoints loads the programs that run for every socket and packet of the
// machine. The writer is not in their target cgroup, and no interface is watched.
func tracepoints() (programs []*ebpf.Program, err error) {
	for _, load := range []func() (*ebpf.CollectionSpec, error){bpf.LoadSocket, bpf.LoadDriver} {
		spec, err := load()
		if err != nil {
			return nil, err
		}
		delete(spec.Programs, bpf.SocketProgSocketWrote) // for older kernels only
		for name, p := range spec.Programs {
			if p.Type != ebpf.Tracing {
				delete(spec.Programs, name)
			}
		}
		if err := setTarget(spec, otherCgroup); err != nil {
			return nil, err
		}
		collection, err := ebpf.NewCollection(spec)
		if err != nil {
			return nil, fmt.Errorf("load tracepoint programs: %w", err)
		}
		for _, p := range collection.Programs {
			programs = append(programs, p)
		}
	}
	return programs, nil
}

// emptyOnes loads an empty program for the tracepoint of each.
func emptyOnes(programs []*ebpf.Program) (empty []*ebpf.Program, err error) {
	for _, load := range []func() (*ebpf.CollectionSpec, error){bpf.LoadSocket, bpf.LoadDriver} {
		spec, err := load()
		if err != nil {
			return nil, err
		}
		delete(spec.Programs, bpf.SocketProgSocketWrote) // for older kernels only
		for _, p := range spec.Programs {
			if p.Type != ebpf.Tracing {
				continue
			}
			e, err := ebpf.NewProgram(&ebpf.ProgramSpec{
				Type: p.Type, AttachType: p.AttachType, AttachTo: p.AttachTo, License: "Dual BSD/GPL",
				Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
			})
			if err != nil {
				return nil, fmt.Errorf("load an empty program for %s: %w", p.AttachTo, err)
			}
			empty = append(empty, e)
		}
	}
	if len(empty) != len(programs) {
		return nil, fmt.Errorf("%d empty programs for %d", len(empty), len(programs))
	}
	return empty, nil
}

// timeSends returns the thread's CPU time per write in ns, with the programs
// attached. The same thread reads the data, which is not timed.
func timeSends(l loopback, programs []*ebpf.Program) (ns float64, err error) {
	for _, p := range programs {
		attached, err := link.AttachTracing(link.TracingOptions{Program: p})
		if err != nil {
			return 0, fmt.Errorf("attach to a tracepoint: %w", err)
		}
		defer attached.Close()
	}
	var (
		data  = make([]byte, sendBytes)
		room  = make([]byte, sendBytes*sendsAtOnce)
		spent int64
	)
	for range sendsOfRound / sendsAtOnce {
		start, err := threadTime()
		if err != nil {
			return 0, err
		}
		for range sendsAtOnce {
			if _, err := syscall.Write(int(l.writer.Fd()), data); err != nil {
				return 0, fmt.Errorf("write over loopback: %w", err)
			}
		}
		end, err := threadTime()
		if err != nil {
			return 0, err
		}
		spent += end - start
		if _, err := io.ReadFull(l.reader, room); err != nil {
			return 0, fmt.Errorf("read over loopback: %w", err)
		}
	}
	return float64(spent) / sendsOfRound, nil
}

// otherCgroup is an ID that no cgroup has.
const otherCgroup = 1 << 62

// setTarget makes a cgroup the target of the programs in spec, and has them watch
// the network namespace of this process, as an agent's do.
func setTarget(spec *ebpf.CollectionSpec, cgroup uint64) error {
	netns, err := inode("/proc/self/ns/net")
	if err != nil {
		return err
	}
	for name, value := range map[string]any{
		bpf.SocketVarTargetCgroups: bpf.SocketTargetCgroups{Len: 1, Ids: [16]uint64{cgroup}},
		bpf.SocketVarHaveWriteTp:   true,
		bpf.DriverVarWatchedNetns:  uint32(netns),
	} {
		if v := spec.Variables[name]; v != nil {
			if err := v.Set(value); err != nil {
				return fmt.Errorf("set %s: %w", name, err)
			}
		}
	}
	return nil
}

func inode(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}
