// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// region is memory of the kernel that is watched: a function's machine code, or the value
// of a key in a map.
type region struct {
	name string
	at   uint64
	size int
	// touched has the cache lines that requests and responses touch.
	touched [2]map[uint64]bool
}

// The kinds of breakpoints (include/uapi/linux/hw_breakpoint.h), the number of bytes that
// one of them covers, and how many of them a CPU has.
const (
	breakOnAccess   = 3
	breakOnRun      = 4
	breakpointBytes = 8
	breakpoints     = 4
)

// countLines counts the cache lines of the programs' code, and of the values in their
// maps, that a sampled request and its response touch, by the CPU's breakpoints: at each
// byte of the code, as an instruction may begin at any, and on each 8 bytes of the values.
// A kernel without kprobes has no breakpoints in code. Not counted: sockets' storage, the
// ring, variables, and what the kernel's helpers touch.
func countLines(to io.Writer) error {
	return withEmptyHooks(func(l loopback, group string, empty []hook) error {
		ours, err := ourHooks(empty, group)
		if err != nil {
			return err
		}
		defer closeHooks(ours)
		for _, h := range ours {
			attached, err := h.attach(h.program)
			if err != nil {
				return fmt.Errorf("attach to %s: %w", h.name, err)
			}
			defer attached.Close()
		}
		messages := exchangeOf(coldSampled)
		send := func(i int) error {
			from, to := l.writer, l.reader
			if i == 1 {
				from, to = to, from
			}
			_, err := timeMessage(from, to, []byte(messages[i]))
			return err
		}
		for i := range 2 * coldOfRound {
			if err := send(i % 2); err != nil {
				return err
			}
		}
		code, values, err := regionsOf(ours)
		if err != nil {
			return err
		}
		for _, r := range code {
			err := r.watch(breakOnRun, 1, send)
			if errors.Is(err, unix.EINVAL) {
				fmt.Fprintln(to, "this kernel has no breakpoints in code, only data is counted")
				break
			}
			if err != nil {
				return err
			}
		}
		for _, r := range values {
			if err := r.watch(breakOnAccess, breakpointBytes, send); err != nil {
				return err
			}
		}
		return printRegions(to, append(code, values...))
	})
}

// regionsOf returns the functions of the programs, and the values in their maps.
func regionsOf(hooks []hook) (code, values []*region, err error) {
	programs, maps := map[string]bool{}, map[ebpf.MapID]bool{}
	for _, h := range hooks {
		if programs[h.ours] {
			continue
		}
		programs[h.ours] = true
		info, err := h.program.Info()
		if err != nil {
			return nil, nil, fmt.Errorf("read about program %s: %w", h.ours, err)
		}
		addresses, _ := info.JitedKsymAddrs()
		sizes, _ := info.JitedFuncLens()
		functions, err := info.FuncInfos()
		if err != nil || len(addresses) == 0 || len(sizes) != len(addresses) || len(functions) != len(addresses) {
			return nil, nil, fmt.Errorf("read where the code of program %s is (not compiled?): %w", h.ours, err)
		}
		for i, at := range addresses {
			code = append(code, newRegion(h.ours+" "+functions[i].Func.Name, uint64(at), int(sizes[i])))
		}
		ids, _ := info.MapIDs()
		for _, id := range ids {
			if maps[id] {
				continue
			}
			maps[id] = true
			found, err := valuesOf(id)
			if err != nil {
				return nil, nil, err
			}
			values = append(values, found...)
		}
	}
	return code, values, nil
}

func newRegion(name string, at uint64, size int) *region {
	return &region{name: name, at: at, size: size, touched: [2]map[uint64]bool{{}, {}}}
}

// maxValues is the size of the arrays whose values are counted.
const maxValues = 256

func valuesOf(id ebpf.MapID) (values []*region, err error) {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return nil, fmt.Errorf("open map %d: %w", id, err)
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return nil, fmt.Errorf("read about map %d: %w", id, err)
	}
	add := func(key []byte, before int) error {
		at, err := addressOf(m, key)
		if err != nil {
			return fmt.Errorf("find a value of map %s: %w", info.Name, err)
		}
		values = append(values, newRegion(fmt.Sprintf("%s %x", info.Name, key[:min(len(key), 8)]), at-uint64(before), before+int(info.ValueSize)))
		return nil
	}
	switch info.Type {
	case ebpf.Array, ebpf.PerCPUArray:
		for i := range info.MaxEntries {
			if info.MaxEntries > maxValues || strings.HasPrefix(info.Name, ".") {
				break
			}
			if err := add(binary.NativeEndian.AppendUint32(nil, i), 0); err != nil {
				return nil, err
			}
		}
	case ebpf.Hash:
		// With the key, and what the table has before it: its list and the hash.
		before := int(unsafe.Sizeof([6]uint64{})) + int(info.KeySize+7)/8*8
		for key, err := m.NextKeyBytes(nil); key != nil || err != nil; key, err = m.NextKeyBytes(key) {
			if err != nil {
				return nil, fmt.Errorf("walk over map %s: %w", info.Name, err)
			}
			if err := add(key, before); err != nil {
				return nil, err
			}
		}
	}
	return values, nil
}

