// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"cmp"
	"net/netip"
	"slices"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/internal/observe"
)

// Hop is one request on one TCP connection, with all that was seen of it.
type Hop struct {
	TraceID trace.TraceID
	SpanID  trace.SpanID
	// Sender and Receiver are the sockets at both ends, the others the
	// interfaces in the order of the request; nil between nobody looked.
	Sender, Receiver       *observe.Observation
	ClientVNIC, ClientPNIC *observe.Observation
	ServerPNIC, ServerVNIC *observe.Observation

	// Parent is the hop whose request was handled by making this one, nil for a
	// root. Children are in the order of their starts.
	Parent   *Hop
	Children []*Hop
	// OnCriticalPath is set when the parent's response critical for this hop.
	OnCriticalPath bool
	// Segments of the time, in the order of their starts.
	Segments []Segment
	// Start is the offset from the start of the root, in ns, for display: between
	// nodes it rests on a guess (half of the relay network's time each path).
	// Total is the time from the first to the last waypoint on one clock.
	Start, Total int64
	// Unattributed is Total without Segments and the hops that it critical for; it
	// can be negative, by contradicting times.
	Unattributed int64
	// Notes say what is missing or contradicts itself.
	Notes []string

	shift map[string]int64 // from a node's clock to offsets from the root's start
}

// observations returns those that there are, in the order of the request.
func (l *Hop) observations() (all []*observe.Observation) {
	for _, s := range []*observe.Observation{l.Sender, l.ClientVNIC, l.ClientPNIC, l.ServerPNIC, l.ServerVNIC, l.Receiver} {
		if s != nil {
			all = append(all, s)
		}
	}
	return all
}

// Observations returns all that was seen of the hop, in the order of the request.
func (l *Hop) Observations() []*observe.Observation { return l.observations() }

// ClientNode and ServerNode return names of nodes, "" between nobody looked.
func (l *Hop) ClientNode() string { return nodeOf(l.Sender, l.ClientVNIC, l.ClientPNIC) }

// ServerNode is the node of the receiver.
func (l *Hop) ServerNode() string { return nodeOf(l.Receiver, l.ServerVNIC, l.ServerPNIC) }

func nodeOf(observations ...*observe.Observation) string {
	for _, s := range observations {
		if s != nil {
			return s.Point.Node
		}
	}
	return ""
}

// ClientService and ServerService return the services at both ends, "" between
// they are not known.
func (l *Hop) ClientService() string {
	return cmp.Or(serviceOf(l.Sender, l.ClientVNIC), l.peer(func(s *observe.Observation) string { return s.Peers.Client.Service }))
}

// ServerService is the service of the receiver.
func (l *Hop) ServerService() string {
	return cmp.Or(serviceOf(l.Receiver, l.ServerVNIC), l.peer(func(s *observe.Observation) string { return s.Peers.Server.Service }))
}

func serviceOf(observations ...*observe.Observation) string {
	for _, s := range observations {
		if s != nil && s.Point.Workload.Service != "" {
			return s.Point.Workload.Service
		}
	}
	return ""
}

// peer is what a observation knows of an end that was not seen itself.
func (l *Hop) peer(name func(*observe.Observation) string) string {
	for _, s := range l.observations() {
		if n := name(s); n != "" {
			return n
		}
	}
	return ""
}

// hopKey is what all observations of a hop share: the client's end stays the same
// through redirection and a service's address, but not through masquerading.
type hopKey struct {
	span   trace.SpanID
	client netip.AddrPort
	// pod is set for connections on loopback, whose addresses every pod has.
	pod string
}

func keyOf(s *observe.Observation) hopKey {
	k := hopKey{span: trace.SpanID(s.Context.SpanID), client: netip.AddrPortFrom(s.Client.Addr().Unmap(), s.Client.Port())}
	if s.Client.Addr().IsLoopback() {
		k.pod = podKey(s)
	}
	return k
}

// podKey names the pod of a observation as well as it is known.
func podKey(s *observe.Observation) string {
	return s.Point.Node + "/" + cmp.Or(s.Point.Workload.Pod, s.Point.Workload.Service)
}

