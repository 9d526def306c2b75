// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/layertrace/layertrace/bpf"
)

// Foreign is a program of someone else that gets the packets of an interface before
// ours do. If it redirects them, drops them or ends the chain (TCX_PASS), ours do not
// run, and no counter of theirs can show it.
type Foreign struct {
	// Hook is where it is attached: xdp, tcx-ingress, tcx-egress, clsact-ingress,
	// clsact-egress or netkit-peer.
	Hook string
	// Program is its name, or its number if the name may not be read (it takes
	// CAP_SYS_ADMIN).
	Program string
}

// Ahead returns the programs of others that get the packets of a captured interface
// first, in the order of the packets.
func (p *Probe) Ahead(ifindex int) ([]Foreign, error) {
	p.mu.Lock()
	mode := p.mode
	ours, err := p.kernel.owned()
	p.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return ahead(ifindex, mode, func(id ebpf.ProgramID) bool { return ours[id] })
}

// AheadOfAny is Ahead for an agent in another process, whose programs have the same
// names. It returns only XDP and netkit programs where no agent captures.
func AheadOfAny(ifindex int) ([]Foreign, error) {
	return ahead(ifindex, ModeTCX, func(id ebpf.ProgramID) bool {
		name := programName(id)
		return name == bpf.CaptureProgCaptureIn || name == bpf.CaptureProgCaptureOut ||
			strings.HasPrefix(name, bpf.CaptureProgCaptureIn+"_") || strings.HasPrefix(name, bpf.CaptureProgCaptureOut+"_")
	})
}

// directions are those of a packet, as hooks are named and attached.
var directions = []struct {
	name   string
	tcx    ebpf.AttachType
	clsact uint32
}{
	{"ingress", ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS},
	{"egress", ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS},
}

func ahead(ifindex int, mode Mode, ours func(ebpf.ProgramID) bool) (all []Foreign, err error) {
	device, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return nil, fmt.Errorf("find interface %d: %w", ifindex, err)
	}
	if xdp := device.Attrs().Xdp; xdp != nil && xdp.Attached {
		all = append(all, Foreign{"xdp", programTitle(ebpf.ProgramID(xdp.ProgId))})
	}
	if device.Type() == "netkit" { // a pod's packets pass it before they arrive here
		ids, err := programsAt(ifindex, ebpf.AttachNetkitPeer)
		if err != nil {
			return nil, err
		}
		all = append(all, foreign("netkit-peer", ids)...)
	}
	for _, d := range directions {
		if mode == ModeSocketFilter && d.clsact == netlink.HANDLE_MIN_INGRESS {
			continue // packet sockets get arriving packets first
		}
		ids, err := programsAt(ifindex, d.tcx)
		if err != nil {
			return nil, err
		}
		if mode == ModeTCX || mode == ModeAuto {
			ids = before(ids, ours)
		}
		all = append(all, foreign("tcx-"+d.name, ids)...)
		if mode == ModeClsact || mode == ModeSocketFilter {
			filters, err := filtersAhead(device, d.clsact)
			if err != nil {
				return nil, err
			}
			for _, name := range filters {
				all = append(all, Foreign{"clsact-" + d.name, name})
			}
		}
	}
	return all, nil
}

// programsAt returns the programs at a hook in their order, none on a kernel without
// the hook.
func programsAt(ifindex int, hook ebpf.AttachType) (ids []ebpf.ProgramID, err error) {
	found, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: hook})
	switch {
	case err == nil:
	case errors.Is(err, ebpf.ErrNotSupported), isGone(err): // also EINVAL: unknown hook
		return nil, nil
	default:
		return nil, fmt.Errorf("list the programs at %s of interface %d: %w", hook, ifindex, err)
	}
	for _, p := range found.Programs {
		ids = append(ids, p.ID)
	}
	return ids, nil
}

// before returns the programs before the first of ours, none if ours is not there.
func before(ids []ebpf.ProgramID, ours func(ebpf.ProgramID) bool) []ebpf.ProgramID {
	for i, id := range ids {
		if ours(id) {
			return ids[:i]
		}
	}
	return nil
}

// filtersAhead returns the names of clsact's filters before ours, or of all.
func filtersAhead(device netlink.Link, parent uint32) (names []string, err error) {
	filters, err := netlink.FilterList(device, parent)
	if err != nil {
		if isGone(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("list clsact filters: %w", err)
	}
	for _, f := range filters {
		name := f.Type()
		if b, ok := f.(*netlink.BpfFilter); ok {
			if name = b.Name; name == captureFilter.name {
				break
			}
		}
		names = append(names, name)
	}
	return names, nil
}

// attachedHere has the numbers of all programs that this process has attached with TCX: it may
// not be able to read their names.
var attachedHere sync.Map // of ebpf.ProgramID

func noteAttached(p *ebpf.Program) {
	if info, err := p.Info(); err == nil {
		if id, ok := info.ID(); ok {
			attachedHere.Store(id, true)
		}
	}
}

func foreign(hook string, ids []ebpf.ProgramID) (all []Foreign) {
	for _, id := range ids {
		// Those for encrypted connections are ours too: packets go on to the next.
		if _, ours := attachedHere.Load(id); ours {
			continue
		}
		if title := programTitle(id); !strings.HasPrefix(title, bpf.EncryptedProgEncryptedIn) && !strings.HasPrefix(title, bpf.EncryptedProgEncryptedOut) {
			all = append(all, Foreign{hook, title})
		}
	}
	return all
}

func programTitle(id ebpf.ProgramID) string {
	if name := programName(id); name != "" {
		return name
	}
	return fmt.Sprintf("program %d", id)
}

// programName returns a program's name, "" if it may not be read or has none. Tests replace
// it.
var programName = func(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return ""
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return ""
	}
	return info.Name
}
