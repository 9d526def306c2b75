// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/agent/internal/iface"
	"github.com/layertrace/layertrace/internal/observe"
)

// asked is a source that keeps what it was asked.
type asked struct{ sight identity.Sight }

func (a *asked) Behind(s identity.Sight) (observe.Workload, bool) {
	a.sight = s
	return observe.Workload{Service: "web"}, true
}

func (a *asked) Peer(netip.Addr, uint64) (observe.Workload, bool) { return observe.Workload{}, false }

// The end of an exchange that is behind the interface follows from its way.
func TestSightOfAnExchange(t *testing.T) {
	source := &asked{}
	n := naming{Source: source, node: "node2"}
	for direction, address := range map[observe.Direction]string{
		observe.DirectionIngress: "10.0.0.1", observe.DirectionEgress: "10.0.0.2", observe.DirectionUnknown: "invalid IP",
	} {
		x := newExchange(7, 0)
		x.Direction = direction
		if w := n.behind(iface.Interface{Index: 7, Name: "veth1", Role: iface.VNIC}, &x); w.Service != "web" {
			t.Errorf("%v: %+v", direction, w)
		}
		if s := source.sight; s.Index != 7 || s.Name != "veth1" || s.Address.String() != address || s.At != x.Request.First {
			t.Errorf("%v: asked for %+v, want %s", direction, s, address)
		}
	}
}

// Without a cluster nothing waits, and nothing more is told.
func TestNamingWithoutACluster(t *testing.T) {
	n := naming{Source: &identity.Static{}, node: "node2"}
	remark, err := n.ready()
	samples, failure := n.samples()
	if n.unsettled(7) || remark != "" || err != nil || len(samples) != 0 || failure != nil || n.run(t.Context()) != nil {
		t.Errorf("%q, %v, %v, %v", remark, err, samples, failure)
	}
}
