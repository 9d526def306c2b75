// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"math/rand/v2"
	"slices"

	"github.com/layertrace/layertrace/e2e/lab"
)

// DefaultCases is the default number of cases, one in six without a fault: every fault
// of the deck at least once.
const DefaultCases = 612

// Draw draws cases from a seed. One in six has no fault. No fault of the deck repeats
// before all have occurred, and each kind occurs before one repeats.
func Draw(seed uint64, n int) []Case { return draw(seed, n, newDeck) }

// DrawDevices draws cases like Draw for a lab with devices: queues of devices and links, and
// of the nodes at their ends.
func DrawDevices(seed uint64, n int) []Case { return draw(seed, n, newDeviceDeck) }

func draw(seed uint64, n int, newDeck func() []Case) []Case {
	rng := rand.New(rand.NewPCG(seed, 0))
	var cases, rest []Case
	for i := range n {
		if i%6 == 5 {
			cases = append(cases, withoutFault(i/6))
			continue
		}
		if len(rest) == 0 {
			rest = shuffled(newDeck(), rng)
		}
		cases = append(cases, rest[0].choose(rng))
		rest = rest[1:]
	}
	return cases
}

// withoutFault returns the n-th case without a fault. One in three is mixed traffic,
// half of it of the slow endpoint.
func withoutFault(n int) Case {
	c := Case{Kind: NoFault, Version: reviewsVersions[n%3], Load: n%2 == 1}
	if n%3 == 2 {
		c.Kind, c.Report, c.Version = MixedTraffic, n/3%2 == 0, reviewsVersions[n/3%3]
		c.Load = n/6%2 == 1
	}
	return c
}

// shuffled shuffles the deck. One fault of each kind is in front, none of them a long
// pause, and no more than one of the long pauses is in the first half.
func shuffled(deck []Case, rng *rand.Rand) []Case {
	rng.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
	seen := map[Kind]bool{}
	var front, rest, long []Case
	for _, c := range deck {
		switch {
		case c.Magnitude == longPause:
			long = append(long, c)
		case !seen[c.Kind]:
			seen[c.Kind] = true
			front = append(front, c)
		default:
			rest = append(rest, c)
		}
	}
	for i, c := range long {
		at := len(rest) * (2*i + 1) / (2 * len(long))
		rest = slices.Insert(rest, at, c)
	}
	return append(front, rest...)
}

// newDeck returns every fault at every location and magnitude. Those of the first kinds
// are with and without load.
func newDeck() []Case {
	var deck []Case
	add := func(c Case, loads ...bool) { deck = append(deck, c.all(loads...)...) }
	for _, pod := range lab.Pods {
		add(Case{Kind: SidecarStarved, Pod: pod.Name}, false, true)
		if pod.Gateway {
			continue
		}
		add(Case{Kind: AppSleep, Pod: pod.Name}, false, true)
		add(Case{Kind: AppNotReading, Pod: pod.Name}, false, true)
		add(Case{Kind: PodQdisc, Pod: pod.Name}, false, true)
		for _, kind := range []Kind{ResponsePause, EventStream, ResponseReset, SeveralContexts} {
			add(Case{Kind: kind, Pod: pod.Name}, false)
		}
	}
	for _, kind := range []Kind{ResponsePause, EventStream, ResponseReset, ConnectionChurn} {
		add(Case{Kind: kind, Pod: "store", Version: PlainVersion}, false)
	}
	add(Case{Kind: ConnectionChurn, Pod: "details"}, false)
	add(Case{Kind: ConnectionChurn, Pod: "ratings"}, false)
	for _, c := range []Case{
		{Kind: ResponsePause, Pod: "details"}, {Kind: ResponsePause, Pod: "store", Version: PlainVersion}, {Kind: EventStream, Pod: "ratings"},
	} {
		c.Magnitude = longPause
		deck = append(deck, c)
	}
	for _, t := range bulkTransfers() {
		kind := SlowUploadReader
		if t.Response {
			kind = SlowReader
		}
		add(Case{Kind: kind, Pod: t.To(), Transfer: t}, false)
	}
	for _, node := range lab.Nodes {
		if node == lab.ClientNode {
			continue
		}
		add(Case{Kind: DriverQdisc, Node: node}, false, true)
		add(Case{Kind: SlowBridge, Node: node}, false, true)
		for _, to := range lab.Nodes {
			if to != lab.ClientNode && to != node {
				add(Case{Kind: RelayDelay, FromNode: node, ToNode: to}, false, true)
				add(Case{Kind: RelayLoss, FromNode: node, ToNode: to}, false, true)
				add(Case{Kind: RelayReorder, FromNode: node, ToNode: to}, false, true)
				add(Case{Kind: RetransmissionStorm, FromNode: node, ToNode: to}, false, true)
				add(Case{Kind: LinkDown, FromNode: node, ToNode: to}, false)
			}
		}
	}
	return deck
}

// all returns the case at every magnitude, with the loads.
func (c Case) all(loads ...bool) (cases []Case) {
	for _, load := range loads {
		c.Load = load
		if magnitudesOf(c.Kind) == nil {
			cases = append(cases, c)
		}
		for _, d := range magnitudesOf(c.Kind) {
			c.Magnitude = d
			cases = append(cases, c)
		}
	}
	return cases
}

