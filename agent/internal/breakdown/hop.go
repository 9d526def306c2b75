// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/internal/observe"
)

// Hop is one request on one TCP connection, with all its observations.
type Hop struct {
	TraceID trace.TraceID
	SpanID  trace.SpanID
	// The capture points in the order of the request: the sockets at both ends
	// and the interfaces between them. nil: that point was not captured.
	Sender, Receiver       *observe.Observation
	ClientVNIC, ClientPNIC *observe.Observation
	ServerPNIC, ServerVNIC *observe.Observation
	// Devices are what devices between the nodes saw, in no order.
	Devices []*observe.Observation

	// Parent is the hop whose handling made this request, nil for a root.
	// Children are in the order of their starts.
	Parent   *Hop
	Children []*Hop
	// OnCriticalPath: the parent's response waited for this hop.
	OnCriticalPath bool
	// Segments of the time, in the order of their starts.
	Segments []Segment
	// Start is the offset from the start of the root in ns, for display only:
	// between nodes it assumes that half of the relay network's time belongs to
	// each direction. Total is the time from the first to the last waypoint, on
	// one clock.
	Start, Total int64
	// Unattributed is Total without Segments and the children on the critical
	// path. Contradicting times can make it negative.
	Unattributed int64
	// Notes report what is missing or contradictory.
	Notes []string

	shift map[string]int64 // per node: from its clock to offsets from the root's start
}

// Observations returns the hop's observations at its nodes in the order of the request.
func (h *Hop) Observations() (all []*observe.Observation) {
	for _, o := range []*observe.Observation{h.Sender, h.ClientVNIC, h.ClientPNIC, h.ServerPNIC, h.ServerVNIC, h.Receiver} {
		if o != nil {
			all = append(all, o)
		}
	}
	return all
}

// ClientNode returns the node of the sender, "" if unknown.
func (h *Hop) ClientNode() string { return nodeOf(h.Sender, h.ClientVNIC, h.ClientPNIC) }

// Cut returns the flags of observe.Cut that any capture point of the hop set: its times
// are then not those of the whole exchange.
func (h *Hop) Cut() (flags observe.Flags) {
	for _, o := range h.Observations() {
		flags |= o.Flags
	}
	return flags & observe.Cut
}

// Seen returns the first and the last point that the hop's time is known of, on the side of
// its sender: "process", "TCP", "pod" or "node"; "" if none.
func (h *Hop) Seen() (from, to string) {
	request, response := h.requestWaypoints(), h.responseWaypoints()
	if len(request) > 0 {
		from = pointNames[request[0].position]
	}
	if len(response) > 0 {
		to = pointNames[response[len(response)-1].position]
	}
	return from, to
}

// ServerNode returns the node of the receiver, "" if unknown.
func (h *Hop) ServerNode() string { return nodeOf(h.Receiver, h.ServerVNIC, h.ServerPNIC) }

func nodeOf(observations ...*observe.Observation) string {
	for _, o := range observations {
		if o != nil {
			return o.Point.Node
		}
	}
	return ""
}

// ClientService returns the service of the sender, "" if unknown.
func (h *Hop) ClientService() string { return h.client().name }

// ClientNamespace returns the namespace of ClientService, "" if unknown.
func (h *Hop) ClientNamespace() string { return h.client().namespace }

// ServerService returns the service of the receiver, "" if unknown.
func (h *Hop) ServerService() string { return h.server().name }

// ServerNamespace returns the namespace of ServerService, "" if unknown.
func (h *Hop) ServerNamespace() string { return h.server().namespace }

func (h *Hop) client() location {
	return h.service(func(o *observe.Observation) observe.Peer { return o.Peers.Client }, h.Sender, h.ClientVNIC)
}

func (h *Hop) server() location {
	return h.service(func(o *observe.Observation) observe.Peer { return o.Peers.Server }, h.Receiver, h.ServerVNIC)
}

// service returns the service of the first of an end's own observations that has one,
// else what another observation knows of the end's address.
func (h *Hop) service(peer func(*observe.Observation) observe.Peer, own ...*observe.Observation) location {
	for _, o := range own {
		if o != nil && o.Point.Workload.Service != "" {
			return location{o.Point.Workload.Service, o.Point.Workload.Namespace}
		}
	}
	for _, o := range h.Observations() {
		if p := peer(o); p.Service != "" {
			return location{p.Service, p.Namespace}
		}
	}
	return location{}
}

