// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// filterName marks our filters, so that those of a killed agent are found.
const filterName = "layertrace"

// filterPriority is low in number (early): a CNI's program may end the chain.
const filterPriority = 1

// attachClsact is for kernels before 6.6. Filters outlive the process, so an
// older one of ours is taken off first; the clsact qdisc stays only when
// somebody else has filters on it or had made it.
func attachClsact(ifindex int, in, out *ebpf.Program) (attachment, error) {
	c := &clsact{ifindex: ifindex}
	if err := c.removeFilters(); err != nil && !isGone(err) {
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
		filter := &netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: ifindex,
				Parent:    parent,
				Protocol:  unix.ETH_P_ALL,
				Priority:  filterPriority,
			},
			Fd:           program.FD(),
			Name:         filterName,
			DirectAction: true,
		}
		if err := netlink.FilterAdd(filter); err != nil {
			return nil, errors.Join(fmt.Errorf("add clsact filter: %w", err), c.Close())
		}
	}
	return c, nil
}

type clsact struct {
	ifindex  int
	ownQdisc netlink.Qdisc
}

// Close removes the filters, and the qdisc if it was ours and nobody uses it.
func (c *clsact) Close() error {
	err := c.removeFilters()
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
	return netlink.QdiscDel(c.ownQdisc)
}

func (c *clsact) link() netlink.Link {
	return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: c.ifindex}}
}

func (c *clsact) removeFilters() error {
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := netlink.FilterList(c.link(), parent)
		if err != nil {
			return fmt.Errorf("list clsact filters: %w", err)
		}
		for _, f := range filters {
			ours, ok := f.(*netlink.BpfFilter)
			if !ok || ours.Name != filterName {
				continue
			}
			if err := netlink.FilterDel(ours); err != nil {
				return fmt.Errorf("remove clsact filter: %w", err)
			}
		}
	}
	return nil
}

// isGone reports that the interface, the qdisc or the filter is not there.
func isGone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL)
}
