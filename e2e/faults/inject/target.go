// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"bytes"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/faults/relay"
	"github.com/layertrace/layertrace/e2e/faults/tap"
	"github.com/layertrace/layertrace/e2e/lab"
)

// target tells the segments of the message on a leg, for the relay, which may
// see them before anyone else does. A request is known by the trace ID in its
// first segment; its answer by the request, seen earlier where it came back
// past the same spot.
func target(before *sight, leg faults.Leg, traceID string) relay.Target {
	if leg.Response {
		return func(s tap.Segment) bool {
			if !onLeg(s, leg) {
				return false
			}
			for _, e := range before.exchanges(traceID) {
				if e.Request.Src == s.Dst && e.Request.Dst == s.Src {
					return !e.Response.Src.IsValid() || int32(s.Seq-e.Response.From) >= 0
				}
			}
			return false
		}
	}
	var first *tap.Segment
	return func(s tap.Segment) bool {
		if first == nil && onLeg(s, leg) && bytes.Contains(s.Data, []byte(traceID)) {
			first = &tap.Segment{Src: s.Src, Dst: s.Dst, Seq: s.Seq}
		}
		return first != nil && s.Src == first.Src && s.Dst == first.Dst && int32(s.Seq-first.Seq) >= 0
	}
}

// onLeg tells whether a segment goes from one pod of a leg to the other.
func onLeg(s tap.Segment, leg faults.Leg) bool {
	return s.Src.Addr().String() == podIP(leg.From()) && s.Dst.Addr().String() == podIP(leg.To())
}

func podIP(name string) string {
	pod, err := lab.PodByName(name)
	if err != nil {
		return ""
	}
	return pod.IP
}
