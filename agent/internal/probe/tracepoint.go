// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// HaveTracepoint returns an error, of the kind ebpf.ErrNotSupported, when this
// kernel does not have a tracepoint with at least so many arguments.
func HaveTracepoint(name string, arguments int) error {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return fmt.Errorf("look for tracepoint %s: %w", name, err)
	}
	var trace *btf.Typedef // of a pointer to a function that takes the arguments behind its own
	if err := kernel.TypeByName("btf_trace_"+name, &trace); errors.Is(err, btf.ErrNotFound) {
		return fmt.Errorf("this kernel has no tracepoint %s: %w", name, ebpf.ErrNotSupported)
	} else if err != nil {
		return fmt.Errorf("look for tracepoint %s: %w", name, err)
	}
	pointer, ok := trace.Type.(*btf.Pointer)
	if !ok {
		return fmt.Errorf("look for tracepoint %s: its type is %v", name, trace.Type)
	}
	function, ok := pointer.Target.(*btf.FuncProto)
	if !ok {
		return fmt.Errorf("look for tracepoint %s: its type points to %v", name, pointer.Target)
	}
	if has := len(function.Params) - 1; has < arguments {
		return fmt.Errorf("this kernel's tracepoint %s has %d arguments of %d: %w", name, has, arguments, ebpf.ErrNotSupported)
	}
	return nil
}

// haveTracepoint is HaveTracepoint, but for tests of kernels without.
var haveTracepoint = HaveTracepoint

// tracepoint is what a program of ours is attached to.
type tracepoint struct {
	program, name string
	arguments     int
	// off says what is not known without it.
	off string
}

// leaveOut takes the programs out of spec whose tracepoints this kernel does not
// have, says what is off, and returns how many are left.
func leaveOut(spec *ebpf.CollectionSpec, points []tracepoint, log *slog.Logger) (left int, err error) {
	for _, p := range points {
		err := haveTracepoint(p.name, p.arguments)
		switch {
		case errors.Is(err, ebpf.ErrNotSupported):
			log.Warn(p.off, "reason", err)
			delete(spec.Programs, p.program)
		case err != nil:
			return 0, err
		default:
			left++
		}
	}
	return left, nil
}

// doWithout takes an error that says that the kernel lacks a feature for a part
// of the capture: the rest goes on, and what is off is said. Other errors it
// returns.
func doWithout(err error, off string, log *slog.Logger) error {
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return err
	}
	log.Warn(off, "reason", err)
	return nil
}

// trace attaches the programs that are in the collection to their tracepoints.
func (a *attachments) trace(c *ebpf.Collection, points []tracepoint) error {
	for _, p := range points {
		program := c.Programs[p.program]
		if program == nil { // left out
			continue
		}
		l, err := link.AttachTracing(link.TracingOptions{Program: program})
		if err != nil {
			return fmt.Errorf("attach %s to tracepoint %s: %w", p.program, p.name, err)
		}
		*a = append(*a, l)
	}
	return nil
}
