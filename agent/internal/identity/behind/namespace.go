// SPDX-License-Identifier: Apache-2.0

package behind

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
)

// namespaces finds the pods whose processes are in the network namespace of an
// interface's peer. The kernel numbers the namespaces that it mentions
// (IFLA_LINK_NETNSID) and tells the number of a process's one (RTM_GETNSID);
// the process's cgroup has the pod's UID. It needs to see the host's processes
// (hostPID), and no further right: without, it finds nothing.
func namespaces(nl *netlink.Handle, proc string, links map[int]bool, found Found) error {
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
		if err != nil || len(peers[id]) == 0 { // an error: it has ended meanwhile
			continue
		}
		cgroups, err := os.ReadFile(filepath.Join(dir, "cgroup"))
		if err != nil {
			continue
		}
		if uid := podOfCgroup(string(cgroups)); uid != "" {
			for _, index := range peers[id] {
				found.podUID(index, uid)
			}
		}
	}
	return nil
}

// peerNamespaces returns the links by the ID of their peer's namespace.
func peerNamespaces(nl *netlink.Handle, links map[int]bool) (map[int][]int, error) {
	all, err := nl.LinkList()
	if err := partial(err); err != nil {
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

// podCgroup matches the pod's part of a cgroup path, as the kubelet's two
// drivers write it: kubepods-burstable-pod1234_....slice, or /pod1234-.../.
var podCgroup = regexp.MustCompile(`pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})(\.slice|/|$)`)

// podOfCgroup returns the UID of the pod that a process belongs to, by its
// /proc/PID/cgroup, or "".
func podOfCgroup(cgroups string) string {
	for line := range strings.Lines(cgroups) {
		if m := podCgroup.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			return strings.ReplaceAll(m[1], "_", "-")
		}
	}
	return ""
}
