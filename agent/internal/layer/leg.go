// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"cmp"
	"net/netip"
	"slices"

	"go.opentelemetry.io/otel/trace"
)

// Leg is one request on one TCP connection, with all that was seen of it.
type Leg struct {
	TraceID trace.TraceID
	SpanID  trace.SpanID
	// Sender and Receiver are the sockets at both ends, the others the
	// interfaces in the order of the request; nil where nobody looked.
	Sender, Receiver       *Sighting
	ClientVNIC, ClientPNIC *Sighting
	ServerPNIC, ServerVNIC *Sighting

	// Parent is the leg whose request was handled by making this one, nil for a
	// root. Children are in the order of their starts.
	Parent   *Leg
	Children []*Leg
	// Waited is set when the parent's response waited for this leg.
	Waited bool
	// Parts of the time, in the order of their starts.
	Parts []Part
	// Start is the offset from the start of the root, in ns, for display: between
	// nodes it rests on a guess (half of the relay network's time each way).
	// Total is the time from the first to the last mark on one clock.
	Start, Total int64
	// Unattributed is Total without Parts and the legs that it waited for; it
	// can be negative, by contradicting times.
	Unattributed int64
	// Notes say what is missing or contradicts itself.
	Notes []string

	shift map[string]int64 // from a node's clock to offsets from the root's start
}

// sightings returns those that there are, in the order of the request.
func (l *Leg) sightings() (all []*Sighting) {
	for _, s := range []*Sighting{l.Sender, l.ClientVNIC, l.ClientPNIC, l.ServerPNIC, l.ServerVNIC, l.Receiver} {
		if s != nil {
			all = append(all, s)
		}
	}
	return all
}

// Sightings returns all that was seen of the leg, in the order of the request.
func (l *Leg) Sightings() []*Sighting { return l.sightings() }

// ClientNode and ServerNode return names of nodes, "" where nobody looked.
func (l *Leg) ClientNode() string { return nodeOf(l.Sender, l.ClientVNIC, l.ClientPNIC) }

// ServerNode is the node of the receiver.
func (l *Leg) ServerNode() string { return nodeOf(l.Receiver, l.ServerVNIC, l.ServerPNIC) }

func nodeOf(sightings ...*Sighting) string {
	for _, s := range sightings {
		if s != nil {
			return s.Node
		}
	}
	return ""
}

// ClientService and ServerService return the services at both ends, "" where
// they are not known.
func (l *Leg) ClientService() string {
	return cmp.Or(serviceOf(l.Sender, l.ClientVNIC), l.peer(func(s *Sighting) string { return s.ClientName }))
}

// ServerService is the service of the receiver.
func (l *Leg) ServerService() string {
	return cmp.Or(serviceOf(l.Receiver, l.ServerVNIC), l.peer(func(s *Sighting) string { return s.ServerName }))
}

func serviceOf(sightings ...*Sighting) string {
	for _, s := range sightings {
		if s != nil && s.Service != "" {
			return s.Service
		}
	}
	return ""
}

// peer is what a sighting knows of an end that was not seen itself.
func (l *Leg) peer(name func(*Sighting) string) string {
	for _, s := range l.sightings() {
		if n := name(s); n != "" {
			return n
		}
	}
	return ""
}

// legKey is what all sightings of a leg share: the client's end stays the same
// through redirection and a service's address, but not through masquerading.
type legKey struct {
	span   trace.SpanID
	client netip.AddrPort
	// pod is set for connections on loopback, whose addresses every pod has.
	pod string
}

func keyOf(s *Sighting) legKey {
	k := legKey{span: s.SpanID, client: netip.AddrPortFrom(s.Client.Addr().Unmap(), s.Client.Port())}
	if s.Client.Addr().IsLoopback() {
		k.pod = podKey(s)
	}
	return k
}

// podKey names the pod of a sighting as well as it is known.
func podKey(s *Sighting) string { return s.Node + "/" + cmp.Or(s.Pod, s.Service) }

