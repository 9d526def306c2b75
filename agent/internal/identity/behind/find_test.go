// SPDX-License-Identifier: Apache-2.0

package behind

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"
)

// by returns what a finder finds behind one interface.
func by(t *testing.T, host *space, name string, index int) *Evidence {
	t.Helper()
	for _, f := range Finders() {
		if f.Name == name {
			found, err := f.Find(host.nl, []int{index})
			if err != nil {
				t.Fatal(err)
			}
			if len(found) > 1 || len(found) == 1 && found[index] == nil {
				t.Errorf("%s tells about interfaces that were not asked for: %v", name, found)
			}
			if found[index] == nil {
				return &Evidence{}
			}
			return found[index]
		}
	}
	t.Fatalf("no finder %s", name)
	return nil
}

func addresses(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

// The ptp plugin, kindnet, Calico, GKE: a host route for each address.
func TestRoutes(t *testing.T) {
	host, pod, other := newSpace(t), newSpace(t), newSpace(t)
	veth := host.pair(t, "veth1", pod)
	decoy := host.pair(t, "veth2", other)
	host.route(t, veth, "10.1.0.2/32", "", 0)
	host.route(t, veth, "fd00::2/128", "", 0)
	host.route(t, veth, "10.1.0.3/32", "", 100) // a table of the CNI's own
	host.route(t, veth, "10.2.0.0/24", "", 0)   // a network, as through a router
	host.route(t, decoy, "10.1.0.9/32", "", 0)
	host.route(t, veth, "10.3.0.1/32", "10.1.0.2", 0) // further on, behind the pod
	got := by(t, host, "routes", veth).Addresses
	slices.SortFunc(got, netip.Addr.Compare)
	if want := addresses("10.1.0.2", "10.1.0.3", "fd00::2"); !slices.Equal(got, want) {
		t.Errorf("behind the interface are %v, want %v", got, want)
	}
}

// The bridge plugin: the port where a MAC address was learned. Real packets
// fill the tables.
func TestBridge(t *testing.T) {
	host, pod, other := newSpace(t), newSpace(t), newSpace(t)
	bridge := host.bridge(t, "cni0", "10.1.0.1/24")
	veth, decoy := host.port(t, "veth1", bridge, pod, "10.1.0.2/24"), host.port(t, "veth2", bridge, other, "10.1.0.3/24")
	if got := by(t, host, "bridge", veth).Addresses; len(got) != 0 {
		t.Errorf("before any packet: %v", got)
	}
	host.talk(t, pod, "10.1.0.2")
	host.talk(t, other, "10.1.0.3")
	if got := by(t, host, "bridge", veth).Addresses; !slices.Equal(got, addresses("10.1.0.2")) {
		t.Errorf("behind the interface are %v", got)
	}
	if got := by(t, host, "bridge", decoy).Addresses; !slices.Equal(got, addresses("10.1.0.3")) {
		t.Errorf("behind the other interface are %v", got)
	}
	if got := by(t, host, "neighbours", veth).Addresses; len(got) != 0 {
		t.Errorf("neighbours of a port of a bridge: %v", got)
	}
	loose := host.pair(t, "veth3", other)
	if got := by(t, host, "bridge", loose).Addresses; len(got) != 0 {
		t.Errorf("behind an interface without a bridge are %v", got)
	}
}

// A route to a network leads through the interface: what was resolved there.
func TestNeighbours(t *testing.T) {
	host, pod := newSpace(t), newSpace(t)
	veth := host.pair(t, "veth1", pod)
	host.address(t, "veth1", "10.1.0.1/24")
	pod.address(t, "eth0", "10.1.0.2/24")
	host.talk(t, pod, "10.1.0.2")
	if got := by(t, host, "neighbours", veth).Addresses; !slices.Equal(got, addresses("10.1.0.2")) {
		t.Errorf("behind the interface are %v", got)
	}
	// Nobody has this one: asking leaves an entry that failed or never completes.
	n := &netlink.Neigh{LinkIndex: veth, Family: netlink.FAMILY_V4, State: netlink.NUD_FAILED, IP: net.ParseIP("10.1.0.77")}
	if err := host.nl.NeighAdd(n); err != nil {
		t.Fatal(err)
	}
	if got := by(t, host, "neighbours", veth).Addresses; len(got) != 1 {
		t.Errorf("with a failed entry: %v", got)
	}
}

// The process in the peer's namespace tells its pod by its cgroup.
func TestNamespaces(t *testing.T) {
	const uid = "11111111-2222-3333-4444-555555555555"
	host, pod, empty := newSpace(t), newSpace(t), newSpace(t)
	veth, lonely := host.pair(t, "veth1", pod), host.pair(t, "veth2", empty)
	pid := pod.process(t)
	proc := fakeProc(t, map[int]string{
		pid:         "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod11111111_2222_3333_4444_555555555555.slice/cri-containerd-1.scope\n",
		os.Getpid(): "0::/kubepods/pod99999999-2222-3333-4444-555555555555/1\n", // of this namespace, not of a pod's
		1 << 22:     "0::/kubepods/pod88888888-2222-3333-4444-555555555555/1\n", // ended
	})
	found := Found{}
	if err := namespaces(host.nl, proc, map[int]bool{veth: true, lonely: true}, found); err != nil {
		t.Fatal(err)
	}
	if got := found.at(veth).PodUIDs; !slices.Equal(got, []string{uid}) {
		t.Errorf("behind the interface is %v", got)
	}
	if got := found.at(lonely).PodUIDs; len(got) != 0 {
		t.Errorf("behind the interface to an empty namespace is %v", got)
	}
}

// fakeProc stands in for /proc where a process's cgroup would have to be a
// kubelet's: real process IDs, made-up cgroup files.
func fakeProc(t *testing.T, cgroups map[int]string) string {
	t.Helper()
	dir := t.TempDir()
	for pid, text := range cgroups {
		of := filepath.Join(dir, strconv.Itoa(pid))
		if err := os.MkdirAll(of, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(of, "cgroup"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestPodOfCgroup(t *testing.T) {
	const uid = "11111111-2222-3333-4444-555555555555"
	for text, want := range map[string]string{
		"0::/kubepods.slice/kubepods-pod11111111_2222_3333_4444_555555555555.slice":               uid,
		"0::/kubepods/besteffort/pod" + uid + "/0123abcd":                                         uid,
		"12:cpu:/kubepods/pod" + uid + "\n1:name=systemd:/x":                                      uid,
		"0::/../../kubepods-besteffort-pod11111111_2222_3333_4444_555555555555.slice/cri-1.scope": uid,
		"0::/system.slice/containerd.service":                                                     "",
		"0::/kubepods/podx":                                                                       "",
		"":                                                                                        "",
	} {
		if got := podOfCgroup(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// The kernel may lack an address family, and a dump may be interrupted.
func TestFindKeepsWhatItFound(t *testing.T) {
	f := Finder{Name: "x", find: func(_ *netlink.Handle, _ map[int]bool, found Found) error {
		found.address(3, net.ParseIP("::ffff:10.0.0.1"))
		return fmt.Errorf("broke")
	}}
	found, err := f.Find(nil, []int{3})
	if err == nil || !slices.Equal(found[3].Addresses, addresses("10.0.0.1")) {
		t.Errorf("found %v, error %v", found, err)
	}
	if err := partial(netlink.ErrDumpInterrupted); err != nil {
		t.Errorf("an interrupted dump: %v", err)
	}
}
