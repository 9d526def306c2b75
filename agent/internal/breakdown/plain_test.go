// SPDX-License-Identifier: Apache-2.0

package breakdown_test

import (
	"net/netip"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// box is a machine without pods: services on one or more network namespaces.
type box struct{ all []observe.Observation }

const host, other = 4026531840, 4026532222

// see adds an observation of a request that begins at a time and ends at another. Both
// messages take 10 ns per step.
func (b *box) see(p observe.Point, socket *observe.Socket, span byte, client, server string, begin, end uint64) {
	o := observe.Observation{Point: &p, Socket: socket, Status: 200, Wall: int64(begin)}
	p.Node = "box"
	o.Client, o.Server = netip.MustParseAddrPort(client), netip.MustParseAddrPort(server)
	o.Context.TraceID, o.Context.SpanID = tracecontext.TraceID{1}, tracecontext.SpanID{span}
	o.Request = observe.Message{First: begin, Last: begin, Packets: 1, Bytes: 100}
	o.Response = observe.Message{First: end, Last: end, Packets: 1, Bytes: 100}
	if socket != nil {
		before, after := observe.Extent{First: begin + 10, Last: begin + 10}, observe.Extent{First: end - 10, Last: end - 10}
		if socket.Client {
			before, after = observe.Extent{First: begin - 10, Last: begin - 10}, observe.Extent{First: end + 10, Last: end + 10}
		}
		o.Request.App, o.Response.App = before, after
	}
	b.all = append(b.all, o)
}

func (b *box) socket(netns uint32, service string, isClient bool, span byte, client, server string, begin, end uint64) {
	b.see(observe.Point{
		ID: observe.SocketPointID("box", netns, service), Kind: observe.KindSocket, Process: observe.AppProcess,
		Workload: observe.Workload{Service: service},
	}, &observe.Socket{Netns: netns, Client: isClient}, span, client, server, begin, end)
}

// hop adds a request between two services of a namespace, over loopback, which a
// loopback device saw too if seen is set.
func (b *box) hop(netns uint32, seen bool, from, to string, span byte, client, server string, begin, end uint64) {
	b.socket(netns, from, true, span, client, server, begin, end)
	if seen {
		b.see(observe.Point{ID: "box/1", Kind: observe.KindVNIC, Interface: "lo"}, nil, span, client, server, begin+5, end-5)
		b.all[len(b.all)-1].Direction = observe.DirectionEgress
	}
	b.socket(netns, to, false, span, client, server, begin+10, end-10)
}

// Services that share a network namespace are not one: a hop between them has two ends,
// and the loopback device between these separates no layers.
func TestServicesOnLoopback(t *testing.T) {
	for _, seen := range []bool{false, true} {
		b := &box{}
		b.hop(host, seen, "curl", "nginx", 1, "127.0.0.1:40000", "127.0.0.1:80", 1000, 9000)
		b.hop(host, seen, "nginx", "app", 1, "127.0.0.1:40001", "127.0.0.1:9000", 2000, 8000)
		tree := breakdown.Split(b.all, nil)
		if len(tree.Roots) != 1 || len(tree.Hops) != 2 {
			t.Fatalf("lo seen %v: %d roots, %d hops, want 1 and 2", seen, len(tree.Roots), len(tree.Hops))
		}
		for i, want := range [][2]string{{"curl", "nginx"}, {"nginx", "app"}} {
			if h := tree.Hops[i]; h.ClientService() != want[0] || h.ServerService() != want[1] || len(h.Notes) != 0 {
				t.Errorf("lo seen %v: hop %d is %s to %s, notes %q", seen, i, h.ClientService(), h.ServerService(), h.Notes)
			}
		}
		want := map[string]uint64{
			"application app": 5960, "application nginx": 970 + 970,
			// Sending and receiving: 10 ns per queue and for the way between the stacks.
			"protocol-stack curl": 10 + 10 + 10, "protocol-stack nginx": (10 + 10 + 10) + (10 + 10 + 10), "protocol-stack app": 10 + 10 + 10,
		}
		got := times(tree)
		for name, ns := range want {
			if got[name] != ns {
				t.Errorf("lo seen %v: %s %d ns, want %d", seen, name, got[name], ns)
			}
			delete(got, name)
		}
		if len(got) != 0 {
			t.Errorf("lo seen %v: also %v", seen, got)
		}
		checkSums(t, tree)
	}
}

// Two namespaces can have the same loopback connection at the same time. Their hops are
// two, and what a loopback device saw belongs to neither.
func TestLoopbackOfTwoNamespaces(t *testing.T) {
	b := &box{}
	b.hop(host, false, "a", "b", 1, "127.0.0.1:40000", "127.0.0.1:80", 1000, 9000)
	b.hop(other, false, "c", "d", 1, "127.0.0.1:40000", "127.0.0.1:80", 2000, 8000)
	b.see(observe.Point{ID: "box/1", Kind: observe.KindVNIC, Interface: "lo"}, nil, 1, "127.0.0.1:40000", "127.0.0.1:80", 1005, 8995)
	tree := breakdown.Split(b.all, nil)
	ends := map[string]string{}
	for _, h := range tree.Hops {
		if h.Sender != nil {
			ends[h.ClientService()] = h.ServerService()
			if h.ServerVNIC != nil || h.ClientVNIC != nil {
				t.Errorf("the hop of %s has the loopback device", h.ClientService())
			}
		}
	}
	if len(tree.Hops) != 3 || ends["a"] != "b" || ends["c"] != "d" {
		t.Errorf("%d hops, ends %v", len(tree.Hops), ends)
	}
}

// A program may use one port for connections to two servers. If both are redirected to the
// sidecar, it sees one of them come from another port.
func TestRedirectedFromATakenPort(t *testing.T) {
	for name, c := range map[string]struct {
		netns uint32 // of the second attempt, which the sidecar sees from port 40899
		begin uint64
		joins bool
	}{
		"one":                       {0, 0, true},
		"another one, at that time": {host, 2000, false},
		"another one, later":        {host, 9500, true},
		"of another pod":            {other, 2000, true},
	} {
		b := &box{}
		b.socket(host, "app", true, 1, "10.0.0.1:40000", "10.0.0.7:80", 1000, 9000)
		b.socket(host, "proxy", false, 1, "10.0.0.1:40899", "127.0.0.1:15001", 1010, 8990)
		if c.netns != 0 {
			b.socket(c.netns, "proxy", false, 1, "10.0.0.1:40898", "127.0.0.1:15001", c.begin, c.begin+100)
		}
		joined := false
		for _, h := range breakdown.Split(b.all, nil).Hops {
			if h.Sender != nil && h.Receiver != nil {
				joined = h.Receiver.Client.Port() == 40899
			}
		}
		if joined != c.joins {
			t.Errorf("%s: joined %v, want %v", name, joined, c.joins)
		}
	}
}

// A process with the same name in another namespace did not send the request.
func TestParentIsInTheSameNamespace(t *testing.T) {
	b := &box{}
	b.socket(host, "python3", false, 1, "192.0.2.1:40000", "192.0.2.2:80", 1000, 9000)
	b.socket(other, "python3", true, 2, "10.0.0.2:40001", "10.0.0.3:9000", 2000, 8000)
	b.socket(host, "python3", true, 3, "10.0.0.1:40002", "10.0.0.3:9000", 3000, 7000)
	for _, h := range breakdown.Split(b.all, nil).Hops {
		if isChild := h.Parent != nil; isChild != (h.SpanID[0] == 3) {
			t.Errorf("the request of span %v has a parent: %v", h.SpanID, isChild)
		}
	}
}

// Services of one name in two namespaces of a cluster are two.
func TestServicesOfOneName(t *testing.T) {
	b := &box{}
	point := func(namespace string) observe.Point {
		return observe.Point{Kind: observe.KindSocket, Process: observe.AppProcess, Workload: observe.Workload{Service: "web", Namespace: namespace, Pod: "web-0"}}
	}
	b.see(point("prod"), &observe.Socket{}, 1, "10.0.0.9:40000", "10.0.0.1:80", 1000, 9000)
	b.see(point("staging"), &observe.Socket{Client: true}, 2, "10.0.0.2:40001", "10.0.0.3:80", 2000, 8000)
	tree := breakdown.Split(b.all, nil)
	if len(tree.Roots) != 2 {
		t.Errorf("%d roots, want 2: web-0 of staging did not handle the request of web-0 of prod", len(tree.Roots))
	}
	for _, h := range tree.Hops {
		for _, s := range h.Segments {
			if want := h.ServerNamespace(); s.Layer == observe.Application && s.Location == "web" && want != "" && s.Namespace != want {
				t.Errorf("application of web in %q, want %q", s.Namespace, want)
			}
		}
	}
	if ns := tree.Hops[0].ServerNamespace(); ns != "prod" {
		t.Errorf("the server's namespace is %q", ns)
	}
}
