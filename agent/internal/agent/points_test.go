// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"testing"

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
	n := resolver{Source: source, node: "node2"}
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
	n := resolver{Source: &identity.File{}, node: "node2"}
	remark, err := n.ready()
	if n.mayChange(7) || remark != "" || err != nil || len(n.collectors()) != 0 || n.run(t.Context()) != nil {
		t.Errorf("%q, %v", remark, err)
	}
}
