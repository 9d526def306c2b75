// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/agent/internal/iface"
	"github.com/layertrace/layertrace/internal/observe"
)

// asked is a source that keeps the last lookup.
type asked struct{ lookup identity.Lookup }

func (a *asked) Owner(l identity.Lookup) (observe.Workload, bool) {
	a.lookup = l
	return observe.Workload{Service: "web"}, true
}

func (a *asked) Peer(netip.Addr, uint64) (observe.Workload, bool) { return observe.Workload{}, false }

// The direction shows which end of the connection owns the interface.
func TestOwnerOfAnExchange(t *testing.T) {
	source := &asked{}
	n := resolver{Source: source, exact: source, file: &identity.File{}, node: "node2"}
	for direction, address := range map[observe.Direction]string{
		observe.DirectionIngress: "10.0.0.1", observe.DirectionEgress: "10.0.0.2", observe.DirectionUnknown: "invalid IP",
	} {
		x := newExchange(7, 0)
		x.Direction = direction
		if w := n.owner(iface.Interface{Index: 7, Name: "veth1", Kind: observe.KindVNIC}, &x); w.Service != "web" {
			t.Errorf("%v: %+v", direction, w)
		}
		if s := source.lookup; s.Index != 7 || s.Name != "veth1" || s.Address.String() != address || s.At != x.Request.First {
			t.Errorf("%v: asked for %+v, want %s", direction, s, address)
		}
	}
}

// Without a cluster nothing waits, and there are no metrics.
func TestNamingWithoutACluster(t *testing.T) {
	n := resolver{Source: &identity.File{}, exact: &identity.File{}, file: &identity.File{}, node: "node2"}
	remark, err := n.ready()
	if n.mayChange(7) || remark != "" || err != nil || len(n.collectors()) != 0 || n.run(t.Context()) != nil {
		t.Errorf("%q, %v", remark, err)
	}
}

// named is a source that knows one address.
type named struct{ addr netip.Addr }

func (named) Owner(identity.Lookup) (observe.Workload, bool) { return observe.Workload{}, false }

func (n named) Peer(a netip.Addr, _ uint64) (observe.Workload, bool) {
	return observe.Workload{Service: "web"}, a == n.addr
}

// The observations of a known pod's sockets share a point until it is purged.
// Namespaces with an unknown owner leave nothing, however many there are.
func TestSocketPointsAreBounded(t *testing.T) {
	s := newSocketPoints(resolver{exact: named{netip.MustParseAddr("10.0.0.2")}, file: &identity.File{}, node: "node2"}, 1337)
	at := func(netns uint32, server string) *observe.Observation {
		o := newExchange(0, 0)
		o.Server = netip.MustParseAddrPort(server)
		o.Socket = &observe.Socket{Netns: netns, UID: 1337}
		return &o
	}
	first := s.point(at(1, "10.0.0.2:80"))
	if again := s.point(at(1, "10.0.0.2:80")); first != again || first.Workload.Service != "web" || first.Process != observe.Sidecar {
		t.Errorf("points %+v and %+v, want one of the sidecar of web", first, again)
	}
	for netns := uint32(2); netns < 1000; netns++ {
		if p := s.point(at(netns, "10.0.9.9:80")); p.Workload.Service != "" {
			t.Fatalf("namespace %d has the workload %+v", netns, p.Workload)
		}
	}
	if len(s.pods) != 1 {
		t.Errorf("%d namespaces are kept, want 1", len(s.pods))
	}
	if ids := s.purge(time.Now().Add(time.Second)); len(ids) != 2 || len(s.pods) != 0 {
		t.Errorf("purged %q, %d namespaces are kept", ids, len(s.pods))
	}
}

// located is a source of addresses' namespaces.
type located map[string]string

func (located) Owner(identity.Lookup) (observe.Workload, bool) { return observe.Workload{}, false }

func (l located) Peer(a netip.Addr, _ uint64) (observe.Workload, bool) {
	namespace, ok := l[a.String()]
	return observe.Workload{Service: "web", Namespace: namespace}, ok
}

// With --namespaces, an exchange is reported if a workload at one end is in one of them;
// others are counted.
func TestNamespacesThatAreReported(t *testing.T) {
	source := located{"10.0.0.1": "shop", "10.0.0.2": "bank"}
	names := resolver{Source: source, exact: source, file: &identity.File{}, node: "node1"}
	for _, test := range []struct {
		namespaces []string
		reported   float64
	}{{nil, 1}, {[]string{"shop"}, 1}, {[]string{"other", "bank"}, 1}, {[]string{"other"}, 0}} {
		p := &pipeline{names: names, metrics: newPipelineMetrics(prometheus.NewRegistry()), namespaces: test.namespaces}
		p.find(newRegistry(names, time.Minute, 1337))
		p.points.add(iface.Interface{Index: 7, Name: "eth0", Kind: observe.KindPNIC})
		o := newExchange(7, 0) // from 10.0.0.1 to 10.0.0.2
		p.handle(&o)
		got, others := testutil.ToFloat64(p.metrics.handled[observe.KindPNIC]), testutil.ToFloat64(p.metrics.otherNamespaces)
		if got != test.reported || others != 1-test.reported {
			t.Errorf("%v: %v reported, %v of others", test.namespaces, got, others)
		}
	}
}