// addressOf returns the kernel's address of a value, on this CPU, from a program that
// looks it up.
func addressOf(m *ebpf.Map, key []byte) (uint64, error) {
	size := int16(len(key)+7) / 8 * 8
	code := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	for i := int16(0); i < size; i += 8 {
		code = append(code, asm.LoadMem(asm.R2, asm.R6, i, asm.DWord), asm.StoreMem(asm.RFP, i-size, asm.R2, asm.DWord))
	}
	code = append(
		code,
		asm.LoadMapPtr(asm.R1, m.FD()), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, int32(-size)), asm.FnMapLookupElem.Call(),
		asm.StoreMem(asm.R6, size, asm.R0, asm.DWord), asm.Mov.Imm(asm.R0, 0), asm.Return(),
	)
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.Syscall, Flags: unix.BPF_F_SLEEPABLE, License: "GPL", Instructions: code})
	if err != nil {
		return 0, fmt.Errorf("load a program that looks up: %w", err)
	}
	defer p.Close()
	arguments := make([]byte, size+8)
	copy(arguments, key)
	if _, err := p.Run(&ebpf.RunOptions{Context: arguments, ContextOut: arguments}); err != nil {
		return 0, fmt.Errorf("run a program that looks up: %w", err)
	}
	at := binary.NativeEndian.Uint64(arguments[size:])
	if at == 0 {
		return 0, ebpf.ErrKeyNotExist
	}
	return at, nil
}

// watch sends a request and a response for each few breakpoints, until they were at each
// step of the region. A function whose first instruction does not run is not watched
// further.
func (r *region) watch(kind uint32, step uint64, send func(int) error) error {
	first, end := r.at&^(step-1), r.at+uint64(r.size)
	for at := first; at < end; at += breakpoints * step {
		if err := r.watchAt(at, end, kind, step, send); err != nil {
			return err
		}
		if kind == breakOnRun && at > first && len(r.touched[0])+len(r.touched[1]) == 0 {
			return nil
		}
	}
	return nil
}

func (r *region) watchAt(at, end uint64, kind uint32, step uint64, send func(int) error) error {
	var open [breakpoints]int
	var counts [breakpoints]uint64
	n := 0
	defer func() {
		for _, fd := range open[:n] {
			_ = unix.Close(fd)
		}
	}()
	for ; n < breakpoints && at+uint64(n)*step < end; n++ {
		attr := unix.PerfEventAttr{
			Type: unix.PERF_TYPE_BREAKPOINT, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})), Bits: unix.PerfBitExcludeUser,
			Bp_type: kind, Ext1: at + uint64(n)*step, Ext2: breakpointBytes,
		}
		fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if err != nil {
			return fmt.Errorf("set a breakpoint in %s: %w", r.name, err)
		}
		open[n] = fd
	}
	for message := range r.touched {
		if err := send(message); err != nil {
			return err
		}
		for i, fd := range open[:n] {
			var raw [8]byte
			if _, err := unix.Read(fd, raw[:]); err != nil {
				return fmt.Errorf("read a breakpoint's count: %w", err)
			}
			if count := binary.NativeEndian.Uint64(raw[:]); count != counts[i] {
				counts[i] = count
				r.touched[message][(at+uint64(i)*step)/cacheLine] = true
			}
		}
	}
	return nil
}

func printRegions(to io.Writer, all []*region) error {
	table := tabwriter.NewWriter(to, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "code of, or value in\tbytes\tlines of a request\tof its response")
	var sum [2]int
	for _, r := range all {
		for i := range sum {
			sum[i] += len(r.touched[i])
		}
		if len(r.touched[0])+len(r.touched[1]) > 0 {
			fmt.Fprintf(table, "%s\t%d\t%d\t%d\n", r.name, r.size, len(r.touched[0]), len(r.touched[1]))
		}
	}
	fmt.Fprintf(table, "sum\t\t%d\t%d\n", sum[0], sum[1])
	return table.Flush()
}
