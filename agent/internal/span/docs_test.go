// SPDX-License-Identifier: Apache-2.0

package span

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/internal/observe"
)

var update = flag.Bool("update", false, "write the tables of docs/attributes.md")

// table is a generated table of docs/attributes.md, between its two markers.
var table = regexp.MustCompile(`(?s)(<!-- table: ([a-z ]+) -->\n).*?(<!-- end -->)`)

// The tables of docs/attributes.md are those of the code. With -update (make
// generate) the test writes them.
func TestDocumentationListsAllAttributes(t *testing.T) {
	const path = "../../../docs/attributes.md"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tables := documentation()
	want := table.ReplaceAllStringFunc(string(page), func(old string) string {
		part := table.FindStringSubmatch(old)
		text, ok := tables[part[2]]
		if !ok {
			t.Errorf("docs/attributes.md has a table %q, which the code does not have", part[2])
		}
		delete(tables, part[2])
		return part[1] + text + part[3]
	})
	for name := range tables {
		t.Errorf("docs/attributes.md has no markers of the table %q", name)
	}
	if want == string(page) {
		return
	}
	if !*update {
		t.Fatal("docs/attributes.md is not what the code writes: run make generate")
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// documentation returns the tables by name.
func documentation() map[string]string {
	tables := map[string]string{}
	row := func(name, header string, cells ...string) {
		if tables[name] == "" {
			tables[name] = header
		}
		tables[name] += "| " + strings.Join(cells, " | ") + " |\n"
	}
	const plain = "| attribute | type | meaning |\n|---|---|---|\n"
	const units = "| attribute | type | unit | meaning |\n|---|---|---|---|\n"
	for _, f := range resourceFields {
		row("resource", plain, fmt.Sprintf("`%s`", f.key), f.typ, f.meaning)
	}
	for _, f := range fields {
		row(f.section, units, fmt.Sprintf("`%s`", f.key), f.typ, f.unit, f.meaning)
	}
	for _, f := range layerFields {
		row("layers", plain, fmt.Sprintf("`%s`", f.key), f.typ, f.meaning)
	}
	return tables
}

// Nothing is written twice, and all that is in the tables is written for an
// observation that has all.
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
			t.Errorf("%s is in a table, but not written for an observation that has all", key)
		}
	}
}
