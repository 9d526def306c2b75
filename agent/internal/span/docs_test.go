// SPDX-License-Identifier: Apache-2.0

package span

import (
	"net/netip"
	"testing"

	"go.opentelemetry.io/otel/attribute"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/internal/doctable"
	"github.com/layertrace/layertrace/internal/observe"
)

// The tables of docs/attributes.md are generated from the codec.
func TestDocumentationListsAllAttributes(t *testing.T) {
	tables := map[string]*doctable.Table{
		"resource": doctable.New("attribute", "type", "meaning"),
		"layers":   doctable.New("attribute", "type", "meaning"),
	}
	code := func(key attribute.Key) string { return "`" + string(key) + "`" }
	for _, f := range resourceFields {
		tables["resource"].Row(code(f.key), f.typ, f.meaning)
	}
	for _, f := range fields {
		if tables[f.section] == nil {
			tables[f.section] = doctable.New("attribute", "type", "unit", "meaning")
		}
		tables[f.section].Row(code(f.key), f.typ, f.unit, f.meaning)
	}
	for _, f := range layerFields {
		tables["layers"].Row(code(f.key), f.typ, f.meaning)
	}
	doctable.Check(t, "../../../docs/attributes.md", tables)
}

// No attribute is written twice, and an observation that has everything has all
// attributes of the tables.
func TestKeysAreComplete(t *testing.T) {
	known := map[attribute.Key]bool{}
	for i := range fields {
		known[fields[i].key] = true
	}
	for i := range resourceFields {
		known[resourceFields[i].key] = true
	}
	for i := range layerFields {
		known[layerFields[i].key] = true
	}
	x := sample()
	x.Client, x.Server = netip.MustParseAddrPort("[fd00::1]:40000"), netip.MustParseAddrPort("[fd00::2]:9080")
	x.ConnectionID, x.OptionTime, x.Flags = []byte{1, 2, 3, 4}, 1, 1<<10-1
	start := x.Request.First - 1
	for i, e := range []*observe.Extent{&x.Request.App, &x.Response.App, &x.Request.Tx, &x.Response.Tx} {
		*e = observe.Extent{First: x.Request.First + uint64(2*i), Last: x.Request.First + uint64(2*i) + 1}
	}
	x.Request.Acknowledged, x.Response.Acknowledged = x.Request.First+5, x.Request.First+6
	x.Drops, x.DropReason = 1, "qdisc_drop"
	x.Peers = observe.Peers{Client: observe.Peer{Service: "reviews", Node: "node3"}, Server: observe.Peer{Service: "productpage", Node: "node4"}}
	sets := [][]attribute.KeyValue{Encode(&x, start)}
	socket := observe.Point{ID: "node4/netns/2/sidecar", Kind: observe.KindSocket, Node: "node4", Process: observe.Sidecar}
	p := *x.Point
	x.Socket, x.Point = &observe.Socket{Cookie: 1, Netns: 2, SRTT: 3, ZeroWindows: 4, Client: true}, &socket
	sets = append(sets, Encode(&x, start), Resource(&socket).Attributes(),
		encodeLayer(&LayerSpan{Segment: breakdown.Segment{Layer: observe.ProtocolStack, MergedLayers: []observe.Layer{observe.ProtocolStack, observe.Application}}}))
	p.Workload.PodUID, p.Workload.Name = "11111111-2222-3333-4444-555555555555", "gateway"
	for p.Workload.Kind = range controllerKeys {
		sets = append(sets, Resource(&p).Attributes())
	}
	given := map[attribute.Key]bool{}
	for _, set := range sets {
		once := map[attribute.Key]bool{}
		for _, kv := range set {
			if once[kv.Key] {
				t.Errorf("%s is written twice", kv.Key)
			}
			if !known[kv.Key] {
				t.Errorf("%s is in no table", kv.Key)
			}
			once[kv.Key], given[kv.Key] = true, true
		}
	}
	for key := range known {
		if !given[key] {
			t.Errorf("%s is in a table, but not written for an observation that has everything", key)
		}
	}
}
