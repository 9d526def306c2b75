// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/bpf"
)

// errNotAttached is returned when an interface without programs is detached.
var errNotAttached = errors.New("no capture programs are attached")

// attachment holds the programs of one interface in place until it is closed.
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

// Attach attaches the capture programs to the interface with this index in the
// network namespace of the process. Attaching twice has no effect.
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
	a, err := p.attach(ifindex, hasEthernet(device), isLoopback(device))
	if err != nil {
		return fmt.Errorf("attach capture programs to %s: %w", name, err)
	}
	p.attached[ifindex] = a
	if p.drivers != nil {
		if err := p.drivers.watch(ifindex); err != nil {
			p.log.Warn("transmit times of this interface's driver will be unknown", "interface", name, "error", err)
		}
	}
	p.log.Debug("capturing", "interface", name, "ifindex", ifindex, "mode", string(p.mode))
	return nil
}

// Detach detaches the programs from an interface, which may be gone already.
func (p *Probe) Detach(ifindex int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := p.attached[ifindex]
	if !ok {
		return fmt.Errorf("interface %d: %w", ifindex, errNotAttached)
	}
	delete(p.attached, ifindex)
	err := errors.Join(a.Close(), p.ownOnly.forget(ifindex))
	if p.drivers != nil {
		err = errors.Join(err, p.drivers.unwatch(ifindex))
	}
	if err != nil {
		return fmt.Errorf("detach capture programs from interface %d: %w", ifindex, err)
	}
	return nil
}

// PassesOn tells whether an attached interface passes on packets for others, as a port of a
// bridge does. Where it does not, packets for other hosts are not captured.
func (p *Probe) PassesOn(ifindex int, passesOn bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ownOnly.set(ifindex, !passesOn)
}

// ownOnly has, of attached interfaces, whether only packets for their own address are
// captured.
type ownOnly struct {
	programs   *ebpf.Map
	interfaces map[int]bool
	bits       bpf.CaptureOwnOnly
}

func (o *ownOnly) set(ifindex int, only bool) error {
	o.interfaces[ifindex] = only
	return o.update(ifindex)
}

// forget is for an interface that is detached.
func (o *ownOnly) forget(ifindex int) error {
	delete(o.interfaces, ifindex)
	return o.update(ifindex)
}

// update tells the programs, which know interfaces by the low bits of their index: for
// those with the same ones it has to be so for all.
func (o *ownOnly) update(ifindex int) error {
	slots := len(o.bits.Of) * 8
	slot := ifindex % slots
	some, all := false, true
	for i, only := range o.interfaces {
		if i%slots == slot {
			some, all = true, all && only
		}
	}
	before := o.bits.Of[slot/8]
	o.bits.Of[slot/8] &^= 1 << (slot % 8)
	if some && all {
		o.bits.Of[slot/8] |= 1 << (slot % 8)
	}
	if o.bits.Of[slot/8] == before {
		return nil
	}
	if err := o.programs.Put(uint32(0), &o.bits); err != nil {
		return fmt.Errorf("choose packets by their host: %w", err)
	}
	return nil
}

// hasEthernet reports whether packets start with an Ethernet header. Devices such
// as tun or WireGuard have none, and another ARPHRD type.
func hasEthernet(device netlink.Link) bool {
	switch device.Attrs().EncapType {
	case "ether", "loopback":
		return true
	default:
		return false
	}
}

// isLoopback reports whether each segment passes the device twice: out, and in again.
// One of the two has to be left out, or each counts as sent again.
func isLoopback(device netlink.Link) bool {
	return device.Attrs().RawFlags&unix.IFF_LOOPBACK != 0
}

// programs returns the capture programs of the mode for one kind of link.
func (p *Probe) programs(ethernet bool) (in, out *ebpf.Program, err error) {
	forIn, forOut := p.mode.programs(bpf.CaptureProgCaptureIn, bpf.CaptureProgCaptureOut, bpf.CaptureProgCaptureSock, ethernet)
	if in, err = p.kernel.program(forIn); err != nil {
		return nil, nil, err
	}
	out, err = p.kernel.program(forOut)
	return in, out, err
}

// programs returns which programs of a kind the mode attaches to a link: those for each
// direction, or twice the one that sees both directions.
func (m Mode) programs(in, out, both string, ethernet bool) (forIn, forOut string) {
	if m == ModeSocketFilter {
		in, out = both, both
	}
	if !ethernet {
		in, out = in+"_l3", out+"_l3"
	}
	return in, out
}

// attach attaches both programs, at a loopback device only the one for packets that
// leave: it sees those too that are dropped before they arrive.
func (p *Probe) attach(ifindex int, ethernet, loopback bool) (attachment, error) {
	in, out, err := p.programs(ethernet)
	if err != nil {
		return nil, err
	}
	return p.mode.attach(ifindex, in, out, loopback, captureFilter, p.log)
}

// attach attaches programs to an interface, at a loopback device only the one for packets
// that leave. ModeAuto becomes the mode that the kernel has.
func (m *Mode) attach(ifindex int, in, out *ebpf.Program, loopback bool, filter filter, log *slog.Logger) (attachment, error) {
	if *m == ModeSocketFilter {
		return attachSocketFilter(ifindex, in, loopback)
	}
	if loopback {
		in = nil
	}
	if *m == ModeClsact {
		return attachClsact(ifindex, in, out, filter)
	}
	a, err := attachTCX(ifindex, in, out)
	if *m == ModeAuto && errors.Is(err, ebpf.ErrNotSupported) {
		log.Info("this kernel has no TCX (requires 6.6): using clsact")
		*m = ModeClsact
		return attachClsact(ifindex, in, out, filter)
	}
	if err == nil {
		*m = ModeTCX
	}
	return a, err
}

