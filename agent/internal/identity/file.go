// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/layertrace/layertrace/internal/observe"
)

// File is the Source of an identity file: its plain names and addresses. What it has
// for many is in Wildcards. Its zero value is empty.
type File struct {
	name    string
	content atomic.Pointer[fileContent] // nil: empty
	version atomic.Uint64
}

// fileContent is the content of an identity file, whose form is documented in
// docs/configuration.md.
type fileContent struct {
	node       string
	interfaces map[string]observe.Workload
	globs      []glob // longest first
	addresses  map[netip.Addr]observe.Workload
	prefixes   []prefix // longest first
	endpoints  map[netip.AddrPort]observe.Workload
	ports      map[uint16]observe.Workload
}

type glob struct {
	pattern  string
	workload observe.Workload
}

type prefix struct {
	prefix   netip.Prefix
	workload observe.Workload
}

// LoadFile reads and validates an identity file.
func LoadFile(name string) (*File, error) {
	f := &File{name: name}
	return f, f.Reload()
}

// Reload reads the file again. With an error the File keeps its content.
func (f *File) Reload() error {
	data, err := os.ReadFile(f.name)
	if err != nil {
		return fmt.Errorf("read identity file: %w; correct --identity", err)
	}
	content, err := parseContent(data)
	if err != nil {
		return fmt.Errorf("identity file %s: %w", f.name, err)
	}
	f.content.Store(content)
	f.version.Add(1)
	return nil
}

// ParseFile parses an identity file. It rejects unknown keys, invalid addresses and
// patterns, and workloads without a service. Errors have the line.
func ParseFile(data []byte) (*File, error) {
	content, err := parseContent(data)
	if err != nil {
		return nil, err
	}
	f := &File{}
	f.content.Store(content)
	return f, nil
}

// Node returns the name of this node, "" when the file has none.
func (f *File) Node() string { return f.now().node }

func (f *File) now() *fileContent {
	if c := f.content.Load(); c != nil {
		return c
	}
	return noContent
}

var noContent = &fileContent{}

// Owner implements Source. A file knows interfaces by name only.
func (f *File) Owner(l Lookup) (observe.Workload, bool) {
	w, ok := f.now().interfaces[l.Name]
	return w, ok
}

// Peer implements Source. The time does not matter to a file.
func (f *File) Peer(addr netip.Addr, _ uint64) (observe.Workload, bool) {
	w, ok := f.now().addresses[addr.Unmap()]
	return w, ok
}

// Endpoint returns the workload at an address and port. local: seen in the network
// namespace of the agent. Loopback addresses elsewhere are of others.
func (f *File) Endpoint(at netip.AddrPort, local bool) (observe.Workload, bool) {
	addr := at.Addr().Unmap()
	if addr.IsLoopback() && !local {
		return observe.Workload{}, false
	}
	w, ok := f.now().endpoints[netip.AddrPortFrom(addr, at.Port())]
	return w, ok
}

// Server returns the workload of a socket that serves at an address and port of this
// machine: its endpoint, else, in the network namespace of the agent (local), its port
// at any address.
func (f *File) Server(at netip.AddrPort, local bool) (observe.Workload, bool) {
	if w, ok := f.Endpoint(at, local); ok || !local {
		return w, ok
	}
	w, ok := f.now().ports[at.Port()]
	return w, ok
}

// Listener returns the workload of a process that listens at an address and port, which
// may be unspecified: then an endpoint with the port is meant, if all of them are of one
// workload. local is as for Server.
func (f *File) Listener(at netip.AddrPort, local bool) (found observe.Workload, ok bool) {
	if w, ok := f.Server(at, local); ok || !at.Addr().IsUnspecified() {
		return w, ok
	}
	for endpoint := range f.now().endpoints {
		w, known := f.Endpoint(endpoint, local)
		if !known || endpoint.Port() != at.Port() {
			continue
		}
		if ok && w != found {
			return observe.Workload{}, false
		}
		found, ok = w, true
	}
	return found, ok
}

// NamesServers reports whether the file has endpoints or ports.
func (f *File) NamesServers() bool { c := f.now(); return len(c.endpoints)+len(c.ports) > 0 }

// NamesServices reports whether the file has an address with a service, which names
// everything in a network namespace.
func (f *File) NamesServices() bool {
	for _, w := range f.now().addresses {
		if w.Service != "" {
			return true
		}
	}
	return false
}

// Version changes with each Reload that took a file.
func (f *File) Version() uint64 { return f.version.Load() }

