// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/layertrace/layertrace/bpf"
)

// attachment is what holds the programs of one interface in place.
type attachment interface{ Close() error }

// attachments closes several as one.
type attachments []attachment

func (a attachments) Close() error {
	var errs []error
	for _, one := range a {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}

// Attach puts the capture programs on the interface with this index in the
// network namespace of the calling thread's process. Attaching twice changes
// nothing.
func (p *Probe) Attach(ifindex int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.attached[ifindex]; ok {
		return nil
	}
	device, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return fmt.Errorf("find interface %d: %w", ifindex, err)
	}
	name := device.Attrs().Name
	a, err := p.attach(ifindex, hasEthernet(device))
	if err != nil {
		return fmt.Errorf("attach capture programs to %s: %w", name, err)
	}
	p.attached[ifindex] = a
	if p.drivers != nil {
		if err := p.drivers.watch(ifindex); err != nil {
			p.log.Warn("when this interface's driver transmits will not be known", "interface", name, "error", err)
		}
	}
	p.log.Debug("capturing", "interface", name, "ifindex", ifindex, "mode", string(p.mode))
	return nil
}

// Detach takes the programs off. The interface may be gone already.
func (p *Probe) Detach(ifindex int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := p.attached[ifindex]
	if !ok {
		return fmt.Errorf("interface %d: %w", ifindex, ErrNotAttached)
	}
	delete(p.attached, ifindex)
	err := a.Close()
	if p.drivers != nil {
		err = errors.Join(err, p.drivers.leave(ifindex))
	}
	if err != nil {
		return fmt.Errorf("detach capture programs from interface %d: %w", ifindex, err)
	}
	return nil
}

// hasEthernet reports whether packets begin with an Ethernet header. Devices
// such as tun or WireGuard have none and are of another ARPHRD type.
func hasEthernet(device netlink.Link) bool {
	switch device.Attrs().EncapType {
	case "ether", "loopback":
		return true
	default:
		return false
	}
}

// programs returns the capture programs of the mode for one kind of link: one
// for each direction, or the same twice where one program sees both.
func (p *Probe) programs(ethernet bool) (in, out *ebpf.Program, err error) {
	names := [2]string{bpf.CaptureProgCaptureIn, bpf.CaptureProgCaptureOut}
	if p.mode == ModeSocketFilter {
		names = [2]string{bpf.CaptureProgCaptureSock, bpf.CaptureProgCaptureSock}
	}
	if !ethernet {
		names[0] += "_l3"
		names[1] += "_l3"
	}
	if in, err = p.kernel.program(names[0]); err != nil {
		return nil, nil, err
	}
	out, err = p.kernel.program(names[1])
	return in, out, err
}

func (p *Probe) attach(ifindex int, ethernet bool) (attachment, error) {
	in, out, err := p.programs(ethernet)
	if err != nil {
		return nil, err
	}
	if p.mode == ModeSocketFilter {
		return attachSocketFilter(ifindex, in)
	}
	if p.mode == ModeClsact {
		return attachClsact(ifindex, in, out)
	}
	a, err := attachTCX(ifindex, in, out)
	if p.mode == ModeAuto && errors.Is(err, ebpf.ErrNotSupported) {
		p.log.Info("no TCX in this kernel (6.6 has it), using clsact")
		p.mode = ModeClsact
		return attachClsact(ifindex, in, out)
	}
	if err == nil {
		p.mode = ModeTCX
	}
	return a, err
}

func attachTCX(ifindex int, in, out *ebpf.Program) (attachment, error) {
	var both attachments
	for _, one := range []struct {
		program *ebpf.Program
		hook    ebpf.AttachType
	}{{in, ebpf.AttachTCXIngress}, {out, ebpf.AttachTCXEgress}} {
		l, err := link.AttachTCX(link.TCXOptions{
			Interface: ifindex,
			Program:   one.program,
			Attach:    one.hook,
			// First in line: a program that redirects (a CNI's) ends the chain.
			Anchor: link.Head(),
		})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%v: %w", one.hook, err), both.Close())
		}
		both = append(both, l)
	}
	return both, nil
}
