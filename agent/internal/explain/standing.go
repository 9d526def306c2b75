// SPDX-License-Identifier: Apache-2.0

package explain

// leastPart is how much more than typical a part took at least, as a share of
// what the slowest part of its layer did, to count as slow for the same reason;
// leastExcess will do. What is smaller follows from it: who has waited works slower
// afterwards.
const leastPart = 0.25

// standingOut returns which parts stand out, and by how much longer they took than
// in typical traces, in ns. Of a part that few of these have it is not known.
func standingOut(totals []*total, slow int, typically map[partKey]distribution, share float64) (excess int64, parts map[partKey]bool) {
	times := map[partKey][]int64{}
	for _, t := range totals {
		for k, a := range t.parts {
			times[k] = append(times[k], a.time)
		}
	}
	more, largest := map[partKey]int64{}, int64(0)
	for k, all := range times {
		d, before := distributionOf(all), orUnknown(typically, k)
		if 2*len(all) < slow || len(before.sorted) < fewTraces || d.least(slow) <= before.above(share) {
			continue
		}
		more[k] = d.median - before.median
		largest = max(largest, more[k])
	}
	parts = map[partKey]bool{}
	usually, each := int64(0), make([]int64, len(totals))
	for k, ns := range more {
		if ns <= 0 || ns < min(leastExcess, int64(leastPart*float64(largest))) {
			continue
		}
		parts[k] = true
		usually += typically[k].median
		for i, t := range totals {
			each[i] += t.parts[k].time
		}
	}
	return distributionOf(each).median - usually, parts
}
