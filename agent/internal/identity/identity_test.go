// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"net/netip"
	"os"
	"path/filepath"
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

// Errors have the line and the key.
func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"nodes: a": "line 1: nodes is an unknown key; the keys here are node, interfaces, addresses",
		"node: a\ninterfaces:\n  a: {service: b, colour: c}": "line 3: interfaces.a.colour is an unknown key; the keys here are service, namespace, pod, node",
		"interfaces:\n  a:\n    pod: b":                      "line 2: interfaces.a has no service: add one",
		"interfaces: {'veth[': {service: b}}":                "line 1: interfaces.veth[ is not a valid pattern",
		"addresses: {10.0.0.300: {service: b}}":              "line 1: addresses.10.0.0.300 is not an IP address",
		"addresses: {10.0.0.0/33: {service: b}}":             "addresses.10.0.0.0/33 is not an IP address",
		"addresses: {10.0.0.1:0x50: {service: b}}":           "is not an IP address",
		"addresses: {':0': {service: b}}":                    "is not an IP address",
		"addresses: {':70000': {service: b}}":                "is not an IP address",
		"addresses: {10.0.0.3: {}}":                          "neither service nor node",
		"addresses: {127.0.0.1:80: {node: a}}":               "has no service",
		"interfaces: {a: {service: b},\n  a: {service: c}}":  "line 2: interfaces.a is already set in line 1",
		"interfaces: [a]":                                    "line 1: interfaces is a list, not a map",
		"interfaces: {a: web}":                               `interfaces.a is the text "web", not a map`,
		"interfaces: {a: {service: {b: c}}}":                 "interfaces.a.service is a map, not one value",
		"a: b: c":                                            "line 1: mapping values are not allowed in this context",
		"node: a\n\tinterfaces: {}":                          "line 2: found a tab character that violates indentation",
		"interfaces: &a {<<: *a, a: {service: b}}":           "merges",
		"- a": "line 1: is a list, not a map",
		"interfaces: {a: &a {service: b}}\naddresses: {10.0.0.1: *c}": "unknown anchor 'c'",
	} {
		_, err := ParseFile([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want a message with %q", text, err, want)
			continue
		}
		for _, word := range []string{"json", "unmarshal", "yaml:", "struct", "observe."} {
			if strings.Contains(err.Error(), word) {
				t.Errorf("%s: %q has the word %q of the code", text, err, word)
			}
		}
	}
}

// Patterns and prefixes apply where nothing plain does, the longest first.
func TestWildcards(t *testing.T) {
	f, err := ParseFile([]byte(`
node: node2
interfaces:
  veth*: {service: containers}
  veth1*: {service: ones, node: elsewhere}
  veth12: {service: twelve}
addresses:
  10.0.0.0/8: {node: datacenter}
  10.1.0.0/16: {service: web}
  10.1.2.3: {service: db}
  fd00::/8: {node: six}
`))
	if err != nil {
		t.Fatal(err)
	}
	source := First{f, f.Wildcards()}
	for name, want := range map[string]observe.Workload{
		"veth9": {Service: "containers", Node: "node2"}, "veth17": {Service: "ones", Node: "elsewhere"},
		"veth12": {Service: "twelve", Node: "node2"}, "eth0": {},
	} {
		if w, ok := source.Owner(Lookup{Name: name}); w != want || ok != (want != observe.Workload{}) {
			t.Errorf("%s is %+v, %v, want %+v", name, w, ok, want)
		}
	}
	for addr, want := range map[string]observe.Workload{
		"10.9.9.9": {Node: "datacenter"}, "10.1.9.9": {Service: "web"}, "10.1.2.3": {Service: "db"},
		"::ffff:10.1.9.9": {Service: "web"}, "fd12::1": {Node: "six"}, "192.0.2.1": {},
	} {
		if w, _ := source.Peer(netip.MustParseAddr(addr), 1); w != want {
			t.Errorf("%s is %+v, want %+v", addr, w, want)
		}
	}
	// Without the wildcards, so that a cluster can come before them.
	if w, ok := f.Peer(netip.MustParseAddr("10.1.9.9"), 1); ok {
		t.Errorf("a prefix is an address: %+v", w)
	}
}

