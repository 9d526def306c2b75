// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/layertrace/layertrace/bpf"
)

// sockets captures at the sockets of some cgroups.
type sockets struct {
	collection *ebpf.Collection
	links      attachments
}

// openSockets loads the socket programs, which share the interface programs'
// maps, and attaches them: a process in one of the cgroups, or below, is seen
// with all its sockets, also those that are open already.
func openSockets(o *Options, k *kernelSide) (*sockets, error) {
	spec, err := bpf.LoadSocket()
	if err != nil {
		return nil, fmt.Errorf("read socket programs: %w", err)
	}
	if err := configureSockets(spec, o); err != nil {
		return nil, err
	}
	s := &sockets{}
	if s.collection, err = k.load(spec); err != nil {
		if !errors.Is(err, ebpf.ErrNotSupported) {
			return nil, loadError("socket", err)
		}
		// tcp_sendmsg_locked came last; the rest does without.
		delete(spec.Programs, bpf.SocketProgSocketWrite)
		if s.collection, err = k.load(spec); err != nil {
			return nil, loadError("socket", err)
		}
		o.Log.Info("no tracepoint tcp_sendmsg_locked in this kernel: the time at which an application writes is not known, and its queue counts as the application's")
	}
	if err := s.attach(o.SocketCgroups); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *sockets) attach(cgroups []string) error {
	// The tracepoints come first: a request that is seen in a packet was seen
	// when it was written.
	for _, name := range []string{bpf.SocketProgSocketWrite, bpf.SocketProgSocketRead} {
		program := s.collection.Programs[name]
		if program == nil {
			continue
		}
		l, err := link.AttachTracing(link.TracingOptions{Program: program})
		if err != nil {
			return fmt.Errorf("attach %s to its tracepoint: %w", name, err)
		}
		s.links = append(s.links, l)
	}
	for _, path := range cgroups {
		for name, hook := range map[string]ebpf.AttachType{
			bpf.SocketProgSocketOut: ebpf.AttachCGroupInetEgress,
			bpf.SocketProgSocketIn:  ebpf.AttachCGroupInetIngress,
		} {
			l, err := link.AttachCgroup(link.CgroupOptions{Path: path, Attach: hook, Program: s.collection.Programs[name]})
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
