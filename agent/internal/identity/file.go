// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"net/netip"
	"os"

	"sigs.k8s.io/yaml"

	"github.com/layertrace/layertrace/internal/observe"
)

// File is the Source of an identity file. Its zero value is empty.
type File struct {
	node       string
	interfaces map[string]observe.Workload
	addresses  map[netip.Addr]observe.Workload
}

// fileYAML is the YAML form, documented in docs/configuration.md.
type fileYAML struct {
	Node       string                      `json:"node"`
	Interfaces map[string]observe.Workload `json:"interfaces"`
	Addresses  map[string]observe.Workload `json:"addresses"`
}

// LoadFile reads and validates an identity file.
func LoadFile(name string) (*File, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read identity file: %w; correct --identity", err)
	}
	f, err := ParseFile(data)
	if err != nil {
		return nil, fmt.Errorf("identity file %s: %w", name, err)
	}
	return f, nil
}

// ParseFile parses an identity file. It rejects unknown keys, invalid
// addresses, and workloads without a service.
func ParseFile(data []byte) (*File, error) {
	var in fileYAML
	if err := yaml.UnmarshalStrict(data, &in); err != nil {
		return nil, fmt.Errorf("invalid YAML (keys: node, interfaces, addresses; of a workload: service, namespace, pod, node): %w", err)
	}
	f := &File{node: in.Node, interfaces: map[string]observe.Workload{}, addresses: map[netip.Addr]observe.Workload{}}
	for name, w := range in.Interfaces {
		if w.Service == "" {
			return nil, fmt.Errorf("interface %s has no service: add one", name)
		}
		if w.Node == "" {
			w.Node = in.Node
		}
		f.interfaces[name] = w
	}
	for text, w := range in.Addresses {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("addresses: %q is not an IP address", text)
		}
		if w.Service == "" && w.Node == "" {
			return nil, fmt.Errorf("address %s has neither service nor node: add one", text)
		}
		f.addresses[addr.Unmap()] = w
	}
	return f, nil
}

// Node returns the name of this node, "" when the file has none.
func (f *File) Node() string { return f.node }

// Owner implements Source. A file knows interfaces by name only.
func (f *File) Owner(l Lookup) (observe.Workload, bool) {
	w, ok := f.interfaces[l.Name]
	return w, ok
}

// Peer implements Source. The time does not matter to a file.
func (f *File) Peer(addr netip.Addr, _ uint64) (observe.Workload, bool) {
	w, ok := f.addresses[addr.Unmap()]
	return w, ok
}
