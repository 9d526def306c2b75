// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// loopback is the index of lo in every network namespace.
const loopback = 1

// verdictNext is TCX_NEXT and TC_ACT_UNSPEC: leave the packet to the others.
const verdictNext = -1

// inNamespace calls try in a network namespace of its own, which ends with the
// thread: the goroutine never gives the thread back. Without the right to make
// one (CAP_SYS_ADMIN), a try that changes nothing (harmless) is made in place.
func inNamespace(harmless bool, try func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil && !harmless {
			result <- fmt.Errorf("%w: make a network namespace: %w", errUnknown, err)
			return
		}
		result <- try()
	}()
	return <-result
}

func tryTCX() error {
	return inNamespace(true, func() error {
		for _, attach := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			p, err := load(ebpf.SchedCLS, attach, "", verdictNext)
			if err != nil {
				return err
			}
			l, err := link.AttachTCX(link.TCXOptions{Interface: loopback, Program: p, Attach: attach})
			if err != nil {
				return errors.Join(fmt.Errorf("attach to %s: %w", attach, err), p.Close())
			}
			if err := errors.Join(l.Close(), p.Close()); err != nil {
				return err
			}
		}
		return nil
	})
}

func tryClsact() error {
	return inNamespace(false, func() error {
		qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: loopback, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		}}
		if err := netlink.QdiscAdd(qdisc); err != nil {
			return fmt.Errorf("add a clsact qdisc: %w", err)
		}
		p, err := load(ebpf.SchedCLS, ebpf.AttachNone, "", verdictNext)
		if err != nil {
			return err
		}
		defer p.Close()
		filter := &netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: loopback, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL,
			},
			Fd: p.FD(), Name: "doctor", DirectAction: true,
		}
		if err := netlink.FilterAdd(filter); err != nil {
			return fmt.Errorf("add a BPF filter (is cls_bpf there?): %w", err)
		}
		return nil
	})
}

func trySocketFilter() error {
	return inNamespace(true, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open a packet socket: %w", err)
		}
		defer unix.Close(fd)
		p, err := load(ebpf.SocketFilter, ebpf.AttachNone, "", 0)
		if err != nil {
			return err
		}
		defer p.Close()
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, p.FD()); err != nil {
			return fmt.Errorf("attach to a packet socket: %w", err)
		}
		return nil
	})
}
