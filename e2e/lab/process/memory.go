// SPDX-License-Identifier: Apache-2.0

package process

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Memory is what a process occupies, in bytes.
type Memory struct {
	// Resident is VmRSS of proc_pid_status(5), Peak its highest value (VmHWM).
	Resident, Peak uint64
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
		return Memory{}, fmt.Errorf("read memory of process %d: no VmRSS or VmHWM, it has ended", pid)
	}
	return Memory{Resident: values["VmRSS"], Peak: values["VmHWM"]}, nil
}
