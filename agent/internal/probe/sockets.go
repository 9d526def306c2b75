// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"

	"github.com/layertrace/layertrace/bpf"
)

// sockets captures at the sockets of some cgroups.
type sockets struct {
	collection *ebpf.Collection
	links      attachments
}

// socketPoints are what the socket programs are attached to beside the cgroups,
// with one of writePoints.
var socketPoints = []tracepoint{
	{bpf.SocketProgCgroupCreated, "cgroup_mkdir", 1, writesUnknown},
	{bpf.SocketProgSocketRead, "tcp_rcv_space_adjust", 1, "when processes read from their sockets is not known: the time in a receiver's queue counts as the application's"},
	{bpf.SocketProgSocketDrop, "kfree_skb", 3, "packets dropped in the pods' network namespaces are not known"},
}

// writePoints tell of writes, the better one first: before TCP can send anything
// (since 6.16), and when a write is over (since 6.3).
var writePoints = []tracepoint{
	{bpf.SocketProgSocketWrite, "tcp_sendmsg_locked", 2, writesUnknown},
	{bpf.SocketProgSocketWrote, "sock_send_length", 2, writesUnknown},
}

// HaveWrites returns the tracepoint by which this kernel tells of writes, or an
// error of the kind ebpf.ErrNotSupported.
func HaveWrites() (name string, err error) {
	p, err := writePoint()
	return p.name, err
}

// writePoint returns the first of writePoints that this kernel has.
func writePoint() (p tracepoint, err error) {
	for _, p = range writePoints {
		err = haveTracepoint(p.name, p.arguments)
		if !errors.Is(err, ebpf.ErrNotSupported) {
			break
		}
	}
	return p, err
}

// chooseWrites takes the program of writes out of spec that this kernel does not
// need, and returns all points of what is left.
func chooseWrites(spec *ebpf.CollectionSpec) []tracepoint {
	chosen, _ := writePoint() // leaveOut asks again
	for _, p := range writePoints {
		if p != chosen {
			delete(spec.Programs, p.program)
		}
	}
	return append([]tracepoint{chosen}, socketPoints...)
}

const writesUnknown = "when processes write to their sockets is not known: the time in a sender's queue counts as the application's"

// receiverOfDrop is the place of the receiving socket among the arguments of
// kfree_skb, which has it since 6.11: before, only what a socket sends is known.
const receiverOfDrop = 4

// haveSockets asks for what the capture at sockets cannot do without. A probe
// that could not be made says nothing: loading will.
func haveSockets() error {
	for _, err := range []error{features.HaveProgramType(ebpf.CGroupSKB), features.HaveMapType(ebpf.SkStorage)} {
		if errors.Is(err, ebpf.ErrNotSupported) {
			return err
		}
	}
	return nil
}

// openSockets loads the socket programs, which share the interface programs'
// maps, and attaches them: a process in one of the cgroups, or below, is seen
// with all its sockets, also those that are open already.
func openSockets(o *Options, k *kernelSide) (*sockets, error) {
	if err := haveSockets(); err != nil {
		return nil, err
	}
	spec, err := bpf.LoadSocket()
	if err != nil {
		return nil, fmt.Errorf("read socket programs: %w", err)
	}
	if err := configure(spec, o); err != nil {
		return nil, err
	}
	points := chooseWrites(spec)
	if _, err := leaveOut(spec, points, o.Log); err != nil {
		return nil, err
	}
	writes := withWrites(spec, points[0])
	receiver := haveTracepoint("kfree_skb", receiverOfDrop)
	if receiver != nil && !errors.Is(receiver, ebpf.ErrNotSupported) {
		return nil, receiver
	}
	targets, err := targetCgroups(o.SocketCgroups)
	if err != nil {
		return nil, err
	}
	if err := setAll(spec, map[string]any{
		bpf.SocketVarHaveRxSk:      receiver == nil,
		bpf.SocketVarTargetCgroups: targets,
		bpf.SocketVarHaveWriteTp:   writes,
	}); err != nil {
		return nil, err
	}
	s := &sockets{}
	if s.collection, err = k.load(spec); err != nil {
		return nil, loadError("socket", err)
	}
	if err := s.attach(points, o.SocketCgroups); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// withWrites reports whether the programs of writes are in spec, which need each
// other: one alone is taken out.
func withWrites(spec *ebpf.CollectionSpec, write tracepoint) bool {
	for _, name := range []string{bpf.SocketProgCgroupCreated, write.program} {
		if spec.Programs[name] == nil {
			delete(spec.Programs, bpf.SocketProgCgroupCreated)
			delete(spec.Programs, write.program)
			return false
		}
	}
	return true
}

// targetCgroups returns the IDs by which the programs know the cgroups: the
// inode numbers of their directories.
func targetCgroups(paths []string) (targets bpf.SocketTargetCgroups, err error) {
	if len(paths) > len(targets.Ids) {
		return targets, fmt.Errorf("capture at the sockets of %d cgroups: the limit is %d, use a common parent", len(paths), len(targets.Ids))
	}
	targets.Len = uint32(len(paths))
	for i, path := range paths {
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil {
			return targets, fmt.Errorf("look up cgroup: %w", &os.PathError{Op: "stat", Path: path, Err: err})
		}
		targets.Ids[i] = st.Ino
	}
	return targets, nil
}

func (s *sockets) attach(points []tracepoint, cgroups []string) error {
	// The tracepoints come first: a request that is seen in a packet was seen
	// when it was written.
	if err := s.links.trace(s.collection, points); err != nil {
		return err
	}
	for _, path := range cgroups {
		for _, hook := range []ebpf.AttachType{ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInetIngress} {
			l, err := link.AttachCgroup(link.CgroupOptions{
				Path: path, Attach: hook, Program: s.collection.Programs[bpf.SocketProgSocketPacket],
			})
			if err != nil {
				return fmt.Errorf("capture at the sockets of cgroup %s (is it a directory of the cgroup2 mount?): %w", path, err)
			}
			s.links = append(s.links, l)
		}
	}
	return nil
}

// Close ends the capture at sockets.
func (s *sockets) Close() error {
	err := s.links.Close()
	s.collection.Close()
	return err
}
