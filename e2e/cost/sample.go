// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Sample is one run of a load, with a tool or without.
type Sample struct {
	Tool string `json:"tool"` // Off without one
	Load string `json:"load"`
	Sent
	// Expected is how many requests the tool should have seen in sum over its points,
	// Seen how many it saw.
	Expected int `json:"expected"`
	Seen     int `json:"seen"`
	// ReportedLost is what the tool itself reports as lost; nil if it does not say.
	ReportedLost *int `json:"reported_lost"`
	Spans        int  `json:"spans"`
	// ToolCPU is the tool's CPU time from when it captured until it had worked off all
	// requests, in ns.
	ToolCPU int64 `json:"tool_cpu_ns"`
	// MachineCPU is the CPU time of all processors that were not idle while the load
	// ran, and of tool and sink afterwards, in ns. Softirq is the part in soft
	// interrupts, by the kernel's tick.
	MachineCPU int64 `json:"machine_cpu_ns"`
	Softirq    int64 `json:"softirq_ns"`
	// EndsCPU is the CPU time of client and server, in ns. Most of what a tool does in the
	// kernel runs while they send, and is in it.
	EndsCPU int64 `json:"ends_cpu_ns"`
	// RSS is the sum of the peaks of the tool's processes, in bytes, BPF the memory of
	// its BPF maps and programs.
	RSS uint64 `json:"rss_bytes"`
	BPF uint64 `json:"bpf_bytes"`
	// LongestRun (ns) and WakeUps (per second) are of the tool, after the warm-up.
	LongestRun int64   `json:"longest_run_ns"`
	WakeUps    float64 `json:"wakeups_per_second"`
	// Ready is how long the tool took to start, in ns, and StartCPU its CPU time until
	// then.
	Ready    int64 `json:"ready_ns"`
	StartCPU int64 `json:"start_cpu_ns"`
}

// Off is the name of runs without a tool.
const Off = "off"

// Measure runs a load once, with a tool unless that is nil.
func (t *Testbed) Measure(ctx context.Context, tool *Tool, load Load) (s Sample, err error) {
	s = Sample{Tool: Off, Load: load.Name}
	defer func() {
		if err != nil {
			err = fmt.Errorf("measure %s at %s: %w", s.Tool, load.Name, err)
		}
	}()
	clients, err := t.connectClients(ctx, load)
	if err != nil {
		return s, err
	}
	// Clients that have ended are not in it any more.
	defer func() { err = errors.Join(err, clients.kill()) }()
	var running runningTool
	if tool != nil {
		s.Tool = tool.Name
		started, cpu, err := t.toolCPU()
		if err != nil {
			return s, err
		}
		if running, err = tool.start(ctx, t); err != nil {
			return s, err
		}
		ready, cpuReady, err := t.toolCPU()
		if err != nil {
			return s, err
		}
		s.Ready, s.StartCPU = int64(ready.Sub(started)), int64(cpuReady-cpu)
	}
	if err := t.run(ctx, clients, load, running, &s); err != nil {
		return s, err
	}
	if tool == nil {
		return s, nil
	}
	if err := t.memoryOfTool(&s); err != nil {
		return s, err
	}
	counts, err := running.stop(ctx)
	if err != nil {
		return s, err
	}
	s.Expected, s.Seen, s.Spans = tool.expected(s.Sent), counts.Seen, counts.Spans
	if counts.Reports {
		s.ReportedLost = &counts.Lost
	}
	return s, nil
}

// run sends the load, waits until the tool has worked it off, and measures both.
func (t *Testbed) run(ctx context.Context, clients *clients, load Load, running runningTool, s *Sample) error {
	_, toolBefore, err := t.toolCPU()
	if err != nil {
		return err
	}
	endsBefore, err := t.peers.CPU()
	if err != nil {
		return err
	}
	busyBefore, softirqBefore, err := processors()
	if err != nil {
		return err
	}
	if err := clients.begin(); err != nil {
		return err
	}
	if err := clients.await(ctx, "warm", time.Minute); err != nil {
		return err
	}
	// Also without a tool: the watch has a price.
	watch, err := watchSchedule(t.tool)
	if err != nil {
		return err
	}
	s.Sent, err = clients.end(ctx)
	s.Requests -= load.Connections // the first ones were sent before the tool was there
	schedule, elapsed, readErr := watch.read()
	if err := errors.Join(err, readErr, watch.close()); err != nil {
		return err
	}
	busy, softirq, err := processors()
	if err != nil {
		return err
	}
	ends, err := t.peers.CPU()
	if err != nil {
		return err
	}
	_, toolAfter, err := t.toolCPU()
	if err != nil {
		return err
	}
	sinkAfter, err := t.sink.CPU()
	if err != nil {
		return err
	}
	s.LongestRun, s.WakeUps = int64(schedule.LongestRun), float64(schedule.WakeUps)/elapsed.Seconds()
	s.Softirq = int64(softirq - softirqBefore)
	s.MachineCPU, s.EndsCPU = int64(busy-busyBefore), int64(ends-endsBefore)
	if running == nil {
		return nil
	}
	asked, err := running.drain(ctx)
	if err != nil {
		return err
	}
	_, toolEnd, err := t.toolCPU()
	if err != nil {
		return err
	}
	sinkEnd, err := t.sink.CPU()
	if err != nil {
		return err
	}
	s.ToolCPU = int64(toolEnd - toolBefore - asked)
	s.MachineCPU += int64(toolEnd - toolAfter - asked + sinkEnd - sinkAfter)
	return nil
}

func (t *Testbed) toolCPU() (time.Time, time.Duration, error) {
	cpu, err := t.tool.CPU()
	return time.Now(), cpu, err
}

func (t *Testbed) memoryOfTool(s *Sample) error {
	pids, err := t.tool.Processes()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		memory, err := sandbox.ReadMemory(pid)
		if err != nil {
			return err
		}
		bpf, err := sandbox.ReadBPFMemory(pid)
		if err != nil {
			return err
		}
		s.RSS += memory.Peak
		s.BPF += bpf
	}
	return nil
}

// userHz is the unit of /proc/stat, for all architectures (USER_HZ).
const userHz = 100

// processors returns for how long all processors have not been idle, and how long they
// have been in soft interrupts. The kernel counts idle time exactly, but the parts of the
// rest by its tick (CONFIG_TICK_CPU_ACCOUNTING).
func processors() (busy, softirq time.Duration, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, fmt.Errorf("read the processors' time: %w", err)
	}
	elapsed := now()
	line, _, _ := strings.Cut(string(text), "\n")
	// cpu user nice system idle iowait irq softirq steal ... (proc_stat(5))
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, 0, fmt.Errorf("read the processors' time: first line of /proc/stat is %q", line)
	}
	ticks := make([]time.Duration, len(fields))
	for i, field := range fields[1:] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("read the processors' time: %w", err)
		}
		ticks[i+1] = time.Duration(n) * time.Second / userHz
	}
	idle, iowait, steal := ticks[4], ticks[5], ticks[8]
	return elapsed*time.Duration(runtime.NumCPU()) - idle - iowait - steal, ticks[7], nil
}

var processStart = time.Now()

// now is the process's clock.
func now() time.Duration { return time.Since(processStart) }
