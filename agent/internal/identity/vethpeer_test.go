// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/layertrace/layertrace/internal/testkit"
)

// findBy returns what one finder finds at one interface.
func findBy(t *testing.T, host *space, name string, index int) *peerEvidence {
	t.Helper()
	for _, f := range peerFinders() {
		if f.name == name {
			found, err := f.peers(host.Links, []int{index})
			if err != nil {
				t.Fatal(err)
			}
			if len(found) > 1 || len(found) == 1 && found[index] == nil {
				t.Errorf("%s found unrequested interfaces: %v", name, found)
			}
			if found[index] == nil {
				return &peerEvidence{}
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

// The ptp plugin, kindnet, Calico, GKE: a host route per address.
func TestRoutes(t *testing.T) {
	host, pod, other := newSpace(t), newSpace(t), newSpace(t)
	veth := host.pair(t, "veth1", pod)
	decoy := host.pair(t, "veth2", other)
	host.route(t, veth, "10.1.0.2/32", "", 0)
	host.route(t, veth, "fd00::2/128", "", 0)
	host.route(t, veth, "10.1.0.3/32", "", 100) // the CNI's own table
	host.route(t, veth, "10.2.0.0/24", "", 0)   // a network, as via a router
	host.route(t, decoy, "10.1.0.9/32", "", 0)
	host.route(t, veth, "10.3.0.1/32", "10.1.0.2", 0) // beyond the pod
	got := findBy(t, host, "routes", veth).addresses
	slices.SortFunc(got, netip.Addr.Compare)
	if want := addresses("10.1.0.2", "10.1.0.3", "fd00::2"); !slices.Equal(got, want) {
		t.Errorf("at the interface: %v, want %v", got, want)
	}
}

// The bridge plugin: the port where the bridge learned a MAC address, from real
// packets.
func TestBridge(t *testing.T) {
	host, pod, other := newSpace(t), newSpace(t), newSpace(t)
	bridge := host.bridge(t, "cni0", "10.1.0.1/24")
	veth, decoy := host.port(t, "veth1", bridge, pod, "10.1.0.2/24"), host.port(t, "veth2", bridge, other, "10.1.0.3/24")
	if got := findBy(t, host, "bridge", veth).addresses; len(got) != 0 {
		t.Errorf("before any packet: %v", got)
	}
	host.talk(t, pod, "10.1.0.2")
	host.talk(t, other, "10.1.0.3")
	if got := findBy(t, host, "bridge", veth).addresses; !slices.Equal(got, addresses("10.1.0.2")) {
		t.Errorf("at the interface: %v", got)
	}
	if got := findBy(t, host, "bridge", decoy).addresses; !slices.Equal(got, addresses("10.1.0.3")) {
		t.Errorf("at the other interface: %v", got)
	}
	if got := findBy(t, host, "neighbours", veth).addresses; len(got) != 0 {
		t.Errorf("neighbours of a port of a bridge: %v", got)
	}
	loose := host.pair(t, "veth3", other)
	if got := findBy(t, host, "bridge", loose).addresses; len(got) != 0 {
		t.Errorf("at an interface without a bridge: %v", got)
	}
}

// With a route to a network, the addresses resolved on the interface count.
func TestNeighbours(t *testing.T) {
	host, pod := newSpace(t), newSpace(t)
	veth := host.pair(t, "veth1", pod)
	host.address(t, "veth1", "10.1.0.1/24")
	pod.address(t, "eth0", "10.1.0.2/24")
	host.talk(t, pod, "10.1.0.2")
	if got := findBy(t, host, "neighbours", veth).addresses; !slices.Equal(got, addresses("10.1.0.2")) {
		t.Errorf("at the interface: %v", got)
	}
	// An address that does not exist leaves a failed or incomplete entry.
	n := &netlink.Neigh{LinkIndex: veth, Family: netlink.FAMILY_V4, State: netlink.NUD_FAILED, IP: net.ParseIP("10.1.0.77")}
	if err := host.Links.NeighAdd(n); err != nil {
		t.Fatal(err)
	}
	if got := findBy(t, host, "neighbours", veth).addresses; len(got) != 1 {
		t.Errorf("with a failed entry: %v", got)
	}
}

// The cgroup of a process in the peer's namespace identifies the pod.
func TestNamespaces(t *testing.T) {
	const uid = "11111111-2222-3333-4444-555555555555"
	host, pod, empty := newSpace(t), newSpace(t), newSpace(t)
	veth, lonely := host.pair(t, "veth1", pod), host.pair(t, "veth2", empty)
	pid := pod.process(t)
	proc := fakeProc(t, map[int]string{
		pid:         "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod11111111_2222_3333_4444_555555555555.slice/cri-containerd-1.scope\n",
		os.Getpid(): "0::/kubepods/pod99999999-2222-3333-4444-555555555555/1\n", // in this namespace, not a pod's
		1 << 22:     "0::/kubepods/pod88888888-2222-3333-4444-555555555555/1\n", // ended
	})
	found := peersFound{}
	if err := peersByNamespace(host.Links, proc, map[int]bool{veth: true, lonely: true}, found); err != nil {
		t.Fatal(err)
	}
	if got := found.at(veth).podUIDs; !slices.Equal(got, []string{uid}) {
		t.Errorf("at the interface: %v", got)
	}
	if got := found.at(lonely).podUIDs; len(got) != 0 {
		t.Errorf("at the interface to an empty namespace: %v", got)
	}
}

// fakeProc returns a substitute for /proc with cgroup files as under a kubelet,
// for real process IDs.
func fakeProc(t *testing.T, cgroups map[int]string) string {
	t.Helper()
	dir := t.TempDir()
	for pid, text := range cgroups {
		sub := filepath.Join(dir, strconv.Itoa(pid))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, "cgroup"), []byte(text), 0o644); err != nil {
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
	f := peerFinder{name: "x", find: func(_ *netlink.Handle, _ map[int]bool, found peersFound) error {
		found.addAddress(3, net.ParseIP("::ffff:10.0.0.1"))
		return fmt.Errorf("broke")
	}}
	found, err := f.peers(nil, []int{3})
	if err == nil || !slices.Equal(found[3].addresses, addresses("10.0.0.1")) {
		t.Errorf("found %v, error %v", found, err)
	}
	if err := ignorePartial(netlink.ErrDumpInterrupted); err != nil {
		t.Errorf("an interrupted dump: %v", err)
	}
}

// space is a network namespace of the test.
type space struct{ *testkit.Namespace }

func newSpace(t *testing.T) *space {
	t.Helper()
	return &space{testkit.NewNamespace(t)}
}

// pair connects the namespace to a pod's with a veth and returns the index of
// the host's end. The pod's end is eth0, or name if eth0 exists.
func (s *space) pair(t *testing.T, name string, pod *space) int {
	t.Helper()
	peer := "eth0"
	if _, err := pod.Links.LinkByName(peer); err == nil {
		peer = name
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := s.Links.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerNamespace: netlink.NsFd(pod.NS)}); err != nil {
		t.Fatal(err)
	}
	pod.up(t, peer)
	return s.up(t, name)
}

func (s *space) up(t *testing.T, name string) int {
	t.Helper()
	link, err := s.Links.LinkByName(name)
	if err == nil {
		err = s.Links.LinkSetUp(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs().Index
}

func (s *space) address(t *testing.T, name, cidr string) {
	t.Helper()
	link, err := s.Links.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(cidr)
	if err == nil {
		err = s.Links.AddrAdd(link, addr)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (s *space) bridge(t *testing.T, name, cidr string) int {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := s.Links.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	s.address(t, name, cidr)
	return s.up(t, name)
}

// port connects a pod with an address to a bridge.
func (s *space) port(t *testing.T, name string, bridge int, pod *space, cidr string) int {
	t.Helper()
	index := s.pair(t, name, pod)
	link, err := s.Links.LinkByIndex(index)
	if err == nil {
		err = s.Links.LinkSetMasterByIndex(link, bridge)
	}
	if err != nil {
		t.Fatal(err)
	}
	pod.address(t, "eth0", cidr)
	return index
}

func (s *space) route(t *testing.T, index int, destination, via string, table int) {
	t.Helper()
	_, dst, err := net.ParseCIDR(destination)
	if err != nil {
		t.Fatal(err)
	}
	r := &netlink.Route{LinkIndex: index, Dst: dst, Table: table, Scope: netlink.SCOPE_LINK}
	if via != "" {
		r.Gw, r.Scope = net.ParseIP(via), netlink.SCOPE_UNIVERSE
	}
	if err := s.Links.RouteAdd(r); err != nil {
		t.Fatalf("route to %s: %v", destination, err)
	}
}

// talk connects to a pod over TCP, so that the kernel resolves its address and
// the bridge learns it.
func (s *space) talk(t *testing.T, pod *space, ip string) {
	t.Helper()
	var listener net.Listener
	pod.Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(ip, "0"))
		return err
	})
	defer listener.Close()
	s.Do(func() error {
		conn, err := net.DialTimeout("tcp", listener.Addr().String(), time.Minute)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// process starts a process in the namespace for the test and returns its ID.
func (s *space) process(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("cat")
	input, err := cmd.StdinPipe() // cat ends when it is closed
	if err != nil {
		t.Fatal(err)
	}
	s.Do(cmd.Start)
	t.Cleanup(func() {
		_ = input.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return cmd.Process.Pid
}
