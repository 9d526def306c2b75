// SPDX-License-Identifier: Apache-2.0

package breakdowntest

import (
	"encoding/binary"
	"net/netip"

	"github.com/layertrace/layertrace/internal/observe"
)

// Legs returns the observations of n requests of one trace, each seen at two pods' interfaces
// of one node: next to each other, or nested in one pod, each within the one before.
func Legs(n int, nested bool) []observe.Observation {
	client := &observe.Point{ID: "node/1", Kind: observe.KindVNIC, Node: "node", Interface: "veth1", Workload: observe.Workload{Service: "client", Pod: "client-1", Namespace: "default"}}
	server := &observe.Point{ID: "node/2", Kind: observe.KindVNIC, Node: "node", Interface: "veth2", Workload: observe.Workload{Service: "server", Pod: "server-1", Namespace: "default"}}
	if nested {
		server.Workload = client.Workload
	}
	all := make([]observe.Observation, 0, 2*n)
	for i := range uint64(n) {
		var o observe.Observation
		o.Context.TraceID[15] = 1
		binary.BigEndian.PutUint64(o.Context.SpanID[:], i+1)
		o.Client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), uint16(1024+i%60000))
		o.Server = netip.MustParseAddrPort("10.0.0.2:80")
		request, response := 1_000_000_000+1000*i, 1_000_000_000+1000*i+500
		if nested {
			response = 1_000_000_000 + (2*uint64(n)-i)*2000
		}
		for _, p := range []*observe.Point{client, server} {
			o.Point, o.Direction = p, observe.DirectionIngress
			o.Request.First, o.Request.Last, o.Response.First, o.Response.Last = request, request, response, response
			if p == server {
				o.Direction = observe.DirectionEgress
				o.Request.First, o.Request.Last, o.Response.First, o.Response.Last = request+100, request+100, response-100, response-100
			}
			o.Wall = int64(o.Request.First)
			all = append(all, o)
		}
	}
	return all
}
