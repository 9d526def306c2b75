// SPDX-License-Identifier: Apache-2.0

package behind

import "github.com/vishvananda/netlink"

// reachable are the states of a neighbour entry that was confirmed once.
const reachable = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT

// neighbours finds the addresses that were resolved through an interface
// itself, where a route to a whole prefix leads there.
func neighbours(nl *netlink.Handle, links map[int]bool, found Found) error {
	return eachNeighbour(nl, func(n *netlink.Neigh) {
		if links[n.LinkIndex] {
			found.address(n.LinkIndex, n.IP)
		}
	})
}

// eachNeighbour calls use with all confirmed entries of the ARP and NDP tables.
func eachNeighbour(nl *netlink.Handle, use func(*netlink.Neigh)) error {
	for _, family := range families {
		entries, err := nl.NeighList(0, family)
		if err := partial(err); err != nil {
			return err
		}
		for i := range entries {
			if e := &entries[i]; e.State&reachable != 0 && len(e.HardwareAddr) != 0 && !e.IP.IsMulticast() {
				use(e)
			}
		}
	}
	return nil
}
