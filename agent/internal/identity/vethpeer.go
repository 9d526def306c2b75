// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The peer of a host's veth is in a pod's network namespace. Which pod's
// follows from kernel state alone, whatever the CNI: host routes, neighbor
// entries, a bridge's forwarding table, processes in the peer's namespace.

// peerEvidence is what the kernel knows about the peer of one interface.
type peerEvidence struct {
	addresses []netip.Addr // reached through the interface
	podUIDs   []string     // of processes in the peer's network namespace
}

// peersFound is evidence by interface index.
type peersFound map[int]*peerEvidence

func (f peersFound) at(index int) *peerEvidence {
	if f[index] == nil {
		f[index] = &peerEvidence{}
	}
	return f[index]
}

func (f peersFound) addAddress(index int, ip net.IP) {
	if addr, ok := netip.AddrFromSlice(ip); ok {
		e := f.at(index)
		if addr = addr.Unmap(); !slices.Contains(e.addresses, addr) {
			e.addresses = append(e.addresses, addr)
		}
	}
}

func (f peersFound) addPodUID(index int, uid string) {
	if e := f.at(index); !slices.Contains(e.podUIDs, uid) {
		e.podUIDs = append(e.podUIDs, uid)
	}
}

// peerFinder is one method to find veth peers.
type peerFinder struct {
	name string // label value of layertrace_identity_interfaces
	find func(*netlink.Handle, map[int]bool, peersFound) error
}

// peerFinders returns all finders, most reliable first.
func peerFinders() []peerFinder {
	return []peerFinder{
		{"routes", peersByRoute},
		{"neighbours", peersByNeighbour},
		{"bridge", peersByBridge},
		{"namespace", func(nl *netlink.Handle, links map[int]bool, found peersFound) error {
			return peersByNamespace(nl, "/proc", links, found)
		}},
	}
}

// peers finds the peers of links in the network namespace of nl. The result is
// valid, though incomplete, even with an error.
func (f peerFinder) peers(nl *netlink.Handle, links []int) (peersFound, error) {
	wanted, found := map[int]bool{}, peersFound{}
	for _, index := range links {
		wanted[index] = true
	}
	if err := f.find(nl, wanted, found); err != nil {
		return found, fmt.Errorf("find veth peers by %s: %w", f.name, err)
	}
	return found, nil
}

// families are the address families of pods.
var families = [...]int{netlink.FAMILY_V4, netlink.FAMILY_V6}

// ignorePartial drops harmless errors of a netlink dump: an interrupted dump
// is valid and the next one is complete, and a kernel may lack IPv6.
func ignorePartial(err error) error {
	if errors.Is(err, netlink.ErrDumpInterrupted) || errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EOPNOTSUPP) {
		return nil
	}
	return err
}

// peersByRoute looks for host routes. CNIs that route (the ptp plugin and
// kindnet, Calico, Cilium with endpoint routes, those of GKE and EKS) have one
// per pod, through the pod's interface and without a gateway. Some use a
// routing table of their own, so all tables count.
func peersByRoute(nl *netlink.Handle, links map[int]bool, found peersFound) error {
	everyTable := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	for _, family := range families {
		err := nl.RouteListFilteredIter(family, everyTable, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			if links[r.LinkIndex] && r.Type == unix.RTN_UNICAST && r.Gw == nil && r.Dst != nil {
				if ones, bits := r.Dst.Mask.Size(); ones == bits && bits > 0 {
					found.addAddress(r.LinkIndex, r.Dst.IP)
				}
			}
			return true
		})
		if err := ignorePartial(err); err != nil {
			return err
		}
	}
	return nil
}

// peersByNeighbour looks for addresses resolved on the interface itself, which
// is where a CNI routes a whole prefix to it.
func peersByNeighbour(nl *netlink.Handle, links map[int]bool, found peersFound) error {
	return eachNeighbour(nl, func(n *netlink.Neigh) {
		if links[n.LinkIndex] {
			found.addAddress(n.LinkIndex, n.IP)
		}
	})
}

// confirmed are the states of a neighbour entry that was reachable once.
const confirmed = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT

