// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Schedule is how the scheduler ran the threads of a cgroup.
type Schedule struct {
	// LongestRun is the longest time for which a CPU ran only threads of the group, one
	// after another, and nothing else could run there but interrupts.
	LongestRun time.Duration
	// WakeUps is how often a thread ran until it had nothing to do: as often as one was
	// woken.
	WakeUps uint64
}

// scheduleWatch counts in a BPF program at sched_switch. The kernel need not have
// CONFIG_SCHEDSTATS.
type scheduleWatch struct {
	state   *ebpf.Map
	program *ebpf.Program
	link    link.Link
	started time.Time
}

// Per CPU: offsets in the value of the map.
const (
	switchedAt = 0  // when the CPU last switched; 0 before the first time
	runningFor = 8  // since when it has run only threads of the group; 0 if it has not
	longest    = 16 // ns
	sleeps     = 24 // count
	stateSize  = 32
)

// watchSchedule counts from now on. The group's processes are directly in it.
func watchSchedule(group *sandbox.Group) (*scheduleWatch, error) {
	w := &scheduleWatch{}
	if err := w.start(group); err != nil {
		return nil, fmt.Errorf("watch the scheduler: %w", errors.Join(err, w.close()))
	}
	return w, nil
}

func (w *scheduleWatch) start(group *sandbox.Group) error {
	info, err := os.Stat(group.Path)
	if err != nil {
		return err
	}
	// The ID of a cgroup is the inode number of its directory (kernfs_id).
	id := info.Sys().(*syscall.Stat_t).Ino
	if w.state, err = ebpf.NewMap(&ebpf.MapSpec{Name: "schedule", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: stateSize, MaxEntries: 1}); err != nil {
		return err
	}
	w.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "sched_switch", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "sched_switch",
		License: "GPL", Instructions: scheduleProgram(w.state.FD(), id),
	})
	if err != nil {
		return err
	}
	w.started = time.Now()
	w.link, err = link.AttachTracing(link.TracingOptions{Program: w.program})
	return err
}

// scheduleProgram runs when a CPU switches from the current thread, whose state is the
// fourth argument (include/trace/events/sched.h; since Linux 5.18). 0 is a thread that
// could go on.
func scheduleProgram(state int, cgroup uint64) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R8, asm.R1, 24, asm.DWord), // prev_state
		asm.StoreImm(asm.R10, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, state),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "end"),
		asm.Mov.Reg(asm.R6, asm.R0),
		asm.FnKtimeGetNs.Call(),
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.FnGetCurrentCgroupId.Call(),
		asm.LoadMem(asm.R9, asm.R6, switchedAt, asm.DWord), // since when the thread has run
		asm.StoreMem(asm.R6, switchedAt, asm.R7, asm.DWord),
		asm.JEq.Imm(asm.R9, 0, "end"),
		asm.LoadImm(asm.R1, int64(cgroup), asm.DWord),
		asm.JEq.Reg(asm.R0, asm.R1, "ours"),
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.R6, runningFor, asm.R1, asm.DWord),
		asm.Ja.Label("end"),

		asm.LoadMem(asm.R1, asm.R6, runningFor, asm.DWord).WithSymbol("ours"),
		asm.JNE.Imm(asm.R1, 0, "goes-on"),
		asm.StoreMem(asm.R6, runningFor, asm.R9, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.R9),
		asm.Sub.Reg(asm.R7, asm.R1).WithSymbol("goes-on"),
		asm.LoadMem(asm.R2, asm.R6, longest, asm.DWord),
		asm.JLE.Reg(asm.R7, asm.R2, "sleeps"),
		asm.StoreMem(asm.R6, longest, asm.R7, asm.DWord),
		asm.JEq.Imm(asm.R8, 0, "end").WithSymbol("sleeps"),
		asm.LoadMem(asm.R2, asm.R6, sleeps, asm.DWord),
		asm.Add.Imm(asm.R2, 1),
		asm.StoreMem(asm.R6, sleeps, asm.R2, asm.DWord),

		asm.Mov.Imm(asm.R0, 0).WithSymbol("end"),
		asm.Return(),
	}
}

// read returns what has been counted, and in which time.
func (w *scheduleWatch) read() (s Schedule, elapsed time.Duration, err error) {
	var values []struct{ SwitchedAt, RunningFor, Longest, Sleeps uint64 }
	elapsed = time.Since(w.started)
	if err := w.state.Lookup(uint32(0), &values); err != nil {
		return s, 0, fmt.Errorf("read what the scheduler did: %w", err)
	}
	for _, cpu := range values {
		s.LongestRun = max(s.LongestRun, time.Duration(cpu.Longest))
		s.WakeUps += cpu.Sleeps
	}
	return s, elapsed, nil
}

func (w *scheduleWatch) close() error {
	var errs []error
	if w.link != nil {
		errs = append(errs, w.link.Close())
	}
	return errors.Join(append(errs, w.program.Close(), w.state.Close())...)
}
