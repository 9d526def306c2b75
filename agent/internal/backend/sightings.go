// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"errors"
	"fmt"
	"math"

	"github.com/layertrace/layertrace/agent/internal/layer"
	"github.com/layertrace/layertrace/internal/exchange"
	"go.opentelemetry.io/otel/trace"
)

// sighting reads a span of layertrace: the opposite of package span. The error
// says what is missing or does not fit together.
func sighting(id trace.TraceID, r *record) (layer.Sighting, error) {
	s := layer.Sighting{
		TraceID: id, SpanID: r.parent,
		ConnectionID: r.attributes.text(keyConnectionID),
		DropReason:   r.attributes.text(keyDropReason),
		Flags:        exchange.FlagsOf(r.attributes.list(keyFlags)),
		Wall:         r.start.UnixNano(),
	}
	switch {
	case !r.parent.IsValid():
		return s, errors.New("it has no parent, so it belongs to no request")
	case r.duration < 0:
		return s, fmt.Errorf("it takes %v", r.duration)
	case r.start.UnixNano() <= 0:
		return s, errors.New("it has no start")
	}
	if err := readPoint(&s, r); err != nil {
		return s, err
	}
	if err := readEnds(&s, r.attributes); err != nil {
		return s, err
	}
	n := numbers{attributes: r.attributes}
	readTimes(&s, &n)
	readCounts(&s, &n)
	if n.err != nil {
		return s, n.err
	}
	return s, checkTimes(&s)
}

// readCounts reads sizes and evidence. What is as usual has no attribute.
func readCounts(s *layer.Sighting, n *numbers) {
	s.Request.Bytes = n.count(keyRequest+keyBytes, 0, math.MaxInt64)
	s.Request.Packets = n.count32(keyRequest+keyPackets, 1)
	var packets uint32
	if s.Response.First != 0 {
		packets = 1
	}
	s.Response.Bytes = n.count(keyResponse+keyBytes, 0, math.MaxInt64)
	s.Response.Packets = n.count32(keyResponse+keyPackets, packets)
	s.Status = int(n.count(keyStatus, 0, 999))
	s.Retransmits = n.count32(keyRetransmits, 0)
	s.Drops = n.count32(keyDrops, 0)
	s.ZeroWindows = n.count32(keyZeroWindows, 0)
	s.SRTT = n.count(keySRTT, 0, math.MaxInt64)
}
