// SPDX-License-Identifier: Apache-2.0

package layer

// Stretch is a time of a leg between two marks of one node, whatever happened
// in between. Parts leave out the legs that were waited for; stretches do not,
// so those of two nodes can be compared.
type Stretch string

// Stretches. Outside without Inside is the relay network's time.
const (
	// WholeHop: from the client's writing of the request to its reading of the
	// response, or between the passages of its interface.
	WholeHop Stretch = "hop"
	// Outside: from leaving the client's node to coming back to it.
	Outside Stretch = "outside"
	// Inside: from reaching the server's node to leaving it.
	Inside Stretch = "inside"
)

// Stretches returns those that were seen, in ns.
func (l *Leg) Stretches() map[Stretch]int64 {
	request, response := l.requestMarks(), l.responseMarks()
	all := map[Stretch]int64{}
	add := func(s Stretch, from, to *mark) {
		if from != nil && to != nil && from.node == to.node && from.at <= to.at {
			all[s] = int64(to.at - from.at)
		}
	}
	add(WholeHop, firstMark(request, fromProcess, fromVNIC), lastMark(response, toVNIC, toProcess))
	add(Outside, lastMark(request, fromPNIC, fromDriver), firstMark(response, toPNIC, toPNIC))
	add(Inside, firstMark(request, toPNIC, toPNIC), lastMark(response, fromPNIC, fromDriver))
	return all
}

// firstMark and lastMark return the outermost mark at one of the positions from
// low to high, nil when there is none.
func firstMark(marks []mark, low, high position) *mark {
	for i := range marks {
		if m := &marks[i]; m.position >= low && m.position <= high {
			return m
		}
	}
	return nil
}

func lastMark(marks []mark, low, high position) *mark {
	for i := len(marks) - 1; i >= 0; i-- {
		if m := &marks[i]; m.position >= low && m.position <= high {
			return m
		}
	}
	return nil
}
