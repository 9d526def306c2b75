// SPDX-License-Identifier: Apache-2.0

package behind

import (
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routes finds a pod's address by the host route to it: CNIs that route (the
// ptp plugin and kindnet, Calico, Cilium with endpoint routes, those of GKE and
// EKS) have one for each pod, straight through its interface. All tables count,
// as some keep theirs in one of their own.
func routes(nl *netlink.Handle, links map[int]bool, found Found) error {
	everyTable := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	for _, family := range families {
		err := nl.RouteListFilteredIter(family, everyTable, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			if links[r.LinkIndex] && r.Type == unix.RTN_UNICAST && r.Gw == nil && r.Dst != nil {
				if ones, bits := r.Dst.Mask.Size(); ones == bits && bits > 0 {
					found.address(r.LinkIndex, r.Dst.IP)
				}
			}
			return true
		})
		if err := partial(err); err != nil {
			return err
		}
	}
	return nil
}
