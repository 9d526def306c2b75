// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"math/rand/v2"

	"github.com/layertrace/layertrace/e2e/lab"
)

// DefaultCases is the default number of cases: 510 with a fault and 102 without.
const DefaultCases = 612

// Draw draws cases from a seed. One in six has no fault. No fault of the deck repeats
// before all have occurred.
func Draw(seed uint64, n int) []Case {
	rng := rand.New(rand.NewPCG(seed, 0))
	var cases, rest []Case
	for i := range n {
		if i%6 == 5 {
			cases = append(cases, Case{Kind: NoFault, Version: reviewsVersions[i/6%3], Load: i/6%2 == 1})
			continue
		}
		if len(rest) == 0 {
			rest = newDeck()
			rng.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
		}
		cases = append(cases, rest[0].choose(rng))
		rest = rest[1:]
	}
	return cases
}

// newDeck returns every fault at every location and magnitude, with and without load.
func newDeck() []Case {
	var deck []Case
	add := func(c Case) {
		for _, load := range []bool{false, true} {
			c.Load = load
			if c.Kind == RelayLoss {
				deck = append(deck, c)
				continue
			}
			for _, d := range magnitudes {
				c.Magnitude = d
				deck = append(deck, c)
			}
		}
	}
	for _, pod := range lab.Pods {
		add(Case{Kind: SidecarStarved, Pod: pod.Name})
		if !pod.Gateway {
			add(Case{Kind: AppSleep, Pod: pod.Name})
			add(Case{Kind: AppNotReading, Pod: pod.Name})
			add(Case{Kind: PodQdisc, Pod: pod.Name})
		}
	}
	for _, node := range lab.Nodes {
		if node == lab.ClientNode {
			continue
		}
		add(Case{Kind: DriverQdisc, Node: node})
		add(Case{Kind: SlowBridge, Node: node})
		for _, to := range lab.Nodes {
			if to != lab.ClientNode && to != node {
				add(Case{Kind: RelayDelay, FromNode: node, ToNode: to})
				add(Case{Kind: RelayLoss, FromNode: node, ToNode: to})
				add(Case{Kind: RelayReorder, FromNode: node, ToNode: to})
			}
		}
	}
	return deck
}

// choose chooses the message that the fault affects, and a version of reviews whose
// requests have it.
func (c Case) choose(rng *rand.Rand) Case {
	switch transfers := c.transfers(); {
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
		case RelayDelay, RelayLoss, RelayReorder:
			return from == c.FromNode && to == c.ToNode
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
	for _, p := range lab.Pods {
		if p.Name == pod {
			return p.Node
		}
	}
	return 0
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
