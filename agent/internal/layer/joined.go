// SPDX-License-Identifier: Apache-2.0

package layer

// brief is how long, in ns, a part takes at least that is looked at by itself.
const brief = 10_000

// Joined returns the parts for who looks at each: one under 10 µs is joined with
// the next of the same layer, place and way, where they follow each other
// directly. What they take in sum stays.
func (l *Leg) Joined() (joined []Part) {
	for _, p := range l.Parts {
		if last := len(joined) - 1; last >= 0 && joined[last].continuesIn(&p) && min(joined[last].Time, p.Time) < brief {
			joined[last].to = p.to
			joined[last].Where = fromTo(joined[last].from, p.to)
			joined[last].Time += p.Time
			joined[last].Queue = ""
			continue
		}
		joined = append(joined, p)
	}
	return joined
}

// continuesIn tells whether q begins where p ends.
func (p *Part) continuesIn(q *Part) bool {
	return p.to != "" && p.to == q.from && p.Node == q.Node && p.At+uint64(p.Time) == q.At &&
		p.Layer == q.Layer && p.Place == q.Place && p.Way == q.Way && len(p.Covers)+len(q.Covers) == 0
}
