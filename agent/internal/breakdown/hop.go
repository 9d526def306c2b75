// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"cmp"
	"net/netip"
	"slices"

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
	// Depth is the number of hops above.
	Depth int
	// Awaited: the parent's response waited for this hop. OnCriticalPath: the trace did, as
	// the parents of this hop were awaited, too, or it is the longest root.
	Awaited, OnCriticalPath bool
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

	root   *Hop
	memory *memory          // nil in tests
	shift  map[string]int64 // per node: from its clock to offsets from the root's start

	waypoints struct { // of both messages, once they were asked for
		known             bool
		request, response []waypoint
	}
}

// Observations returns the hop's observations at its nodes in the order of the request.
func (h *Hop) Observations() (all []*observe.Observation) {
	for o := range h.Each {
		all = append(all, o)
	}
	return all
}

// Each yields the hop's observations at its nodes in the order of the request.
func (h *Hop) Each(yield func(*observe.Observation) bool) {
	for _, o := range [...]*observe.Observation{h.Sender, h.ClientVNIC, h.ClientPNIC, h.ServerPNIC, h.ServerVNIC, h.Receiver} {
		if o != nil && !yield(o) {
			return
		}
	}
}

// Root returns the topmost hop above in its Tree.
func (h *Hop) Root() *Hop { return h.root }

// ClientNode returns the node of the sender, "" if unknown.
func (h *Hop) ClientNode() string { return nodeOf(h.Sender, h.ClientVNIC, h.ClientPNIC) }