// slot returns between in the hop a observation belongs.
func (l *Hop) slot(s *observe.Observation) **observe.Observation {
	out := s.Direction == directionOut(s.Point.Kind)
	switch {
	case s.Point.Kind == observe.KindSocket && s.Socket.Client:
		return &l.Sender
	case s.Point.Kind == observe.KindSocket:
		return &l.Receiver
	case s.Point.Kind == observe.KindVNIC && out:
		return &l.ClientVNIC
	case s.Point.Kind == observe.KindVNIC:
		return &l.ServerVNIC
	case out:
		return &l.ClientPNIC
	default:
		return &l.ServerPNIC
	}
}

// Hops orders the observations of one trace into hops, by their starts. A request
// that was sent again under the same span ID and connection makes a hop for
// each attempt.
func Hops(observations []observe.Observation) []*Hop {
	groups := map[hopKey][]*observe.Observation{}
	alias := aliases(observations)
	var order []hopKey
	for i := range observations {
		k := keyOf(&observations[i])
		if other, ok := alias[k]; ok {
			k = other
		}
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], &observations[i])
	}
	var hops []*Hop
	for _, k := range order {
		hops = append(hops, attempts(groups[k])...)
	}
	slices.SortStableFunc(hops, func(a, b *Hop) int { return cmp.Compare(a.wall(), b.wall()) })
	return hops
}

// aliases joins what address translation took apart: observations of one span
// whose TCP option has the same connection ID.
func aliases(observations []observe.Observation) map[hopKey]hopKey {
	type connection struct {
		span trace.SpanID
		id   string
	}
	first, alias := map[connection]hopKey{}, map[hopKey]hopKey{}
	for i := range observations {
		s := &observations[i]
		if len(s.ConnectionID) == 0 {
			continue
		}
		c, k := connection{trace.SpanID(s.Context.SpanID), string(s.ConnectionID)}, keyOf(s)
		if f, ok := first[c]; !ok {
			first[c] = k
		} else if f != k {
			alias[k] = f
		}
	}
	return alias
}

// attempts makes the hops of one connection and span.
func attempts(group []*observe.Observation) []*Hop {
	type location struct {
		slot int
		node string
	}
	var probe Hop
	slots := []**observe.Observation{&probe.Sender, &probe.ClientVNIC, &probe.ClientPNIC, &probe.ServerPNIC, &probe.ServerVNIC, &probe.Receiver}
	seen := map[location][]*observe.Observation{}
	count := 0
	for _, s := range group {
		at := location{slices.Index(slots, probe.slot(s)), s.Point.Node}
		seen[at] = append(seen[at], s)
		count = max(count, len(seen[at]))
	}
	hops := make([]*Hop, count)
	for i := range hops {
		hops[i] = &Hop{TraceID: trace.TraceID(group[0].Context.TraceID), SpanID: trace.SpanID(group[0].Context.SpanID), shift: map[string]int64{}}
	}
	for _, at := range sortedPlaces(seen, func(a, b location) int {
		return cmp.Or(cmp.Compare(a.slot, b.slot), cmp.Compare(a.node, b.node))
	}) {
		list := seen[at]
		if len(list) != count {
			for _, l := range hops {
				l.Notes = append(l.Notes, "the request was sent more than once, and not every attempt was seen at "+pointTitle(list[0].Point))
			}
			continue
		}
		slices.SortFunc(list, func(a, b *observe.Observation) int { return cmp.Compare(a.Request.First, b.Request.First) })
		for i, s := range list {
			hops[i].take(s)
		}
	}
	return hops
}

// take puts a observation into its location. A second one there is of a node that the
// request only passes.
func (l *Hop) take(s *observe.Observation) {
	slot := l.slot(s)
	if *slot == nil {
		*slot = s
		return
	}
	// The end that sockets and virtual interfaces are at is the hop's own.
	kept, other := *slot, s
	if home := nodeOf(l.Sender, l.ClientVNIC); slot == &l.ClientPNIC && home == s.Point.Node {
		kept, other = s, *slot
	}
	*slot = kept
	l.Notes = append(l.Notes, "it also passed "+pointTitle(other.Point)+", which is counted as segment of the relay network")
}

// wall is the earliest wall time, for display.
func (l *Hop) wall() int64 {
	first := int64(0)
	for _, s := range l.observations() {
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
