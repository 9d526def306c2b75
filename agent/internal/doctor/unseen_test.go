// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"bytes"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/agent/internal/unseen"
)

// The metrics of a running agent are part of the report; without one there is none.
func TestAgentsMetricsInReport(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte("# TYPE layertrace_packets_encapsulated_total counter\nlayertrace_packets_encapsulated_total{kind=\"ipip\"} 5\n"))
	}))
	defer server.Close()
	var r Report
	r.lookAround(t.Context(), server.Listener.Addr().String())
	if len(r.Unseen) == 0 || r.Unseen[0].String() != "5 packets in IPIP" || r.UnseenProblem != "" {
		t.Errorf("%+v", r)
	}
	var text bytes.Buffer
	if err := r.WriteText(&text, 0); err != nil || !strings.Contains(text.String(), "Not read here:\n- 5 packets in IPIP: ") {
		t.Errorf("%v: %s", err, text.String())
	}

	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	for address, problem := range map[string]string{
		free.Addr().String(): "", "": "", "127.0.0.1:x": "--metrics-address", server.Listener.Addr().String() + "/no": "404",
	} {
		var r Report
		r.lookAround(t.Context(), address)
		if (problem == "") != (r.UnseenProblem == "") || !strings.Contains(r.UnseenProblem, problem) {
			t.Errorf("%q: %q", address, r.UnseenProblem)
		}
		if slices.ContainsFunc(r.Unseen, func(s unseen.Sight) bool { return s.Count > 0 && !s.IsProgram() }) {
			t.Errorf("%q: %v", address, r.Unseen)
		}
	}
}

// Overlay devices that are up, and XDP programs, are found.
func TestInterfacesInReport(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with its namespace
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	vxlan := func(name string, id int) *netlink.Vxlan {
		device := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: name}, VxlanId: id, Port: 4789}
		if err := netlink.LinkAdd(device); err != nil {
			t.Fatal(err)
		}
		return device
	}
	up := vxlan("overlay", 1)
	vxlan("down", 2)
	if err := netlink.LinkSetUp(up); err != nil {
		t.Fatal(err)
	}
	p, err := load(ebpf.XDP, ebpf.AttachNone, "", 2)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	l, err := link.AttachXDP(link.XDPOptions{Interface: loopback, Program: p, Flags: link.XDPGenericMode})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	found, err := examineInterfaces()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range found {
		got = append(got, s.String())
	}
	if want := []string{"BPF program doctor ahead at xdp of lo", "device overlay of VXLAN"}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}
