// SPDX-License-Identifier: Apache-2.0

package explain

// What is in a lane apart from layers.
const (
	cellOutside      = ' ' // the hop has not begun, or is over
	cellInside       = '-' // it waits for the hops inside
	cellUnattributed = '.' // no layer was given this time
)

// lane draws a hop over the time of the trace, in cells of the same time: each
// has the letter of what took most of it.
func lane(hops []Hop, i int, from, to int64, cells int) []byte {
	hop := &hops[i]
	inside := children(hops, i)
	drawn := make([]byte, cells)
	span := float64(max(to-from, 1))
	edge := func(c int) float64 { return float64(from) + span*float64(c)/float64(cells) }
	for c := range drawn {
		low, high := edge(c), edge(c+1)
		own := overlap(low, high, hop.Start, hop.Start+hop.Total)
		if own < (high-low)/2 && !(own > 0 && float64(hop.Total) < high-low) {
			drawn[c] = cellOutside
			continue
		}
		best, most, parts := byte(cellUnattributed), 0.0, 0.0
		for p := range hop.Segments {
			part := &hop.Segments[p]
			o := 0.0
			for _, piece := range part.pieces() {
				o += overlap(low, high, piece.start, piece.start+piece.time)
			}
			if parts += o; o > most {
				best, most = lookOf(part.Layer).letter, o
			}
		}
		rest := own - parts
		waits := 0.0
		for _, child := range inside {
			waits += overlap(low, high, child.Start, child.Start+child.Total)
		}
		waits = min(waits, rest)
		if waits > most {
			best, most = cellInside, waits
		}
		if rest-waits > most {
			best = cellUnattributed
		}
		drawn[c] = best
	}
	return drawn
}

// overlap is how much of the time from start to end is between low and high.
func overlap(low, high float64, start, end int64) float64 {
	return max(min(high, float64(end))-max(low, float64(start)), 0)
}

// children are the hops right inside a hop.
func children(hops []Hop, i int) []Hop {
	var found []Hop
	for _, h := range hops[i+1:] {
		if h.Depth <= hops[i].Depth {
			break
		}
		if h.Depth == hops[i].Depth+1 {
			found = append(found, h)
		}
	}
	return found
}

// extent is the time that all hops and the trace take.
func (r *Report) extent() (from, to int64) {
	to = r.Total
	for i := range r.Hops {
		from = min(from, r.Hops[i].Start)
		to = max(to, r.Hops[i].Start+r.Hops[i].Total)
	}
	return from, to
}
