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

// sendsOfRound is how many writes are timed at once, of 64 bytes each.
const sendsOfRound = 2500

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

// measureSends writes over loopback, in turns of the three.
func measureSends(turns int) (s sends, err error) {
	ours, err := tracepoints()
	if err != nil {
		return s, err
	}
	empty, err := emptyOnes(ours)
	if err != nil {
		return s, err
	}
	conn, done, err := loopback()
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, conn.Close(), <-done) }()
	runtime.LockOSThread() // its CPU time is read
	defer runtime.UnlockOSThread()
	states := [][]*ebpf.Program{nil, empty, ours}
	times := make([][]float64, len(states))
	for turn := range turns + 1 {
		for i := range states {
			state := (i + turn) % len(states) // which comes first goes round
			ns, err := timeSends(int(conn.Fd()), states[state])
			if err != nil {
				return s, err
			}
			if turn > 0 { // the first warms up
				times[state] = append(times[state], ns)
			}
		}
	}
	difference := func(a, b []float64) float64 {
		d := make([]float64, len(a))
		for i := range a {
			d[i] = a[i] - b[i]
		}
		return median(d)
	}
	return sends{
		OffNS: median(times[0]), EmptyNS: median(times[1]), OnNS: median(times[2]), Turns: turns,
		OursNS: difference(times[2], times[1]), AddedNS: difference(times[2], times[0]),
	}, nil
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

// loopback returns a connected socket whose bytes are read and thrown away.
func loopback() (writer *os.File, done chan error, err error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer listener.Close()
	done = make(chan error, 1)
	conn, err := net.Dial("tcp4", listener.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	reader, err := listener.Accept()
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	go func() {
		_, err := io.Copy(io.Discard, reader)
		done <- errors.Join(err, reader.Close())
	}()
	writer, err = conn.(*net.TCPConn).File() // blocking, without Go's poller
	if err == nil {
		err = syscall.SetNonblock(int(writer.Fd()), false)
	}
	return writer, done, errors.Join(err, conn.Close())
}

// timeSends returns the thread's CPU time per write in ns, with the programs
// attached.
func timeSends(fd int, programs []*ebpf.Program) (ns float64, err error) {
	for _, p := range programs {
		l, err := link.AttachTracing(link.TracingOptions{Program: p})
		if err != nil {
			return 0, fmt.Errorf("attach to a tracepoint: %w", err)
		}
		defer l.Close()
	}
	data := make([]byte, 64)
	start, err := threadTime()
	if err != nil {
		return 0, err
	}
	for range sendsOfRound {
		if _, err := syscall.Write(fd, data); err != nil {
			return 0, fmt.Errorf("write over loopback: %w", err)
		}
	}
	end, err := threadTime()
	return float64(end-start) / sendsOfRound, err
}

func threadTime() (int64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0, fmt.Errorf("read the thread's CPU time: %w", err)
	}
	return ts.Nano(), nil
}
