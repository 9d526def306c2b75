// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"errors"

	"github.com/layertrace/layertrace/agent/internal/layer"
	"github.com/layertrace/layertrace/internal/exchange"
)

// readTimes reads the times of both messages. They are stored as offsets from
// the start of the span; a request begins with the span, and a message ends
// with the segment it began with, unless an attribute says otherwise.
func readTimes(s *layer.Sighting, n *numbers) {
	start := n.start()
	s.Request.First = n.time(keyRequest+keyFirst, start, uint64(start))
	s.Request.Last = n.time(keyRequest+keyLast, start, s.Request.First)
	s.Request.Handover = readHandover(n, keyRequest, start)
	s.Request.Acknowledged = n.time(keyRequest+keyAcknowledged, start, 0)
	s.Response.First = n.time(keyResponse+keyFirst, start, 0)
	s.Response.Last = n.time(keyResponse+keyLast, start, s.Response.First)
	s.Response.Handover = readHandover(n, keyResponse, start)
	s.Response.Acknowledged = n.time(keyResponse+keyAcknowledged, start, 0)
}

func readHandover(n *numbers, message string, start int64) exchange.Extent {
	first := n.time(message+keyHandoverFirst, start, 0)
	return exchange.Extent{First: first, Last: n.time(message+keyHandoverLast, start, first)}
}

// checkTimes says what no message can do.
func checkTimes(s *layer.Sighting) error {
	q, a := &s.Request, &s.Response
	switch {
	case q.Last < q.First:
		return errors.New("its request ends before it begins")
	case a.First == 0 && a.Last != 0:
		return errors.New("its response ends without a beginning")
	case a.Last < a.First:
		return errors.New("its response ends before it begins")
	case a.First != 0 && a.First < q.First:
		return errors.New("its response begins before its request")
	case q.Acknowledged != 0 && q.Acknowledged < q.Last || a.Acknowledged != 0 && a.Acknowledged < a.Last:
		return errors.New("a message is acknowledged before it is sent")
	case contradicts(q.Handover) || contradicts(a.Handover):
		return errors.New("a handover ends before it begins")
	}
	return nil
}

func contradicts(e exchange.Extent) bool { return e.Last < e.First || e.First == 0 && e.Last != 0 }
