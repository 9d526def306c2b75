// SPDX-License-Identifier: Apache-2.0

package breakdown_test

import (
	"testing"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/breakdown/breakdowntest"
	"github.com/layertrace/layertrace/internal/observe"
)

// The acknowledgement of one message shows that the time between the nodes was the
// other's. The request takes 50 µs and the response 8 ms, or the other way round.
func TestWayOfTheRelayNetwork(t *testing.T) {
	const us, short, long = uint64(1_000), uint64(50_000), uint64(8_000_000)
	for name, test := range map[string]struct {
		request, response     uint64 // true times in ns
		ofRequest, ofResponse uint64 // acknowledged so long after the message left, 0: unknown
		way                   breakdown.Phase
		atLeast               uint64
	}{
		"slow response":          {short, long, 2 * short, 0, breakdown.Response, long - short},
		"slow request":           {long, short, 0, 2 * short, breakdown.Request, long - short},
		"nothing known":          {short, long, 0, 0, "", 0},
		"with the response only": {short, long, long + short + 3*us, 0, "", 0},
		"delayed by 40 ms":       {long, short, 40_000 * us, 40_000 * us, "", 0},
		"both slow":              {long, long, long + short, long + short, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := breakdowntest.New()
			hop := w.Hop(breakdowntest.Page, observe.Sidecar, breakdowntest.Details, observe.Sidecar)
			hop.Relay = test.request
			hop.Run(func() { hop.Relay = test.response })
			for i := range w.All {
				o := &w.All[i]
				switch {
				case o.Socket == nil:
				case o.Socket.Client && test.ofRequest > 0:
					o.Request.Acknowledged = departure(w.All, o.Point.Node, true) + test.ofRequest
				case !o.Socket.Client && test.ofResponse > 0:
					o.Response.Acknowledged = departure(w.All, o.Point.Node, false) + test.ofResponse
				}
			}
			h := breakdown.Split(w.All, nil).Roots[0]
			for _, s := range h.Segments {
				if s.Layer != observe.RelayNetwork {
					continue
				}
				if s.Time != int64(test.request+test.response) || s.Way != test.way || s.AtLeast != int64(test.atLeast) {
					t.Errorf("%d ns, most of it the %q, at least %d; want %d, %q, %d",
						s.Time, s.Way, s.AtLeast, test.request+test.response, test.way, test.atLeast)
				}
				if onePiece := test.way != ""; onePiece != (s.ResponseStart == 0) {
					t.Errorf("drawn from %d and %d", s.Start, s.ResponseStart)
				}
				var left, back int64
				for _, o := range h.Segments {
					switch {
					case o.Layer == observe.NodeDriver && o.Location == "node4":
						left = o.Start + o.Time
					case o.Layer == observe.NodeDriver && o.Location == "node3":
						back = o.Start + o.Time
					}
				}
				begin := left
				if test.way == breakdown.Response {
					begin = back
				}
				if s.Start != begin {
					t.Errorf("drawn from %d, want %d", s.Start, begin)
				}
			}
		})
	}
}

// departure is when a message left the node: when the driver began to transmit it.
func departure(all []observe.Observation, node string, request bool) uint64 {
	for _, o := range all {
		if o.Point.Kind == observe.KindPNIC && o.Point.Node == node {
			if request {
				return o.Request.Tx.Last
			}
			return o.Response.Tx.Last
		}
	}
	return 0
}