// eachNeighbour calls use with all confirmed entries of the ARP and NDP tables.
func eachNeighbour(nl *netlink.Handle, use func(*netlink.Neigh)) error {
	for _, family := range families {
		entries, err := nl.NeighList(0, family)
		if err := ignorePartial(err); err != nil {
			return err
		}
		for i := range entries {
			if e := &entries[i]; e.State&confirmed != 0 && len(e.HardwareAddr) != 0 && !e.IP.IsMulticast() {
				use(e)
			}
		}
	}
	return nil
}

// peersByBridge finds pods on a bridge (bridge plugin, flannel): the bridge's
// forwarding table maps its port to a MAC address, its ARP and NDP tables map
// that to an IP address.
func peersByBridge(nl *netlink.Handle, links map[int]bool, found peersFound) error {
	masters, own, err := bridgePorts(nl, links)
	if err != nil || len(masters) == 0 {
		return err
	}
	entries, err := nl.NeighList(0, unix.AF_BRIDGE)
	if err := ignorePartial(err); err != nil {
		return err
	}
	type station struct {
		bridge int
		mac    string
	}
	learned := map[station]int{} // -> port
	for _, e := range entries {
		if master, ok := masters[e.LinkIndex]; ok && e.State&netlink.NUD_PERMANENT == 0 && !own[string(e.HardwareAddr)] && !isMulticast(e.HardwareAddr) {
			learned[station{master, string(e.HardwareAddr)}] = e.LinkIndex
		}
	}
	return eachNeighbour(nl, func(n *netlink.Neigh) {
		if port, ok := learned[station{n.LinkIndex, string(n.HardwareAddr)}]; ok {
			found.addAddress(port, n.IP)
		}
	})
}

// bridgePorts returns the bridge of each link that is a bridge port, and the
// MAC addresses of this namespace's own links.
func bridgePorts(nl *netlink.Handle, links map[int]bool) (masters map[int]int, own map[string]bool, err error) {
	all, err := nl.LinkList()
	if err := ignorePartial(err); err != nil {
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

func isMulticast(mac net.HardwareAddr) bool { return len(mac) == 0 || mac[0]&1 != 0 }

// peersByNamespace looks for processes of pods in the peers' network
// namespaces. The kernel numbers the namespaces it refers to
// (IFLA_LINK_NETNSID, and RTM_GETNSID for a process); the process's cgroup
// contains the pod's UID. It needs to see the host's processes (hostPID), and
// no privilege; without hostPID it finds nothing.
func peersByNamespace(nl *netlink.Handle, proc string, links map[int]bool, found peersFound) error {
	peers, err := peerNamespaces(nl, links)
	if err != nil || len(peers) == 0 {
		return err
	}
	processes, err := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, dir := range processes {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		id, err := nl.GetNetNsIdByPid(pid)
		if err != nil || len(peers[id]) == 0 { // an error: the process has ended
			continue
		}
		cgroups, err := os.ReadFile(filepath.Join(dir, "cgroup"))
		if err != nil {
			continue
		}
		if uid := podOfCgroup(string(cgroups)); uid != "" {
			for _, index := range peers[id] {
				found.addPodUID(index, uid)
			}
		}
	}
	return nil
}

// peerNamespaces returns the links by the ID of their peer's namespace.
func peerNamespaces(nl *netlink.Handle, links map[int]bool) (map[int][]int, error) {
	all, err := nl.LinkList()
	if err := ignorePartial(err); err != nil {
		return nil, err
	}
	peers := map[int][]int{}
	for _, l := range all {
		if a := l.Attrs(); links[a.Index] && l.Type() == "veth" && a.NetNsID >= 0 {
			peers[a.NetNsID] = append(peers[a.NetNsID], a.Index)
		}
	}
	return peers, nil
}

// podCgroup matches the pod's part of a cgroup path as written by the
// kubelet's drivers: kubepods-burstable-pod1234_....slice (systemd) or
// /pod1234-.../ (cgroupfs).
var podCgroup = regexp.MustCompile(`pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})(\.slice|/|$)`)

// podOfCgroup returns the pod UID in the content of a /proc/PID/cgroup, or "".
func podOfCgroup(cgroups string) string {
	for line := range strings.Lines(cgroups) {
		if m := podCgroup.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			return strings.ReplaceAll(m[1], "_", "-")
		}
	}
	return ""
}