// Hops groups the observations of one trace into hops, in the order of their
// starts. A request that was sent again under the same span ID and connection
// makes one hop per attempt.
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

// hopKey is common to all observations of a hop. The client's address survives
// redirection and a service's virtual IP, but not masquerading.
type hopKey struct {
	span   trace.SpanID
	client netip.AddrPort
	pod    string // only for loopback connections, whose addresses are the same in every pod
}

func keyOf(o *observe.Observation) hopKey {
	k := hopKey{span: trace.SpanID(o.Context.SpanID), client: netip.AddrPortFrom(o.Client.Addr().Unmap(), o.Client.Port())}
	if o.Client.Addr().IsLoopback() {
		k.pod = netnsKey(o)
	}
	return k
}

// podKey identifies the pod of an observation by what is known of it.
func podKey(o *observe.Observation) string {
	w := &o.Point.Workload
	return o.Point.Node + "/" + w.Namespace + "/" + cmp.Or(w.Pod, w.Service)
}

// netnsKey identifies the network namespace of a socket, else its pod. On a machine
// without pods, several services share a namespace.
func netnsKey(o *observe.Observation) string {
	if o.Socket != nil && o.Socket.Netns != 0 {
		return o.Point.Node + "/netns/" + strconv.FormatUint(uint64(o.Socket.Netns), 10)
	}
	return podKey(o)
}

// aliases maps hop keys of one connection to one of them: those that differ by address
// translation only, and those of loopback devices.
func aliases(observations []observe.Observation) map[hopKey]hopKey {
	alias := translated(observations)
	addLoopback(observations, alias)
	addRedirected(observations, alias)
	return alias
}

// addRedirected maps the key of a receiver's socket to that of the sender's in the same
// network namespace if they differ by the client's port only. A redirection to a sidecar
// changes the source port too when another connection to the sidecar has it: a program may
// use one port for connections to two servers (net/netfilter/nf_nat_core.c,
// get_unique_tuple). Each of the two is the only one that fits the other, or they stay apart.
func addRedirected(observations []observe.Observation, alias map[hopKey]hopKey) {
	count := map[hopKey]int{}
	for i := range observations {
		count[keyOf(&observations[i])]++
	}
	var senders, receivers []*observe.Observation
	for i := range observations {
		o := &observations[i]
		k := keyOf(o)
		if _, known := alias[k]; known || o.Socket == nil || count[k] > 1 {
			continue
		}
		if o.Socket.Client {
			senders = append(senders, o)
		} else {
			receivers = append(receivers, o)
		}
	}
	fits := map[*observe.Observation][]*observe.Observation{}
	for _, s := range senders {
		for _, r := range receivers {
			if isRedirected(s, r) {
				fits[s], fits[r] = append(fits[s], r), append(fits[r], s)
			}
		}
	}
	for _, s := range senders {
		if len(fits[s]) == 1 && len(fits[fits[s][0]]) == 1 {
			alias[keyOf(fits[s][0])] = keyOf(s)
		}
	}
}

// isRedirected reports whether sender and receiver may be the ends of one connection within
// a network namespace, but for the client's port: the same bytes, one after the other.
func isRedirected(sender, receiver *observe.Observation) bool {
	return sender.Context.SpanID == receiver.Context.SpanID && netnsKey(sender) == netnsKey(receiver) &&
		sender.Client.Addr().Unmap() == receiver.Client.Addr().Unmap() &&
		sender.Request.Bytes == receiver.Request.Bytes && sender.Response.Bytes == receiver.Response.Bytes &&
		sender.Request.First <= receiver.Request.First && receiver.Response.Last <= sender.Response.Last
}

// addLoopback maps the key of a loopback device, which shows no network namespace, to
// the one key of sockets on its node that differs by the namespace only. With several
// the device's exchange stays a hop of its own.
func addLoopback(observations []observe.Observation, alias map[hopKey]hopKey) {
	for i := range observations {
		o := &observations[i]
		if !o.Point.IsLoopback() || !o.Client.Addr().IsLoopback() {
			continue
		}
		own := keyOf(o)
		var found []hopKey
		for j := range observations {
			s := &observations[j]
			k := keyOf(s)
			if s.Socket != nil && s.Point.Node == o.Point.Node && k.span == own.span && k.client == own.client && !slices.Contains(found, k) {
				found = append(found, k)
			}
		}
		if len(found) == 1 {
			alias[own] = found[0]
		}
	}
}

