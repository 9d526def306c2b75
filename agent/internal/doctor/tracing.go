// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/layertrace/layertrace/agent/internal/probe"
)

// tryWrites tries what tells of writes: the second says which cgroup is a new one.
func tryWrites() error {
	name, err := probe.HaveWrites()
	if err != nil {
		return err
	}
	if err := tryTracepoint(name, 2)(); err != nil {
		return err
	}
	return tryTracepoint("cgroup_mkdir", 1)()
}

// tryTracepoint attaches to a tracepoint with kernel types.
func tryTracepoint(name string, arguments int) func() error {
	return func() error {
		if err := probe.HaveTracepoint(name, arguments); err != nil {
			return err
		}
		p, err := load(ebpf.Tracing, ebpf.AttachTraceRawTp, name, 0)
		if err != nil {
			return err
		}
		defer p.Close()
		l, err := link.AttachTracing(link.TracingOptions{Program: p})
		if err != nil {
			return fmt.Errorf("attach to %s: %w", name, err)
		}
		return l.Close()
	}
}

// tryKprobe attaches a kprobe.
func tryKprobe() error {
	p, err := load(ebpf.Kprobe, ebpf.AttachNone, "", 0)
	if err != nil {
		return lockdown(err)
	}
	defer p.Close()
	l, err := link.Kprobe("tcp_sendmsg", p, nil)
	if err != nil {
		return lockdown(fmt.Errorf("attach to tcp_sendmsg: %w", err))
	}
	return l.Close()
}

func lockdown(err error) error {
	if errors.Is(err, ebpf.ErrNotSupported) {
		return err
	}
	return fmt.Errorf("not used by layertrace; a locked-down kernel (Secure Boot) has none: %w", err)
}