// slot returns where in the leg a sighting belongs.
func (l *Leg) slot(s *Sighting) **Sighting {
	out := s.Direction == directionOut(s.Kind)
	switch {
	case s.Kind == Socket && s.Sender:
		return &l.Sender
	case s.Kind == Socket:
		return &l.Receiver
	case s.Kind == VNIC && out:
		return &l.ClientVNIC
	case s.Kind == VNIC:
		return &l.ServerVNIC
	case out:
		return &l.ClientPNIC
	default:
		return &l.ServerPNIC
	}
}

// Legs orders the sightings of one trace into legs, by their starts. A request
// that was sent again under the same span ID and connection makes a leg for
// each attempt.
func Legs(sightings []Sighting) []*Leg {
	groups := map[legKey][]*Sighting{}
	alias := aliases(sightings)
	var order []legKey
	for i := range sightings {
		k := keyOf(&sightings[i])
		if other, ok := alias[k]; ok {
			k = other
		}
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], &sightings[i])
	}
	var legs []*Leg
	for _, k := range order {
		legs = append(legs, attempts(groups[k])...)
	}
	slices.SortStableFunc(legs, func(a, b *Leg) int { return cmp.Compare(a.wall(), b.wall()) })
	return legs
}

// aliases joins what address translation took apart: sightings of one span
// whose TCP option has the same connection ID.
func aliases(sightings []Sighting) map[legKey]legKey {
	type connection struct {
		span trace.SpanID
		id   string
	}
	first, alias := map[connection]legKey{}, map[legKey]legKey{}
	for i := range sightings {
		s := &sightings[i]
		if s.ConnectionID == "" {
			continue
		}
		c, k := connection{s.SpanID, s.ConnectionID}, keyOf(s)
		if f, ok := first[c]; !ok {
			first[c] = k
		} else if f != k {
			alias[k] = f
		}
	}
	return alias
}

// attempts makes the legs of one connection and span.
func attempts(group []*Sighting) []*Leg {
	type place struct {
		slot int
		node string
	}
	var probe Leg
	slots := []**Sighting{&probe.Sender, &probe.ClientVNIC, &probe.ClientPNIC, &probe.ServerPNIC, &probe.ServerVNIC, &probe.Receiver}
	seen := map[place][]*Sighting{}
	count := 0
	for _, s := range group {
		at := place{slices.Index(slots, probe.slot(s)), s.Node}
		seen[at] = append(seen[at], s)
		count = max(count, len(seen[at]))
	}
	legs := make([]*Leg, count)
	for i := range legs {
		legs[i] = &Leg{TraceID: group[0].TraceID, SpanID: group[0].SpanID, shift: map[string]int64{}}
	}
	for _, at := range sortedPlaces(seen, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.slot, b.slot), cmp.Compare(a.node, b.node))
	}) {
		list := seen[at]
		if len(list) != count {
			for _, l := range legs {
				l.Notes = append(l.Notes, "the request was sent more than once, and not every attempt was seen at "+list[0].name())
			}
			continue
		}
		slices.SortFunc(list, func(a, b *Sighting) int { return cmp.Compare(a.Request.First, b.Request.First) })
		for i, s := range list {
			legs[i].take(s)
		}
	}
	return legs
}

// take puts a sighting into its place. A second one there is of a node that the
// request only passes.
func (l *Leg) take(s *Sighting) {
	slot := l.slot(s)
	if *slot == nil {
		*slot = s
		return
	}
	// The end that sockets and virtual interfaces are at is the leg's own.
	kept, other := *slot, s
	if home := nodeOf(l.Sender, l.ClientVNIC); slot == &l.ClientPNIC && home == s.Node {
		kept, other = s, *slot
	}
	*slot = kept
	l.Notes = append(l.Notes, "it also passed "+other.name()+", which is counted as part of the relay network")
}

// wall is the earliest wall time, for display.
func (l *Leg) wall() int64 {
	first := int64(0)
	for _, s := range l.sightings() {
		if first == 0 || s.Wall < first {
			first = s.Wall
		}
	}
	return first
}

func sortedPlaces[K comparable, V any](m map[K]V, compare func(a, b K) int) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compare)
	return keys
}
