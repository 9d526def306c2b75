// SPDX-License-Identifier: Apache-2.0

package breakdown_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/breakdown/breakdowntest"
	"github.com/layertrace/layertrace/internal/observe"
)

// The time that a sender waits for its reader belongs to the reader's receive queue, and
// with proxies between them to that of the reader at the end of the chain. All else stays.
func TestStallBelongsToTheReader(t *testing.T) {
	const stalled = 150_000
	type socket struct {
		service string
		process observe.Process
		client  bool
	}
	app, sidecar := observe.AppProcess, observe.Sidecar
	for name, test := range map[string]struct {
		stalled []socket // the sockets that sent the message
		to      string   // the service that did not read
		phase   breakdown.Phase
	}{
		"response, the next process does not read": {
			[]socket{{"details", app, false}}, "details", breakdown.Response,
		},
		"response, productpage does not read": {
			[]socket{{"details", app, false}, {"details", sidecar, false}, {"productpage", sidecar, false}},
			"productpage", breakdown.Response,
		},
		"request, the next process does not read": {
			[]socket{{"details", sidecar, true}}, "details", breakdown.Request,
		},
		"request, details does not read": {
			[]socket{{"productpage", app, true}, {"productpage", sidecar, true}, {"details", sidecar, true}},
			"details", breakdown.Request,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := breakdowntest.New()
			w.FrontPage()
			total := func(tree *breakdown.Tree) (sum uint64) {
				for _, ns := range times(tree) {
					sum += ns
				}
				return sum
			}
			before := total(breakdown.Split(w.All, nil))
			for i := range w.All {
				o := &w.All[i]
				if o.Socket == nil || !slices.Contains(test.stalled, socket{o.Point.Workload.Service, o.Point.Process, o.Socket.Client}) {
					continue
				}
				if o.Context.SpanID[0] == 1 {
					continue // the gateway reads
				}
				if o.Socket.Client {
					o.Request.Stalled = stalled
				} else {
					o.Response.Stalled = stalled
				}
			}
			tree := breakdown.Split(w.All, nil)
			checkSums(t, tree)
			if after := total(tree); after != before {
				t.Errorf("all segments: %d ns, want %d as before", after, before)
			}
			moved := uint64(0)
			for _, h := range tree.Hops {
				for _, s := range h.Segments {
					if !strings.Contains(s.Between, " waits for ") {
						continue
					}
					moved += uint64(s.Time)
					if s.Layer != observe.ProtocolStack || s.Location != test.to || s.Queue != breakdown.ReceiveQueue || s.Phase != test.phase {
						t.Errorf("segment %+v", s)
					}
				}
			}
			if moved != stalled {
				t.Errorf("%d ns in the receive queue of %s, want %d", moved, test.to, stalled)
			}
		})
	}
}