// Ports name what serves there. Loopback and ports at any address mean this machine's
// own, not those of a container or pod.
func TestPorts(t *testing.T) {
	f, err := ParseFile([]byte(`
addresses:
  127.0.0.1:9000: {service: app}
  "[::1]:9000": {service: app6}
  192.0.2.1:443: {service: edge}
  :8080: {service: web}
`))
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string][2]string{ // here, in another namespace
		"127.0.0.1:9000": {"app", ""}, "[::1]:9000": {"app6", ""}, "127.0.0.1:9001": {"", ""},
		"192.0.2.1:443": {"edge", "edge"}, "[::ffff:192.0.2.1]:443": {"edge", "edge"},
		"198.51.100.7:8080": {"web", ""}, "127.0.0.1:8080": {"web", ""},
	} {
		for i, local := range []bool{true, false} {
			if w, ok := f.Server(netip.MustParseAddrPort(at), local); w.Service != want[i] || ok != (want[i] != "") {
				t.Errorf("%s (local %v) is %q, want %q", at, local, w.Service, want[i])
			}
		}
	}
}

// A process that listens at all addresses is the one endpoint with its port.
func TestListener(t *testing.T) {
	f, err := ParseFile([]byte(`
addresses:
  127.0.0.1:9000: {service: app}
  192.0.2.1:443: {service: edge}
  192.0.2.2:443: {service: edge}
  192.0.2.1:80: {service: one}
  192.0.2.2:80: {service: two}
`))
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string][2]string{ // here, in another namespace
		"0.0.0.0:9000": {"app", ""}, "[::]:9000": {"app", ""}, "127.0.0.1:9000": {"app", ""}, "127.0.0.2:9000": {"", ""},
		"0.0.0.0:443": {"edge", "edge"}, "0.0.0.0:80": {"", ""}, "192.0.2.2:80": {"two", "two"},
	} {
		for i, local := range []bool{true, false} {
			if w, ok := f.Listener(netip.MustParseAddrPort(at), local); w.Service != want[i] || ok != (want[i] != "") {
				t.Errorf("%s (local %v) is %q, want %q", at, local, w.Service, want[i])
			}
		}
	}
}

// Reload takes a good file and keeps the content with a bad one.
func TestReload(t *testing.T) {
	name := filepath.Join(t.TempDir(), "identity.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("interfaces: {a: {service: before}}")
	f, err := LoadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	owner := func() string { w, _ := f.Owner(Lookup{Name: "a"}); return w.Service }
	write("interfaces:\n  a: {service: after, x: y}")
	if err := f.Reload(); err == nil || !strings.Contains(err.Error(), name+": line 2: interfaces.a.x") || owner() != "before" {
		t.Errorf("with a bad file: %v, owner %q", err, owner())
	}
	write("interfaces: {a: {service: after}}")
	if err := f.Reload(); err != nil || owner() != "after" {
		t.Errorf("with a good file: %v, owner %q", err, owner())
	}
}

// Forms of YAML that the file could have before: anchors, merged maps, comments, numbers
// as names, empty parts.
func TestFormsOfYAML(t *testing.T) {
	f, err := ParseFile([]byte(`
# comment
node: 2
interfaces:
  a: &web {service: web, namespace: prod}
  b: *web
  c:
    <<: *web
    service: other
addresses:
`))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]observe.Workload{
		"a": {Service: "web", Namespace: "prod", Node: "2"}, "b": {Service: "web", Namespace: "prod", Node: "2"},
		"c": {Service: "other", Namespace: "prod", Node: "2"},
	} {
		if w, _ := f.Owner(Lookup{Name: name}); w != want {
			t.Errorf("%s is %+v, want %+v", name, w, want)
		}
	}
	if _, err := ParseFile(nil); err != nil {
		t.Errorf("empty file: %v", err)
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