// attachTCX attaches the programs, of which in may be nil.
func attachTCX(ifindex int, in, out *ebpf.Program) (attachment, error) {
	var both attachments
	for _, one := range []struct {
		program *ebpf.Program
		hook    ebpf.AttachType
	}{{in, ebpf.AttachTCXIngress}, {out, ebpf.AttachTCXEgress}} {
		if one.program == nil {
			continue
		}
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
		noteAttached(one.program)
	}
	return both, nil
}

// filter is the place of our clsact filters on an interface. The name finds those of a
// killed agent. The priorities are the first ones: a CNI's program may end the chain.
type filter struct {
	name     string
	priority uint16
}

var (
	captureFilter   = filter{"layertrace", 1}
	encryptedFilter = filter{"layertrace-encrypted", 2}
)

// clsact is the attachment for kernels before 6.6. Filters outlive the process.
type clsact struct {
	ifindex  int
	filter   filter
	ownQdisc netlink.Qdisc // nil: created by someone else
}

// attachClsact replaces filters of an earlier agent. in may be nil.
func attachClsact(ifindex int, in, out *ebpf.Program, filter filter) (attachment, error) {
	c := &clsact{ifindex: ifindex, filter: filter}
	if _, err := c.removeFilters(); err != nil && !isGone(err) {
		return nil, err
	}
	qdisc := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: ifindex,
			Handle:    netlink.MakeHandle(0xffff, 0),
			Parent:    netlink.HANDLE_CLSACT,
		},
		QdiscType: "clsact",
	}
	if err := netlink.QdiscAdd(qdisc); err == nil {
		c.ownQdisc = qdisc
	} else if !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("add clsact qdisc: %w", err)
	}
	for parent, program := range map[uint32]*ebpf.Program{
		netlink.HANDLE_MIN_INGRESS: in,
		netlink.HANDLE_MIN_EGRESS:  out,
	} {
		if program == nil {
			continue
		}
		bpf := &netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: ifindex,
				Parent:    parent,
				Protocol:  unix.ETH_P_ALL,
				Priority:  filter.priority,
			},
			Fd:           program.FD(),
			Name:         filter.name,
			DirectAction: true,
		}
		if err := netlink.FilterAdd(bpf); err != nil {
			return nil, errors.Join(fmt.Errorf("add clsact filter: %w", err), c.Close())
		}
	}
	return c, nil
}

// Close removes the filters, and the qdisc if it is ours and has no others.
func (c *clsact) Close() error {
	_, err := c.removeFilters()
	if isGone(err) {
		return nil
	}
	if err != nil || c.ownQdisc == nil {
		return err
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		others, err := netlink.FilterList(c.link(), parent)
		if err != nil || len(others) > 0 {
			return err
		}
	}
	// The kernel lists no filters of an interface that is gone, without an error.
	if err := netlink.QdiscDel(c.ownQdisc); !isGone(err) {
		return err
	}
	return nil
}

func (c *clsact) link() netlink.Link {
	return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: c.ifindex}}
}

// filters returns our filters at the interface.
func (c *clsact) filters() (ours []*netlink.BpfFilter, err error) {
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := netlink.FilterList(c.link(), parent)
		if err != nil {
			return nil, fmt.Errorf("list clsact filters: %w", err)
		}
		for _, f := range filters {
			if one, ok := f.(*netlink.BpfFilter); ok && one.Name == c.filter.name {
				ours = append(ours, one)
			}
		}
	}
	return ours, nil
}

// removeFilters returns how many it removed.
func (c *clsact) removeFilters() (removed int, err error) {
	ours, err := c.filters()
	if err != nil {
		return 0, err
	}
	for _, f := range ours {
		if err := netlink.FilterDel(f); err != nil {
			return removed, fmt.Errorf("remove clsact filter: %w", err)
		}
		removed++
	}
	return removed, nil
}

// isGone reports whether the interface, the qdisc or the filter does not exist.
func isGone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL)
}

// packetSocket is a packet socket with a socket filter, the paper's method
// (section 6.2). The program accepts nothing, so the socket queues no packets.
type packetSocket int

// arrivingOnly: a packet that leaves through a loopback device also arrives.
func attachSocketFilter(ifindex int, program *ebpf.Program, arrivingOnly bool) (attachment, error) {
	// Protocol 0 until the filter is attached, so that no packet is queued.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket (CAP_NET_RAW): %w", err)
	}
	s := packetSocket(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, program.FD()); err != nil {
		if errors.Is(err, unix.ENOMEM) {
			err = fmt.Errorf("%w: the program exceeds the option memory of a socket (set sysctl net.core.optmem_max=131072, the default of newer kernels)", err)
		}
		return nil, errors.Join(fmt.Errorf("attach socket filter: %w", err), s.Close())
	}
	if arrivingOnly {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return nil, errors.Join(fmt.Errorf("ignore the packets that leave (requires Linux 4.20): %w", err), s.Close())
		}
	}
	all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifindex}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind packet socket: %w", err), s.Close())
	}
	return s, nil
}

// Close closes the socket, which also detaches the filter.
func (s packetSocket) Close() error { return unix.Close(int(s)) }
