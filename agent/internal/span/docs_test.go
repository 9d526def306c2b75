// SPDX-License-Identifier: Apache-2.0

package span

import (
	"net/netip"
	"os"
	"regexp"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/layer"
	"github.com/layertrace/layertrace/internal/exchange"
	"go.opentelemetry.io/otel/attribute"
)

// docs/attributes.md lists exactly the attributes that the code can give.
func TestDocumentationListsAllAttributes(t *testing.T) {
	page, err := os.ReadFile("../../../docs/attributes.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[attribute.Key]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9_.]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		documented[attribute.Key(row[1])] = true
	}
	for _, keys := range [][]attribute.Key{spanKeys, resourceKeys} {
		for _, key := range keys {
			if !documented[key] {
				t.Errorf("docs/attributes.md does not list %s", key)
			}
			delete(documented, key)
		}
	}
	for key := range documented {
		t.Errorf("docs/attributes.md lists %s, which the code does not give", key)
	}
}

// The list that the page is checked against holds all that is given, and
// nothing is given twice.
func TestKeysAreComplete(t *testing.T) {
	known := map[attribute.Key]bool{}
	for _, keys := range [][]attribute.Key{spanKeys, resourceKeys} {
		for _, key := range keys {
			known[key] = true
		}
	}
	x, p := sample(), vnicPoint()
	x.Client, x.Server = netip.MustParseAddrPort("[fd00::1]:40000"), netip.MustParseAddrPort("[fd00::2]:9080")
	x.ConnectionID, x.OptionTime, x.Flags = []byte{1, 2, 3, 4}, 1, 1<<10-1
	services := peers{"fd00::1": {Service: "reviews"}, "fd00::2": {Service: "productpage"}}
	nodes := peers{"fd00::1": {Node: "node3"}, "fd00::2": {Node: "node4"}}
	given := map[attribute.Key]bool{}
	x.Request.Handover = exchange.Extent{First: x.Request.First + 1, Last: x.Request.First + 2}
	x.Response.Handover = exchange.Extent{First: x.Request.First + 3, Last: x.Request.First + 4}
	x.Request.Acknowledged, x.Response.Acknowledged = x.Request.First+5, x.Request.First+6
	x.Drops, x.DropReason = 1, "qdisc_drop"
	sets := [][]attribute.KeyValue{attributes(&p, &x, x.Request.First-1, services), attributes(&p, &x, x.Request.First-1, nodes)}
	x.Socket = &exchange.Socket{Cookie: 1, Netns: 2, SRTT: 3, ZeroWindows: 4, Client: true}
	socket := Point{ID: "node4/netns/2/sidecar", Node: "node4", Socket: true, Process: layer.Sidecar}
	sets = append(sets, attributes(&socket, &x, x.Request.First-1, services), resourceOf(&socket).Attributes(),
		layerAttributes(&LayerSpan{Part: layer.Part{Layer: layer.ProtocolStack, Covers: []layer.Layer{layer.ProtocolStack, layer.Application}}}))
	p.Workload.PodUID, p.Workload.Name = "11111111-2222-3333-4444-555555555555", "gateway"
	for p.Workload.Kind = range controllerKeys {
		sets = append(sets, resourceOf(&p).Attributes())
	}
	for _, set := range sets {
		once := map[attribute.Key]bool{}
		for _, kv := range set {
			if once[kv.Key] {
				t.Errorf("%s is given twice", kv.Key)
			}
			if !known[kv.Key] {
				t.Errorf("%s is in neither list of keys", kv.Key)
			}
			once[kv.Key], given[kv.Key] = true, true
		}
	}
	for key := range known {
		if !given[key] {
			t.Errorf("%s is listed, but not given of an exchange that has all", key)
		}
	}
}
