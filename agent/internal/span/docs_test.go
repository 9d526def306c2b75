// SPDX-License-Identifier: Apache-2.0

package span

import (
	"net/netip"
	"os"
	"regexp"
	"testing"

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

// The list that the page is checked against holds all that is given.
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
	others := peers{
		"fd00::1": {Service: "reviews", Node: "node3"}, "fd00::2": {Service: "productpage", Node: "node4"},
	}
	given := append(appendAttributes(nil, &p, &x, x.Request.First-1, others), resourceOf(&p).Attributes()...)
	for _, kv := range given {
		if !known[kv.Key] {
			t.Errorf("%s is in neither list of keys", kv.Key)
		}
	}
	if len(given) != len(spanKeys)+len(resourceKeys) {
		t.Errorf("%d attributes given of an exchange that has all, %d are listed", len(given), len(spanKeys)+len(resourceKeys))
	}
}