// newDeviceDeck returns the faults of DrawDevices at every location and magnitude, with and
// without load. No message that can be padded passes the link of the client's node.
func newDeviceDeck() (deck []Case) {
	for _, d := range lab.Devices {
		deck = append(deck, Case{Kind: DeviceQueue, Device: d.Name}.all(false, true)...)
	}
	for _, l := range lab.Links() {
		if l.From != lab.NodeName(lab.ClientNode) {
			deck = append(deck, Case{Kind: LinkQueue, Link: l}.all(false, true)...)
		}
	}
	for _, node := range lab.Nodes {
		if node != lab.ClientNode {
			deck = append(deck, Case{Kind: DriverQdisc, Node: node}.all(false, true)...)
		}
	}
	return deck
}

// bulkTransfers are the messages that a slow reader leaves unread: between pods, and
// between the two without sidecars.
func bulkTransfers() (bulk []Transfer) {
	for _, t := range allTransfers() {
		if t.Caller != "gateway" { // it has no application
			bulk = append(bulk, t)
		}
	}
	return append(bulk, Transfer{"reader", "store", false}, Transfer{"reader", "store", true})
}

// choose chooses the message that the fault affects, and a version of reviews whose
// requests have it.
func (c Case) choose(rng *rand.Rand) Case {
	if c.Version == PlainVersion || c.Transfer.Caller == "reader" {
		c.Version = PlainVersion
		return c
	}
	switch transfers := c.transfers(); {
	case c.Transfer != (Transfer{}):
		c.Version = c.Transfer.Version()
	case len(transfers) > 0 && c.Kind != RelayDelay:
		c.Transfer = transfers[rng.IntN(len(transfers))]
		c.Version = c.Transfer.Version()
	case len(transfers) > 0:
		c.Version = transfers[rng.IntN(len(transfers))].Version()
	default:
		c.Version = Transfer{Caller: c.Pod}.Version()
		if c.Pod == "ratings" {
			c.Version = reviewsVersions[1+rng.IntN(2)]
		}
	}
	if c.Version == "" {
		c.Version = reviewsVersions[rng.IntN(len(reviewsVersions))]
	}
	return c
}

// transfers are those that the fault can be for.
func (c Case) transfers() []Transfer {
	return transfersWhere(func(l Transfer, from, to int) bool {
		switch c.Kind {
		case PodQdisc:
			return l.Response && l.From() == c.Pod
		case DriverQdisc:
			return from == c.Node && to != c.Node
		case SlowBridge:
			return from != c.Node && to == c.Node
		case RelayDelay, RelayLoss, RelayReorder, LinkDown, RetransmissionStorm:
			return from == c.FromNode && to == c.ToNode
		case DeviceQueue:
			return lab.IsOnTheWay(c.Device, from, to)
		case LinkQueue:
			return lab.IsOnTheWay(c.Link.Name(), from, to)
		default:
			return false
		}
	})
}

// reviewsVersions are the reviews pods, of which a front page calls one.
var reviewsVersions = []string{"reviews-v1", "reviews-v2", "reviews-v3"}

// Transfer is one message from one pod to another, between their sidecars.
type Transfer struct {
	// Caller calls Callee; both are pods.
	Caller string `json:"caller"`
	Callee string `json:"callee"`
	// Response is set for the response.
	Response bool `json:"response"`
}

// From returns the pod that sends the message.
func (l Transfer) From() string {
	if l.Response {
		return l.Callee
	}
	return l.Caller
}

// To returns the pod that receives the message.
func (l Transfer) To() string {
	if l.Response {
		return l.Caller
	}
	return l.Callee
}

// Version returns the reviews pod at either end, "" if none.
func (l Transfer) Version() string {
	for _, v := range reviewsVersions {
		if l.Caller == v || l.Callee == v {
			return v
		}
	}
	return ""
}

// allTransfers returns the messages that can be padded: all but the request for the
// front page.
func allTransfers() []Transfer {
	pairs := [][2]string{{"productpage", "details"}}
	for _, v := range reviewsVersions {
		pairs = append(pairs, [2]string{"productpage", v})
	}
	pairs = append(pairs, [2]string{"reviews-v2", "ratings"}, [2]string{"reviews-v3", "ratings"})
	transfers := []Transfer{{"gateway", "productpage", true}}
	for _, pair := range pairs {
		transfers = append(transfers, Transfer{pair[0], pair[1], false}, Transfer{pair[0], pair[1], true})
	}
	return transfers
}

// nodeOf returns the node of a pod.
func nodeOf(pod string) int {
	p, err := lab.PodByName(pod)
	if err != nil {
		return 0
	}
	return p.Node
}

// transfersWhere returns the transfers that pass a test.
func transfersWhere(test func(l Transfer, from, to int) bool) (transfers []Transfer) {
	for _, l := range allTransfers() {
		if test(l, nodeOf(l.From()), nodeOf(l.To())) {
			transfers = append(transfers, l)
		}
	}
	return transfers
}
