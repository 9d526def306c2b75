// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CPU returns the CPU time that the processes of the group and of those below
// have taken, also those that have ended (cpu.stat, which is there without the
// cpu controller, too).
func (g *Group) CPU() (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join(g.Path, "cpu.stat"))
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		value, found := strings.CutPrefix(line, "usage_usec ")
		if !found {
			continue
		}
		microseconds, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read CPU time of cgroup %s: %w", g.Path, err)
		}
		return time.Duration(microseconds) * time.Microsecond, nil
	}
	return 0, fmt.Errorf("read CPU time of cgroup %s: no usage_usec in cpu.stat", g.Path)
}

// processCPU returns the CPU time that a process has taken until now: by its CPU
// clock (clock_getcpuclockid(3)), which knows of the time since the last tick.
func processCPU(pid int) (time.Duration, error) {
	const cpuclockSched = 2 // include/linux/posix-timers.h
	var now unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|cpuclockSched), &now); err != nil {
		return 0, fmt.Errorf("read the CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(now.Nano()), nil
}
