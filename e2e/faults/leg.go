// SPDX-License-Identifier: Apache-2.0

package faults

import "github.com/layertrace/layertrace/e2e/lab"

// Versions are the pods of which a front page asks one.
var Versions = []string{"reviews-v1", "reviews-v2", "reviews-v3"}

// Leg is the way of one message from one pod to another, between their
// sidecars.
type Leg struct {
	// Caller asks Callee; both are pods.
	Caller string `json:"caller"`
	Callee string `json:"callee"`
	// Response is set for the answer.
	Response bool `json:"response"`
}

// From is the pod that sends the message, To the one that gets it.
func (l Leg) From() string {
	if l.Response {
		return l.Callee
	}
	return l.Caller
}

// To is the pod that gets the message.
func (l Leg) To() string {
	if l.Response {
		return l.Caller
	}
	return l.Callee
}

// Version is the version of reviews on the way, "" when any will do.
func (l Leg) Version() string {
	for _, v := range Versions {
		if l.Caller == v || l.Callee == v {
			return v
		}
	}
	return ""
}

// Legs are the ways whose messages can be made long: all but the request to the
// front page.
func Legs() []Leg {
	pairs := [][2]string{{"productpage", "details"}}
	for _, v := range Versions {
		pairs = append(pairs, [2]string{"productpage", v})
	}
	pairs = append(pairs, [2]string{"reviews-v2", "ratings"}, [2]string{"reviews-v3", "ratings"})
	legs := []Leg{{"gateway", "productpage", true}}
	for _, pair := range pairs {
		legs = append(legs, Leg{pair[0], pair[1], false}, Leg{pair[0], pair[1], true})
	}
	return legs
}

// nodeOf is the node of a pod of the testbed.
func nodeOf(pod string) int {
	for _, p := range lab.Pods {
		if p.Name == pod {
			return p.Node
		}
	}
	return 0
}

// legsWhere are the legs that pass a test.
func legsWhere(test func(l Leg, from, to int) bool) (legs []Leg) {
	for _, l := range Legs() {
		if test(l, nodeOf(l.From()), nodeOf(l.To())) {
			legs = append(legs, l)
		}
	}
	return legs
}
