// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"net/netip"
	"os"

	"sigs.k8s.io/yaml"

	"github.com/layertrace/layertrace/internal/observe"
)

// Static is an identity source that does not change. Its zero value knows
// nothing.
type Static struct {
	node       string
	interfaces map[string]observe.Workload
	addresses  map[netip.Addr]observe.Workload
}

// file is the YAML form, docs/configuration.md "Identity file".
type file struct {
	Node       string                      `json:"node"`
	Interfaces map[string]observe.Workload `json:"interfaces"`
	Addresses  map[string]observe.Workload `json:"addresses"`
}

// Load reads and checks an identity file.
func Load(name string) (*Static, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read identity file: %w; correct --identity", err)
	}
	s, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("identity file %s: %w", name, err)
	}
	return s, nil
}

// Parse reads the YAML of an identity file. Unknown keys, addresses that are
// none and workloads without a service are refused.
func Parse(data []byte) (*Static, error) {
	var f file
	if err := yaml.UnmarshalStrict(data, &f); err != nil {
		return nil, fmt.Errorf("bad YAML (keys are node, interfaces, addresses; of each: service, namespace, pod, node): %w", err)
	}
	s := &Static{node: f.Node, interfaces: map[string]observe.Workload{}, addresses: map[netip.Addr]observe.Workload{}}
	for name, w := range f.Interfaces {
		if w.Service == "" {
			return nil, fmt.Errorf("interface %s has no service: add one", name)
		}
		if w.Node == "" {
			w.Node = f.Node
		}
		s.interfaces[name] = w
	}
	for text, w := range f.Addresses {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("%q under addresses is no IP address", text)
		}
		if w.Service == "" && w.Node == "" {
			return nil, fmt.Errorf("address %s has neither service nor node: add one", text)
		}
		s.addresses[addr.Unmap()] = w
	}
	return s, nil
}

// Node returns the name of this node, "" when the file has none.
func (s *Static) Node() string { return s.node }

// Behind returns the workload behind an interface, which a static file knows by
// its name only.
func (s *Static) Behind(sight Sight) (observe.Workload, bool) {
	w, ok := s.interfaces[sight.Name]
	return w, ok
}

// Peer returns the workload, or node, that has an address at any time.
func (s *Static) Peer(addr netip.Addr, _ uint64) (observe.Workload, bool) {
	w, ok := s.addresses[addr.Unmap()]
	return w, ok
}