// Wildcards returns the Source of what the file has for many interfaces or addresses.
// It comes after all others: it knows less of each.
func (f *File) Wildcards() Source { return wildcards{f} }

type wildcards struct{ file *File }

// Owner implements Source by the longest pattern that matches the interface's name.
func (w wildcards) Owner(l Lookup) (observe.Workload, bool) {
	for _, g := range w.file.now().globs {
		if ok, err := path.Match(g.pattern, l.Name); err == nil && ok {
			return g.workload, true
		}
	}
	return observe.Workload{}, false
}

// Peer implements Source by the longest prefix that has the address.
func (w wildcards) Peer(addr netip.Addr, _ uint64) (observe.Workload, bool) {
	for _, p := range w.file.now().prefixes {
		if p.prefix.Contains(addr.Unmap()) {
			return p.workload, true
		}
	}
	return observe.Workload{}, false
}

// parseContent parses the file in the order of its lines.
func parseContent(data []byte) (*fileContent, error) {
	c := &fileContent{
		interfaces: map[string]observe.Workload{}, addresses: map[netip.Addr]observe.Workload{},
		endpoints: map[netip.AddrPort]observe.Workload{}, ports: map[uint16]observe.Workload{},
	}
	top, err := parseYAML(data)
	if err != nil {
		return nil, err
	}
	for _, e := range top {
		switch e.key {
		case "node":
			c.node, err = e.text()
		case "interfaces":
			err = e.each(c.addInterface)
		case "addresses":
			err = e.each(c.addAddress)
		default:
			err = e.unknown("node, interfaces, addresses")
		}
		if err != nil {
			return nil, err
		}
	}
	for name, w := range c.interfaces {
		w.Node = cmp.Or(w.Node, c.node)
		c.interfaces[name] = w
	}
	for i := range c.globs {
		c.globs[i].workload.Node = cmp.Or(c.globs[i].workload.Node, c.node)
	}
	slices.SortStableFunc(c.globs, func(a, b glob) int { return cmp.Compare(len(b.pattern), len(a.pattern)) })
	slices.SortStableFunc(c.prefixes, func(a, b prefix) int { return cmp.Compare(b.prefix.Bits(), a.prefix.Bits()) })
	return c, nil
}

func (c *fileContent) addInterface(e entry) error {
	w, err := workloadIn(e)
	if err != nil {
		return err
	}
	if w.Service == "" {
		return e.errorf("has no service: add one")
	}
	if !strings.ContainsAny(e.key, `*?[\`) {
		c.interfaces[e.key] = w
		return nil
	}
	if _, err := path.Match(e.key, ""); err != nil {
		return e.errorf("is not a valid pattern: use *, ? and [ranges]")
	}
	c.globs = append(c.globs, glob{e.key, w})
	return nil
}

// addAddress takes an address, a prefix, an address with a port, or a port (":9000").
func (c *fileContent) addAddress(e entry) error {
	w, err := workloadIn(e)
	if err != nil {
		return err
	}
	if w.Service == "" && w.Node == "" {
		return e.errorf("has neither service nor node: add one")
	}
	if addr, err := netip.ParseAddr(e.key); err == nil {
		c.addresses[addr.Unmap()] = w
		return nil
	}
	if p, err := netip.ParsePrefix(e.key); err == nil {
		c.prefixes = append(c.prefixes, prefix{p.Masked(), w})
		return nil
	}
	port, anyAddress := strings.CutPrefix(e.key, ":")
	at, err := netip.ParseAddrPort(e.key)
	number, notNumber := strconv.ParseUint(port, 10, 16)
	switch {
	case err != nil && (!anyAddress || notNumber != nil || number == 0):
		return e.errorf("is not an IP address (10.0.0.1, fd00::1), prefix (10.0.0.0/8), address with port (127.0.0.1:9000, [::1]:9000) or port (:9000)")
	case w.Service == "":
		return e.errorf("has no service: what serves at a port needs one")
	case anyAddress:
		c.ports[uint16(number)] = w
	default:
		c.endpoints[netip.AddrPortFrom(at.Addr().Unmap(), at.Port())] = w
	}
	return nil
}

// workloadIn reads the workload of an entry.
func workloadIn(e entry) (w observe.Workload, err error) {
	return w, e.each(func(field entry) (err error) {
		switch field.key {
		case "service":
			w.Service, err = field.text()
		case "namespace":
			w.Namespace, err = field.text()
		case "pod":
			w.Pod, err = field.text()
		case "node":
			w.Node, err = field.text()
		default:
			err = field.unknown("service, namespace, pod, node")
		}
		return err
	})
}