// translated maps the keys of observations of one span with the same connection ID in
// the TCP option to one of them.
func translated(observations []observe.Observation) map[hopKey]hopKey {
	type connection struct {
		span trace.SpanID
		id   string
	}
	first, alias := map[connection]hopKey{}, map[hopKey]hopKey{}
	for i := range observations {
		o := &observations[i]
		if len(o.ConnectionID) == 0 {
			continue
		}
		c, k := connection{trace.SpanID(o.Context.SpanID), string(o.ConnectionID)}, keyOf(o)
		if f, ok := first[c]; !ok {
			first[c] = k
		} else if f != k {
			alias[k] = f
		}
	}
	return alias
}

// attempts makes the hops of one connection and span. Every capture point saw
// every attempt, or its observations cannot be assigned and are skipped.
func attempts(group []*observe.Observation) []*Hop {
	type slotOnNode struct {
		slot int
		node string
	}
	var layout Hop
	slots := []**observe.Observation{&layout.Sender, &layout.ClientVNIC, &layout.ClientPNIC, &layout.ServerPNIC, &layout.ServerVNIC, &layout.Receiver}
	seen := map[slotOnNode][]*observe.Observation{}
	count := 0
	var devices []*observe.Observation
	for _, o := range group {
		if o.Point.Kind == observe.KindDevice {
			devices = append(devices, o)
			continue
		}
		at := slotOnNode{slices.Index(slots, layout.slot(o)), o.Point.Node}
		seen[at] = append(seen[at], o)
		count = max(count, len(seen[at]))
	}
	hops := make([]*Hop, count)
	for i := range hops {
		hops[i] = &Hop{TraceID: trace.TraceID(group[0].Context.TraceID), SpanID: trace.SpanID(group[0].Context.SpanID), shift: map[string]int64{}}
	}
	for _, at := range slices.SortedFunc(maps.Keys(seen), func(a, b slotOnNode) int {
		return cmp.Or(cmp.Compare(a.slot, b.slot), cmp.Compare(a.node, b.node))
	}) {
		list := seen[at]
		if len(list) != count {
			for _, h := range hops {
				h.Notes = append(h.Notes, "the request was sent more than once, and "+pointTitle(list[0].Point)+" did not see every attempt")
			}
			continue
		}
		slices.SortFunc(list, func(a, b *observe.Observation) int { return cmp.Compare(a.Request.First, b.Request.First) })
		for i, o := range list {
			hops[i].put(o)
		}
	}
	assignDevices(hops, devices)
	return hops
}

// slot returns the field of the hop that an observation belongs to.
func (h *Hop) slot(o *observe.Observation) **observe.Observation {
	out := o.Direction == directionOut(o.Point.Kind)
	switch {
	case o.Point.Kind == observe.KindSocket && o.Socket.Client:
		return &h.Sender
	case o.Point.Kind == observe.KindSocket:
		return &h.Receiver
	case o.Point.Kind == observe.KindVNIC && out:
		return &h.ClientVNIC
	case o.Point.Kind == observe.KindVNIC:
		return &h.ServerVNIC
	case out:
		return &h.ClientPNIC
	default:
		return &h.ServerPNIC
	}
}

// directionOut is the direction in which a request leaves its sender's pod or
// node through an interface.
func directionOut(kind observe.Kind) observe.Direction {
	if kind == observe.KindVNIC {
		return observe.DirectionIngress
	}
	return observe.DirectionEgress
}

// put stores an observation in its slot. If the slot is taken, one of the two is
// from a node that only forwards the request.
func (h *Hop) put(o *observe.Observation) {
	slot := h.slot(o)
	if *slot == nil {
		*slot = o
		return
	}
	// Keep the node that has the sender's socket or virtual interface.
	kept, other := *slot, o
	if home := nodeOf(h.Sender, h.ClientVNIC); slot == &h.ClientPNIC && home == o.Point.Node {
		kept, other = o, *slot
	}
	*slot = kept
	h.Notes = append(h.Notes, "the request also passed "+pointTitle(other.Point)+"; that time counts as relay network")
}

// wall returns the earliest wall time, for display.
func (h *Hop) wall() int64 {
	first := int64(0)
	for _, o := range h.Observations() {
		if first == 0 || o.Wall < first {
			first = o.Wall
		}
	}
	return first
}
