// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/bpf"
)

const (
	// sendsOfRound is how many writes of sendBytes are timed with the same programs.
	sendsOfRound = 2048
	sendBytes    = 64
	// sendsAtOnce is how many are written, and timed, before they are read.
	sendsAtOnce = 32
)

// sends is what a write to a TCP socket outside of the chosen cgroups costs: with
// nothing attached, with empty programs at the tracepoints, and with ours. Times
// in ns of the writing thread; differences are medians within a turn of the three.
type sends struct {
	OffNS   float64 `json:"off_ns"`
	EmptyNS float64 `json:"empty_ns"`
	OnNS    float64 `json:"on_ns"`
	// OursNS is ours over empty, AddedNS ours over nothing.
	OursNS  float64 `json:"ours_ns"`
	AddedNS float64 `json:"added_ns"`
	Turns   int     `json:"turns"`
}

// loads is how often the programs are loaded anew: results of a single load
// differ by more than turns of the same one.
const loads = 8

// measureSends writes over loopback, in turns of the three. The calling thread
// stays on one CPU from then on.
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
		OffNS: median(times[0]), EmptyNS: median(times[1]), OnNS: median(times[2]), Turns: len(times[0]),
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
			state := (i + turn) % len(states) // which comes first goes round
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
// machine. A cgroup is chosen, but not that of the writer, and no interface is
// watched.
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
		if err := chooseOther(spec); err != nil {
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

// emptyOnes loads a program that does nothing for the tracepoint of each.
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

// loopback is a connection whose both ends are this process's.
type loopback struct{ writer, reader *os.File }

func openLoopback() (l loopback, err error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return l, err
	}
	defer listener.Close()
	client, err := net.Dial("tcp4", listener.Addr().String())
	if err != nil {
		return l, err
	}
	defer client.Close()
	server, err := listener.Accept()
	if err != nil {
		return l, err
	}
	defer server.Close()
	if l.writer, err = blocking(client); err != nil {
		return l, err
	}
	l.reader, err = blocking(server)
	return l, err
}

// blocking returns the connection's socket without Go's poller.
func blocking(c net.Conn) (*os.File, error) {
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		return nil, err
	}
	return f, syscall.SetNonblock(int(f.Fd()), false)
}

// Close ends both ends.
func (l loopback) Close() error {
	return errors.Join(l.writer.Close(), l.reader.Close())
}

// pin keeps the calling goroutine on one thread and that on one CPU, until its
// end: a reader elsewhere, or another CPU's caches, would be timed instead.
func pin() error {
	runtime.LockOSThread()
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		return fmt.Errorf("read the CPUs of this thread: %w", err)
	}
	for cpu := range len(cpus) * 64 {
		if cpus.IsSet(cpu) {
			cpus.Zero()
			cpus.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &cpus); err != nil {
		return fmt.Errorf("stay on one CPU: %w", err)
	}
	return nil
}

// timeSends returns the thread's CPU time per write in ns, with the programs
// attached. What was written is read by the same thread, which is not timed.
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

func threadTime() (int64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0, fmt.Errorf("read the thread's CPU time: %w", err)
	}
	return ts.Nano(), nil
}
