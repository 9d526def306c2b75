// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/observe"
)

func TestStatic(t *testing.T) {
	s, err := ParseFile([]byte(`
node: node2
interfaces:
  vethgw: {service: istio-ingressgateway, namespace: default, pod: gateway-1}
  vethr2: {service: reviews-v2, node: elsewhere}
addresses:
  10.244.2.11: {service: reviews-v2, node: node2}
  2001:db8::1: {node: node9}
`))
	if err != nil {
		t.Fatal(err)
	}
	if s.Node() != "node2" {
		t.Errorf("node %q", s.Node())
	}
	if w, ok := s.Owner(Lookup{Name: "vethgw"}); !ok ||
		w != (observe.Workload{Service: "istio-ingressgateway", Namespace: "default", Pod: "gateway-1", Node: "node2"}) {
		t.Errorf("vethgw is %+v, %v", w, ok)
	}
	if w, _ := s.Owner(Lookup{Name: "vethr2"}); w.Node != "elsewhere" {
		t.Errorf("vethr2 is %+v", w)
	}
	if _, ok := s.Owner(Lookup{Name: "vethx"}); ok {
		t.Error("vethx is known")
	}
	for addr, want := range map[string]observe.Workload{
		"10.244.2.11":        {Service: "reviews-v2", Node: "node2"},
		"::ffff:10.244.2.11": {Service: "reviews-v2", Node: "node2"},
		"2001:db8::1":        {Node: "node9"},
		"10.244.2.12":        {},
	} {
		if w, _ := s.Peer(netip.MustParseAddr(addr), 1); w != want {
			t.Errorf("%s is %+v, want %+v", addr, w, want)
		}
	}
}

func TestZeroStaticKnowsNothing(t *testing.T) {
	var s File
	_, owner := s.Owner(Lookup{Name: "eth0"})
	_, peer := s.Peer(netip.MustParseAddr("10.0.0.1"), 1)
	if owner || peer || s.Node() != "" {
		t.Error("the zero File is not empty")
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"nodes: a": "unknown field",
		"interfaces: {a: {service: b, colour: c}}":       "unknown field",
		"interfaces: {a: {pod: b}}":                      "interface a has no service",
		"addresses: {10.0.0.300: {service: b}}":          "not an IP address",
		"addresses: {10.0.0.3: {}}":                      "neither service nor node",
		"interfaces: {a: {service: b}, a: {service: c}}": "already set",
		"a: b: c": "invalid YAML",
	} {
		if _, err := ParseFile([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want a message with %q", text, err, want)
		}
	}
}

func TestLoadNamesTheFlag(t *testing.T) {
	if _, err := LoadFile(t.TempDir() + "/none.yaml"); err == nil || !strings.Contains(err.Error(), "--identity") {
		t.Errorf("got %v", err)
	}
}

// The first source of several wins.
func TestFirst(t *testing.T) {
	parse := func(text string) *File {
		s, err := ParseFile([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	both := First{
		parse("{interfaces: {a: {service: mine}}, addresses: {10.0.0.1: {node: mine}}}"),
		parse("{interfaces: {a: {service: x}, b: {service: theirs}}, addresses: {10.0.0.1: {node: x}, 10.0.0.2: {node: theirs}}}"),
	}
	for name, want := range map[string]string{"a": "mine", "b": "theirs", "c": ""} {
		if w, ok := both.Owner(Lookup{Name: name}); w.Service != want || ok != (want != "") {
			t.Errorf("owner of %s is %q, %v, want %q", name, w.Service, ok, want)
		}
	}
	for addr, want := range map[string]string{"10.0.0.1": "mine", "10.0.0.2": "theirs", "10.0.0.3": ""} {
		if w, ok := both.Peer(netip.MustParseAddr(addr), 1); w.Node != want || ok != (want != "") {
			t.Errorf("%s is %q, %v, want %q", addr, w.Node, ok, want)
		}
	}
}
