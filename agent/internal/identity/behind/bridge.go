// SPDX-License-Identifier: Apache-2.0

package behind

import (
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bridge finds a pod on a bridge (the bridge plugin, flannel): the forwarding
// table has the MAC address that the bridge learned at the port, the ARP and
// NDP tables of the bridge the IP address that goes with it.
func bridge(nl *netlink.Handle, links map[int]bool, found Found) error {
	masters, own, err := ports(nl, links)
	if err != nil || len(masters) == 0 {
		return err
	}
	entries, err := nl.NeighList(0, unix.AF_BRIDGE)
	if err := partial(err); err != nil {
		return err
	}
	type station struct {
		bridge int
		mac    string
	}
	learned := map[station]int{} // -> port
	for _, e := range entries {
		if master, ok := masters[e.LinkIndex]; ok && e.State&netlink.NUD_PERMANENT == 0 && !own[string(e.HardwareAddr)] && !multicast(e.HardwareAddr) {
			learned[station{master, string(e.HardwareAddr)}] = e.LinkIndex
		}
	}
	return eachNeighbour(nl, func(n *netlink.Neigh) {
		if port, ok := learned[station{n.LinkIndex, string(n.HardwareAddr)}]; ok {
			found.address(port, n.IP)
		}
	})
}

// ports returns the bridge of each of the links that is a port of one, and the
// MAC addresses of this namespace's own links.
func ports(nl *netlink.Handle, links map[int]bool) (masters map[int]int, own map[string]bool, err error) {
	all, err := nl.LinkList()
	if err := partial(err); err != nil {
		return nil, nil, err
	}
	bridges := map[int]bool{}
	masters, own = map[int]int{}, map[string]bool{}
	for _, l := range all {
		own[string(l.Attrs().HardwareAddr)] = true
		bridges[l.Attrs().Index] = l.Type() == "bridge"
	}
	for _, l := range all {
		if a := l.Attrs(); links[a.Index] && bridges[a.MasterIndex] {
			masters[a.Index] = a.MasterIndex
		}
	}
	return masters, own, nil
}

func multicast(mac net.HardwareAddr) bool { return len(mac) == 0 || mac[0]&1 != 0 }