// Cut returns the flags of observe.Cut that any capture point of the hop set: its times
// are then not those of the whole exchange.
func (h *Hop) Cut() (flags observe.Flags) {
	for o := range h.Each {
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
	for o := range h.Each {
		if p := peer(o); p.Service != "" {
			return location{p.Service, p.Namespace}
		}
	}
	return location{}
}

// Hops groups the observations of one trace into hops, in the order of their
// starts. A request that was sent again under the same span ID and connection
// makes one hop per attempt. parents has the parent of spans, or is nil.
func Hops(observations []observe.Observation, parents map[trace.SpanID]trace.SpanID) []*Hop {
	return hopsOf(&memory{}, observations, parents)
}

func hopsOf(m *memory, observations []observe.Observation, parents map[trace.SpanID]trace.SpanID) []*Hop {
	groups := map[hopKey][]*observe.Observation{}
	alias := aliases(observations, parents)
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
		hops = append(hops, attempts(m, groups[k])...)
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
	return text(o.Point.Node, "/", w.Namespace, "/", cmp.Or(w.Pod, w.Service))
}

// netnsKey identifies the network namespace of a socket, else its pod. On a machine
// without pods, several services share a namespace.
func netnsKey(o *observe.Observation) string {
	if o.Socket != nil && o.Socket.Netns != 0 {
		return ofNetns.Get(netns{o.Point.Node, o.Socket.Netns})
	}
	return podKey(o)
}

// aliases maps hop keys of one connection to one of them: those that differ by address
// translation only, those of loopback devices, and those of encrypted exchanges of which the
// server's side has the server's own span.
func aliases(observations []observe.Observation, parents map[trace.SpanID]trace.SpanID) map[hopKey]hopKey {
	alias := translated(observations)
	addOwnSpans(observations, parents, alias)
	addLoopback(observations, alias)
	addRedirected(observations, alias)
	return alias
}

// contain reports whether some observations, most often none, are of a kind.
func contain(observations []observe.Observation, of func(*observe.Observation) bool) bool {
	for i := range observations {
		if of(&observations[i]) {
			return true
		}
	}
	return false
}

// addOwnSpans maps the keys of encrypted exchanges at the server's side, where the header
// could not be read and the span is the server's own, to that of the client's side. The
// parent of the server's span is the header's. Where it is not known, only one exchange of
// the connection may enclose that of the server, on one clock.
func addOwnSpans(observations []observe.Observation, parents map[trace.SpanID]trace.SpanID, alias map[hopKey]hopKey) {
	if !contain(observations, func(o *observe.Observation) bool { return o.Join != observe.JoinNone }) {
		return
	}
	var servers []*observe.Observation
	clients := map[connectionOnNode]*enclosing[hopKey]{}
	known := map[hopKey]bool{}
	for i := range observations {
		o := &observations[i]
		switch {
		case o.Join == observe.JoinNone:
		case isServerSide(o):
			servers = append(servers, o)
		default:
			k, c := keyOf(o), connectionOf(o)
			if clients[c] == nil {
				clients[c] = &enclosing[hopKey]{}
			}
			clients[c].add(o.Request.First, o.Response.Last, k)
			known[k] = true
		}
	}
	for _, c := range clients {
		c.prepare()
	}
	for _, s := range servers {
		k := keyOf(s)
		if known[k] {
			continue // the header's span
		}
		if header, ok := headerOf(s, parents, known); ok {
			if header != k {
				alias[k] = header
			}
			continue
		}
		found := map[hopKey]bool{}
		tried := 0
		for c := range clients[connectionOf(s)].of(s.Request.First, s.Response.Last) {
			found[c.of] = true
			if tried++; len(found) > 1 || tried == maxFitting {
				break
			}
		}
		if len(found) == 1 && tried < maxFitting {
			for header := range found {
				alias[k] = header
			}
		}
	}
}

// maxFitting is how many exchanges are compared with one to find the only one that fits.
// Exchanges of one connection follow each other, so few do.
const maxFitting = 64

// connectionOnNode identifies a connection by what capture points of one node see of it.
type connectionOnNode struct {
	client, server netip.AddrPort
	node           string
}

func connectionOf(o *observe.Observation) connectionOnNode {
	return connectionOnNode{keyOf(o).client, o.Server, o.Point.Node}
}

// headerOf returns the key of the client's side of an encrypted exchange by the parent of the
// server's own span, and whether that is known; the own key if the client's side was not seen.
// Of an inferred join the client's side has the span above the header's.
func headerOf(s *observe.Observation, parents map[trace.SpanID]trace.SpanID, known map[hopKey]bool) (hopKey, bool) {
	own := keyOf(s)
	header, found := own, false
	generations := 1
	if s.Join == observe.JoinInferred {
		generations = 2
	}
	for range generations {
		parent, ok := parents[header.span]
		if !ok {
			break
		}
		found = true
		if header.span = parent; known[header] {
			return header, true
		}
	}
	return own, found
}

// isServerSide reports whether a capture point is on the side of the request's receiver.
func isServerSide(o *observe.Observation) bool {
	return slotOf(o) >= serverPNIC
}

// Inferred reports whether an encrypted exchange of the hop was joined without a record of a
// proxy: it may belong to another request.
func (h *Hop) Inferred() bool {
	return slices.ContainsFunc(h.Observations(), func(o *observe.Observation) bool { return o.Join == observe.JoinInferred })
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
	type group struct{ senders, receivers []*observe.Observation }
	groups := map[redirected]*group{}
	for i := range observations {
		o := &observations[i]
		k := keyOf(o)
		if _, known := alias[k]; known || o.Socket == nil || count[k] > 1 {
			continue
		}
		same := redirectedOf(o)
		g := groups[same]
		if g == nil {
			g = &group{}
			groups[same] = g
		}
		if o.Socket.Client {
			g.senders = append(g.senders, o)
		} else {
			g.receivers = append(g.receivers, o)
		}
	}
	for _, g := range groups {
		if len(g.senders) == 0 || len(g.receivers) == 0 || len(g.senders) > maxFitting || len(g.receivers) > maxFitting {
			continue // no two of so many fit each other only
		}
		fits := map[*observe.Observation][]*observe.Observation{}
		for _, s := range g.senders {
			for _, r := range g.receivers {
				if s.Request.First <= r.Request.First && r.Response.Last <= s.Response.Last {
					fits[s], fits[r] = append(fits[s], r), append(fits[r], s)
				}
			}
		}
		for _, s := range g.senders {
			if len(fits[s]) == 1 && len(fits[fits[s][0]]) == 1 {
				alias[keyOf(fits[s][0])] = keyOf(s)
			}
		}
	}
}

// redirected is what sender and receiver have in common if they may be the ends of one
// connection within a network namespace, but for the client's port: the same bytes. They
// follow each other, too.
type redirected struct {
	span              trace.SpanID
	netns             string
	client            netip.Addr
	request, response uint64
}

func redirectedOf(o *observe.Observation) redirected {
	return redirected{
		trace.SpanID(o.Context.SpanID), netnsKey(o), o.Client.Addr().Unmap(), o.Request.Bytes, o.Response.Bytes,
	}
}

// addLoopback maps the key of a loopback device, which shows no network namespace, to
// the one key of sockets on its node that differs by the namespace only. With several
// the device's exchange stays a hop of its own.
func addLoopback(observations []observe.Observation, alias map[hopKey]hopKey) {
	type endpoint struct {
		span   trace.SpanID
		client netip.AddrPort
		node   string
	}
	endpointOf := func(o *observe.Observation) endpoint {
		k := keyOf(o)
		return endpoint{k.span, k.client, o.Point.Node}
	}
	ofDevice := func(o *observe.Observation) bool { return o.Point.IsLoopback() && o.Client.Addr().IsLoopback() }
	if !contain(observations, ofDevice) {
		return
	}
	sockets := map[endpoint]map[hopKey]bool{}
	for i := range observations {
		if o := &observations[i]; o.Socket != nil {
			at := endpointOf(o)
			if sockets[at] == nil {
				sockets[at] = map[hopKey]bool{}
			}
			sockets[at][keyOf(o)] = true
		}
	}
	for i := range observations {
		o := &observations[i]
		if !ofDevice(o) {
			continue
		}
		if found := sockets[endpointOf(o)]; len(found) == 1 {
			for k := range found {
				alias[keyOf(o)] = k
			}
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

// maxIncomplete is how many capture points that did not see every attempt are named.
const maxIncomplete = 16

// attempts makes the hops of one connection and span. Every capture point saw
// every attempt, or its observations cannot be assigned and are skipped.
func attempts(m *memory, group []*observe.Observation) []*Hop {
	type seen struct {
		slot slot
		of   *observe.Observation
	}
	all := make([]seen, 0, len(group))
	var devices []*observe.Observation
	for _, o := range group {
		if o.Point.Kind == observe.KindDevice {
			devices = append(devices, o)
			continue
		}
		all = append(all, seen{slotOf(o), o})
	}
	samePoint := func(a, b seen) int {
		return cmp.Or(cmp.Compare(a.slot, b.slot), cmp.Compare(a.of.Point.Node, b.of.Point.Node))
	}
	slices.SortStableFunc(all, func(a, b seen) int {
		return cmp.Or(samePoint(a, b), cmp.Compare(a.of.Request.First, b.of.Request.First))
	})
	// of returns the observations of the first point in a list.
	of := func(list []seen) []seen {
		n := 1
		for n < len(list) && samePoint(list[0], list[n]) == 0 {
			n++
		}
		return list[:n]
	}
	count := 0
	for rest := all; len(rest) > 0; rest = rest[len(of(rest)):] {
		count = max(count, len(of(rest)))
	}
	incomplete := 0
	hops := make([]*Hop, count)
	for i := range hops {
		hops[i] = &append(take(&m.hops, 1), Hop{
			TraceID: trace.TraceID(group[0].Context.TraceID), SpanID: trace.SpanID(group[0].Context.SpanID), memory: m, shift: map[string]int64{},
		})[0]
	}
	for rest := all; len(rest) > 0; rest = rest[len(of(rest)):] {
		list := of(rest)
		if len(list) != count {
			if incomplete++; incomplete <= maxIncomplete {
				for _, h := range hops {
					h.Notes = append(h.Notes, "the request was sent more than once, and "+pointTitle(list[0].of.Point)+" did not see every attempt")
				}
			}
			continue
		}
		for i, o := range list {
			hops[i].put(o.of)
		}
	}
	assignDevices(hops, devices)
	return hops
}

// slot is the place of an observation in a hop, in the order of the request.
type slot int

const (
	sender slot = iota
	clientVNIC
	clientPNIC
	serverPNIC
	serverVNIC
	receiver
)

// slotOf returns the place of an observation.
func slotOf(o *observe.Observation) slot {
	out := o.Direction == directionOut(o.Point.Kind)
	switch {
	case o.Point.Kind == observe.KindSocket && o.Socket.Client:
		return sender
	case o.Point.Kind == observe.KindSocket:
		return receiver
	case o.Point.Kind == observe.KindVNIC && out:
		return clientVNIC
	case o.Point.Kind == observe.KindVNIC:
		return serverVNIC
	case out:
		return clientPNIC
	default:
		return serverPNIC
	}
}

// at returns the field of the hop for a place.
func (h *Hop) at(s slot) **observe.Observation {
	return [...]**observe.Observation{&h.Sender, &h.ClientVNIC, &h.ClientPNIC, &h.ServerPNIC, &h.ServerVNIC, &h.Receiver}[s]
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
	slot := h.at(slotOf(o))
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
	for o := range h.Each {
		if first == 0 || o.Wall < first {
			first = o.Wall
		}
	}
	return first
}
