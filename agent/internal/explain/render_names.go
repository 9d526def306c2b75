// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/layertrace/layertrace/internal/observe"
)

// This file has the readable names of services and nodes, for all forms.

// names are the readable names of services and nodes in a report.
type names struct {
	common string              // the namespace that is not shown, "" for none
	spaces map[string][]string // the namespaces of each service
	relays map[string]string   // the names of pairs of nodes, by location
}

// add adds a service. Its name may have the namespace already, as in reviews.prod.
func (n *names) add(service, namespace string) {
	if namespace != "" {
		service = strings.TrimSuffix(service, "."+namespace)
	}
	if service == "" || slices.Contains(n.spaces[service], namespace) {
		return
	}
	n.spaces[service] = append(n.spaces[service], namespace)
}

// setCommon chooses the namespace of most services; none if two have as many.
func (n *names) setCommon() {
	count := map[string]int{}
	for _, spaces := range n.spaces {
		for _, s := range spaces {
			count[s]++
		}
	}
	most := 0
	for s, c := range count {
		switch {
		case c > most:
			n.common, most = s, c
		case c == most:
			n.common = ""
		}
	}
}

func (r *Report) names() names {
	n := names{spaces: map[string][]string{}, relays: map[string]string{}}
	for _, l := range r.Layers {
		if isOfService(l.Layer) {
			n.add(l.Location, l.Namespace)
		}
	}
	ways := map[string][2]bool{} // by location: from the first node, from the second
	for i := range r.Hops {
		h := &r.Hops[i]
		n.add(strings.TrimSuffix(h.From, sidecarMark), h.FromNamespace)
		n.add(strings.TrimSuffix(h.To, sidecarMark), h.ToNamespace)
		for _, s := range h.Segments {
			if isOfService(s.Layer) {
				n.add(s.Location, s.Namespace)
			}
		}
		if h.FromNode == h.ToNode {
			continue
		}
		from, to := orQuestion(h.FromNode), orQuestion(h.ToNode)
		location, forth := min(from, to)+"-"+max(from, to), from < to
		way := ways[location]
		way[0], way[1] = way[0] || forth, way[1] || !forth
		ways[location] = way
		switch {
		case from == "?":
			n.relays[location] = beyond + to
		case to == "?":
			n.relays[location] = beyond + from
		case way[0] && way[1]:
			n.relays[location] = min(from, to) + " ↔ " + max(from, to)
		default:
			n.relays[location] = from + " → " + to
		}
	}
	for i := range r.Hops {
		for _, s := range r.Hops[i].Segments {
			if s.Layer == observe.RelayNetwork && n.relays[s.Location] == "" {
				n.addLink(s.Location)
			}
		}
	}
	n.setCommon()
	return n
}

// addLink names a link to a device, or two nodes whose hops are not known. One hyphen can only
// be that between two names.
func (n names) addLink(location string) {
	if a, b, ok := strings.Cut(location, "-"); ok && !strings.Contains(b, "-") {
		n.relays[location] = a + " ↔ " + b
	}
}

func (c *Comparison) names() names {
	n := names{spaces: map[string][]string{}, relays: map[string]string{}}
	for _, l := range c.Layers {
		if isOfService(l.Layer) {
			n.add(l.Location, l.Namespace)
		} else if l.Layer == observe.RelayNetwork {
			n.addLink(l.Location)
			if node, ok := strings.CutPrefix(l.Location, "?-"); ok {
				n.relays[l.Location] = beyond + node
			}
		}
	}
	n.setCommon()
	return n
}

func orQuestion(name string) string {
	if name == "" {
		return "?"
	}
	return name
}

// isOfService reports whether the location of a layer is a service.
func isOfService(l observe.Layer) bool { return l == observe.Application || l == observe.ProtocolStack }

// sidecarMark is at the end of the name of a hop's end that is a sidecar.
const sidecarMark = " (sidecar)"

// service names a service: with its namespace if that is not the common one, or if
// another service has the same name.
func (n names) service(name, namespace string) string {
	name, sidecar := strings.CutSuffix(name, sidecarMark)
	if namespace != "" {
		name = strings.TrimSuffix(name, "."+namespace)
	}
	if namespace != "" && (namespace != n.common || len(n.spaces[name]) > 1) {
		name += "." + namespace
	}
	if sidecar {
		name += sidecarMark
	}
	return name
}

// beyond is before the one node of a relay network that is known.
const beyond = "beyond "

// place names the location of a layer.
func (n names) place(l observe.Layer, location, namespace string) string {
	if name := n.relays[location]; name != "" && !isOfService(l) {
		return name
	}
	return n.service(location, namespace)
}

// sentence is the verdict with the location as in the tables.
func (n names) sentence(v *Verdict) string {
	if !isOfService(v.Layer) || v.Location == "" {
		return n.evidence(v.sentence())
	}
	return replaced(v.sentence(), map[string]string{v.Location: n.place(v.Layer, v.Location, v.Namespace)})
}

// evidence names pairs of nodes as in the tables. The services of evidence stay as they
// are: of two with one name it may be either.
func (n names) evidence(text string) string { return replaced(text, n.relays) }

// replaced puts names in the place of locations in a text, where " of " is before them.
func replaced(text string, shown map[string]string) string {
	for location, name := range shown {
		found := " of " + location
		for from := 0; ; {
			i := strings.Index(text[from:], found)
			if i < 0 {
				break
			}
			start, end := from+i+len(" of "), from+i+len(found)
			from = end
			if next, _ := utf8.DecodeRuneInString(text[end:]); end == len(text) || strings.ContainsRune(" ,;:", next) || text[end:] == "." {
				if strings.HasPrefix(name, beyond) { // no "of beyond"
					start -= len("of ")
				}
				text = text[:start] + name + text[end:]
				from = start + len(name)
			}
		}
	}
	return text
}

// asShown returns a copy of the verdict with the sentences that people read.
func (v Verdict) asShown(n names) Verdict {
	v.Text = n.sentence(&v)
	evidence := make([]string, len(v.Evidence))
	for i, e := range v.Evidence {
		evidence[i] = n.evidence(e)
	}
	v.Evidence = evidence
	return v
}
