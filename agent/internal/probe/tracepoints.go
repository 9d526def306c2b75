// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"
	"log/slog"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"

	"github.com/layertrace/layertrace/bpf"
)

// tracepoint is a tracepoint that one of our programs attaches to.
type tracepoint struct {
	program, name string
	arguments     int    // that the program uses
	without       string // the consequence of a kernel without it, for the log
}

// HaveTracepoint returns an error of the kind ebpf.ErrNotSupported if this kernel
// does not have the tracepoint with at least that many arguments.
func HaveTracepoint(name string, arguments int) error {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return fmt.Errorf("look up tracepoint %s: %w", name, err)
	}
	var trace *btf.Typedef // of a pointer to a function: a context, then the arguments
	if err := kernel.TypeByName("btf_trace_"+name, &trace); errors.Is(err, btf.ErrNotFound) {
		return fmt.Errorf("this kernel has no tracepoint %s: %w", name, ebpf.ErrNotSupported)
	} else if err != nil {
		return fmt.Errorf("look up tracepoint %s: %w", name, err)
	}
	pointer, ok := trace.Type.(*btf.Pointer)
	if !ok {
		return fmt.Errorf("look up tracepoint %s: unexpected type %v", name, trace.Type)
	}
	function, ok := pointer.Target.(*btf.FuncProto)
	if !ok {
		return fmt.Errorf("look up tracepoint %s: unexpected pointer to %v", name, pointer.Target)
	}
	if has := len(function.Params) - 1; has < arguments {
		return fmt.Errorf("this kernel's tracepoint %s has %d arguments, need %d: %w", name, has, arguments, ebpf.ErrNotSupported)
	}
	return nil
}

// haveTracepoint is HaveTracepoint; tests replace it to simulate older kernels.
var haveTracepoint = HaveTracepoint

// firstSupported returns the first tracepoint that this kernel has. If it has none, it
// returns the last, with an error of the kind ebpf.ErrNotSupported.
func firstSupported(points []tracepoint) (p tracepoint, err error) {
	for _, p = range points {
		err = haveTracepoint(p.name, p.arguments)
		if !errors.Is(err, ebpf.ErrNotSupported) {
			break
		}
	}
	return p, err
}

// removeUnsupported removes the programs from spec whose tracepoints this kernel
// lacks, logs the consequences, and returns the number of supported ones.
func removeUnsupported(spec *ebpf.CollectionSpec, points []tracepoint, log *slog.Logger) (supported int, err error) {
	for _, p := range points {
		err := haveTracepoint(p.name, p.arguments)
		switch {
		case errors.Is(err, ebpf.ErrNotSupported):
			log.Warn(p.without, "reason", err)
			delete(spec.Programs, p.program)
		case err != nil:
			return 0, err
		default:
			supported++
		}
	}
	return supported, nil
}

// trace attaches the programs of the collection to their tracepoints.
func (a *attachments) trace(c *ebpf.Collection, points []tracepoint) error {
	for _, p := range points {
		program := c.Programs[p.program]
		if program == nil { // unsupported
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

// drivers observes when the qdiscs of the watched interfaces release packets to
// their drivers, and what the kernel drops there.
type drivers struct {
	collection *ebpf.Collection
	links      attachments
	watched    watchedInterfaces
}

// driverPoints are the tracepoints of the driver programs. kfree_skb has drop
// reasons since 5.17.
var driverPoints = []tracepoint{
	{bpf.DriverProgQdiscDequeue, "qdisc_dequeue", 4, "driver transmit times are unknown: node driver time counts as relay network"},
	{bpf.DriverProgPacketDrop, "kfree_skb", 3, "drops at interfaces are unknown"},
}

// openDrivers loads the driver programs, which share the maps of the capture
// programs, and attaches them. They ignore interfaces that are not watched. The
// result is nil if this kernel has none of the tracepoints.
func openDrivers(o *Options, k *kernelSide) (*drivers, error) {
	spec, err := bpf.LoadDriver()
	if err != nil {
		return nil, fmt.Errorf("read driver programs: %w", err)
	}
	sizeMaps(spec, o)
	netns, err := ownNetns()
	if err != nil {
		return nil, err
	}
	if err := setAll(spec, map[string]any{bpf.DriverVarWatchedNetns: netns}); err != nil {
		return nil, err
	}
	if supported, err := removeUnsupported(spec, driverPoints, o.Log); err != nil || supported == 0 {
		return nil, err
	}
	d := &drivers{}
	if d.collection, err = k.load(spec); err != nil {
		return nil, loadError("driver", err)
	}
	d.watched = watchedBy(d.collection)
	if err := d.links.trace(d.collection, driverPoints); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// ownNetns returns the inode number of the process's network namespace.
func ownNetns() (uint32, error) {
	var st syscall.Stat_t
	if err := syscall.Stat("/proc/self/ns/net", &st); err != nil {
		return 0, fmt.Errorf("look up own network namespace: %w", err)
	}
	return uint32(st.Ino), nil
}

func (d *drivers) watch(ifindex int) error {
	if err := d.watched.set(ifindex, true); err != nil {
		return fmt.Errorf("watch the driver of interface %d: %w", ifindex, err)
	}
	return nil
}

func (d *drivers) unwatch(ifindex int) error {
	if err := d.watched.set(ifindex, false); err != nil {
		return fmt.Errorf("stop watching the driver of interface %d: %w", ifindex, err)
	}
	return nil
}

// watchedInterfaces are the interfaces whose queues the programs at qdisc_dequeue look at
// (bpf/include/dequeue.h). It must not be used concurrently.
type watchedInterfaces struct {
	low, high *ebpf.Map
	words     map[uint32]uint64 // copy of the bits in low
}

// watchedBy returns those of the programs of a collection: none.
func watchedBy(c *ebpf.Collection) watchedInterfaces {
	return watchedInterfaces{
		low: c.Maps[bpf.DriverMapWatchedInterfaces], high: c.Maps[bpf.DriverMapWatchedHigh],
		words: map[uint32]uint64{},
	}
}

// set sets the bit of an interface or, for an index above those with a bit, its entry.
func (w watchedInterfaces) set(ifindex int, watched bool) error {
	word, bit := uint32(ifindex/64), uint64(1)<<(ifindex%64)
	switch {
	case word < w.low.MaxEntries():
		w.words[word] &^= bit
		if watched {
			w.words[word] |= bit
		}
		return w.low.Put(word, w.words[word])
	case watched:
		return w.high.Put(uint32(ifindex), uint8(1))
	default:
		if err := w.high.Delete(uint32(ifindex)); !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
		return nil
	}
}

// seesDequeues reports whether packets that qdiscs release are seen.
func (d *drivers) seesDequeues() bool {
	return d != nil && d.collection.Programs[bpf.DriverProgQdiscDequeue] != nil
}

// Close detaches and unloads the programs.
func (d *drivers) Close() error {
	err := d.links.Close()
	d.collection.Close()
	return err
}
