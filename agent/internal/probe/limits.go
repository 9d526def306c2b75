// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/bpf"
)

// Limits is what the programs leave out for now (enum limit of bpf/include/exchange.h). What
// is being recorded goes on.
type Limits struct {
	Sockets bool // no new requests are recorded at sockets
	Deep    bool // nothing is searched beyond the prefix window
	New     bool // no new requests are recorded, nor are their heads read
}

// Limit sets the limits.
func (p *Probe) Limit(l Limits) error {
	var set uint32
	for limit, on := range map[bpf.CaptureLimit]bool{
		bpf.CaptureLimitLIMIT_SOCKETS: l.Sockets, bpf.CaptureLimitLIMIT_DEEP: l.Deep, bpf.CaptureLimitLIMIT_NEW: l.New,
	} {
		if on {
			set |= uint32(limit)
		}
	}
	if err := p.kernel.Limits.Put(uint32(0), set); err != nil {
		return fmt.Errorf("limit the capture programs: %w", err)
	}
	return nil
}

// ErrNoStats means that the kernel does not measure programs for this process.
var ErrNoStats = errors.New("the kernel does not measure BPF programs: it takes CAP_SYS_ADMIN, or sysctl kernel.bpf_stats_enabled=1")

// statsEnabled is the kernel's switch for the statistics of all programs.
const statsEnabled = "/proc/sys/kernel/bpf_stats_enabled"

// EnableStats makes the kernel measure the run time of all BPF programs until the result is
// closed, which costs some 20 ns a run. Without the permission, and unless it measures
// anyway, the error is ErrNoStats.
func EnableStats() (io.Closer, error) {
	on, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	switch {
	case err == nil:
		return on, nil
	case !errors.Is(err, fs.ErrPermission) && !errors.Is(err, ebpf.ErrNotSupported):
		return nil, fmt.Errorf("measure BPF programs: %w", err)
	}
	if text, err := os.ReadFile(statsEnabled); err == nil && strings.TrimSpace(string(text)) == "1" {
		return io.NopCloser(nil), nil
	}
	return nil, ErrNoStats
}

// RunTime returns the time that the programs have run on all CPUs while the kernel measured
// them. The sweep is left out: it runs in the agent's own time.
func (p *Probe) RunTime() (time.Duration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := []map[string]*ebpf.Program{p.kernel.programs}
	if p.sockets != nil {
		all = append(all, p.sockets.collection.Programs)
	}
	if p.drivers != nil {
		all = append(all, p.drivers.collection.Programs)
	}
	if p.options != nil {
		all = append(all, map[string]*ebpf.Program{"options": p.options.objs.WriteOptions})
	}
	return runTime(all...)
}

// RunTime is that of the programs for encrypted connections.
func (e *Encrypted) RunTime() (time.Duration, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return runTime(e.programs, e.objects.Programs)
}

func runTime(all ...map[string]*ebpf.Program) (sum time.Duration, err error) {
	for _, programs := range all {
		for name, p := range programs {
			if p.Type() == ebpf.Syscall {
				continue
			}
			stats, err := p.Stats()
			if err != nil {
				return 0, fmt.Errorf("read the run time of program %s: %w", name, err)
			}
			sum += stats.Runtime
		}
	}
	return sum, nil
}
