// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
)

// minAlike is the number of traces with the same request from which on they are
// preferred to those of the whole operation.
const minAlike = 3

// request is what a trace asked for: method and path at its first capture points.
// Proxies often give all paths of a service one operation, and these may take very
// different times.
type request struct{ method, path string }

func (r request) String() string { return r.method + " " + r.path }

// known reports whether an agent stored the path (--request-paths).
func (r request) known() bool { return r.path != "" }

// pathUnknown is why a baseline may have other requests.
const pathUnknown = "the path of the request is not known, so the baseline may have requests for other paths"

func requestOfHop(h *breakdown.Hop) (r request) {
	for _, o := range h.Observations() {
		r.method, r.path = cmp.Or(r.method, o.Method), cmp.Or(r.path, o.Path)
	}
	return r
}

// alike returns the traces that asked for the same, and why others are among them
// ("" if none are).
func alike(all []tracestore.Trace, r request, requestOf func(tracestore.Trace) request) (same []tracestore.Trace, mixed string) {
	for _, t := range all {
		if requestOf(t) == r {
			same = append(same, t)
		}
	}
	switch {
	case len(all) == 0:
		return all, ""
	case !r.known():
		return all, pathUnknown
	case len(same) == len(all):
		return all, ""
	case len(same) >= minAlike:
		return same, ""
	}
	return all, fmt.Sprintf("%s of the baseline asked for %s: the baseline has requests for other paths", counted(len(same), "trace", "traces"), r)
}

// mostDelayed returns those of the traces that asked for the same as the ones that lost
// the most time against traces that asked for the same, in ascending order of their
// times, and the number that is left out. slow is the quantile from which on a trace is
// slow. Without a request with enough traces it returns all.
func mostDelayed(all []measured, slow float64) (chosen []measured, leftOut int) {
	groups := map[request][]measured{}
	for _, m := range all {
		groups[m.request] = append(groups[m.request], m)
	}
	if len(groups) == 1 {
		return all, 0
	}
	most := int64(-1)
	requests := slices.SortedFunc(maps.Keys(groups), func(a, b request) int {
		return cmp.Or(cmp.Compare(a.method, b.method), cmp.Compare(a.path, b.path))
	})
	for _, r := range requests {
		group := groups[r]
		if len(group) < minBaseline {
			continue
		}
		slices.SortFunc(group, byTotal)
		middle, lost := group[len(group)/2].total, int64(0)
		for _, m := range group[firstSlow(len(group), slow):] {
			lost += m.total - middle
		}
		if lost > most {
			most, chosen = lost, group
		}
	}
	if chosen == nil {
		return all, 0
	}
	return chosen, len(all) - len(chosen)
}

// firstSlow returns the index of the first slow one of n traces in ascending order.
func firstSlow(n int, quantile float64) int {
	return min(max(int(float64(n)*quantile), 1), n-1)
}
