// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/lab"
)

// Program is the work of a BPF program of the agents, as the kernel counts it.
type Program struct {
	Name string
	// Runs is the number of runs per request.
	Runs float64
	// Time is the time of a run, including that of measuring it.
	Time time.Duration
}

// programs starts the agents and counts the runs of their programs at saturation.
func (m *meter) programs(ctx context.Context) ([]Program, error) {
	load := lab.Load{Connections: 16, Requests: max(1, int(m.limit*m.Duration.Seconds()))}
	return CountPrograms(load.Requests, func() error { return m.flip(ctx) }, func() error {
		_, err := m.lab.Send(ctx, load)
		return err
	})
}

// CountPrograms starts the agents, and sends requests while the kernel counts
// (BPF_ENABLE_STATS, kernel/bpf/syscall.c). The agents' programs are those that do
// not exist without agents. Counting takes time, so nothing else is measured
// meanwhile.
func CountPrograms(requests int, start, send func() error) (programs []Program, err error) {
	others, err := loaded()
	if err != nil {
		return nil, err
	}
	if err := start(); err != nil {
		return nil, err
	}
	counting, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return nil, fmt.Errorf("make the kernel count the runs of programs: %w", err)
	}
	defer func() { err = errors.Join(err, counting.Close()) }()
	before, err := loaded()
	if err != nil {
		return nil, err
	}
	if err := send(); err != nil {
		return nil, err
	}
	after, err := loaded()
	if err != nil {
		return nil, err
	}
	return perRequest(requests, others, before, after), nil
}

// perRequest sums up the work of all programs but others, by name, as each agent
// has its own.
func perRequest(requests int, others, before, after map[ebpf.ProgramID]counted) (programs []Program) {
	sums := map[string]counted{}
	for id, p := range after {
		if _, other := others[id]; other {
			continue
		}
		sum := sums[p.name]
		sums[p.name] = counted{p.name, sum.runs + p.runs - before[id].runs, sum.time + p.time - before[id].time}
	}
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		sum := sums[name]
		if sum.runs == 0 {
			continue
		}
		programs = append(programs, Program{
			Name: name, Runs: float64(sum.runs) / float64(requests), Time: sum.time / time.Duration(sum.runs),
		})
	}
	return programs
}

// counted is what the kernel counted of a program.
type counted struct {
	name string
	runs uint64
	time time.Duration
}

// loaded returns all BPF programs in the kernel.
func loaded() (map[ebpf.ProgramID]counted, error) {
	all := map[ebpf.ProgramID]counted{}
	var id ebpf.ProgramID
	for {
		var err error
		id, err = ebpf.ProgramGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list the kernel's BPF programs: %w", err)
		}
		p, err := read(id)
		if errors.Is(err, os.ErrNotExist) { // unloaded meanwhile
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the statistics of BPF program %d: %w", id, err)
		}
		all[id] = p
	}
}

func read(id ebpf.ProgramID) (c counted, err error) {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, program.Close()) }()
	info, err := program.Info()
	if err != nil {
		return c, err
	}
	stats, err := program.Stats()
	if err != nil {
		return c, err
	}
	return counted{info.Name, stats.RunCount, stats.Runtime}, nil
}
