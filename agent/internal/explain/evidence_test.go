// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"slices"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/internal/observe"
)

// How long the request took to be acknowledged is told of what lies between the
// sockets, where the request is in it and it is known.
func TestEvidenceOfTheAcknowledgement(t *testing.T) {
	const told = "the peer's TCP had acknowledged the request 250 µs after it was sent"
	request := observe.Message{First: 1_000, Last: 2_000, Acknowledged: 252_000}
	silent := request
	silent.Acknowledged = 0
	seen := func(m observe.Message) *observe.Observation {
		return &observe.Observation{Point: &observe.Point{}, Request: m}
	}
	for name, c := range map[string]struct {
		leg  breakdown.Hop
		part breakdown.Segment
		want bool
	}{
		"request":     {breakdown.Hop{Sender: seen(request)}, breakdown.Segment{Layer: observe.ProtocolStack, Phase: breakdown.Request}, true},
		"both ways":   {breakdown.Hop{Sender: seen(request)}, breakdown.Segment{Layer: observe.RelayNetwork, Phase: breakdown.Both}, true},
		"response":    {breakdown.Hop{Sender: seen(request)}, breakdown.Segment{Layer: observe.RelayNetwork, Phase: breakdown.Response}, false},
		"application": {breakdown.Hop{Sender: seen(request)}, breakdown.Segment{Layer: observe.Application, Phase: breakdown.Both}, false},
		"not known":   {breakdown.Hop{Sender: seen(silent)}, breakdown.Segment{Layer: observe.RelayNetwork, Phase: breakdown.Both}, false},
		"not seen":    {breakdown.Hop{ClientVNIC: seen(silent)}, breakdown.Segment{Layer: observe.RelayNetwork, Phase: breakdown.Both}, false},
	} {
		t.Run(name, func(t *testing.T) {
			e := evidence(&c.leg, c.part)
			if got := slices.Contains(e, told); got != c.want {
				t.Errorf("%v: %s", got, strings.Join(e, "; "))
			}
		})
	}
}

// A queue is told where the largest piece of the time is in one.
func TestEvidenceOfTheQueue(t *testing.T) {
	for queue, want := range map[breakdown.Queue]string{
		breakdown.SendQueue: "in the send queue", breakdown.PodQueue: "the pod's queue", breakdown.ReceiveQueue: "in the receive queue", "": "",
	} {
		e := evidence(&breakdown.Hop{}, breakdown.Segment{Layer: observe.ProtocolStack, Queue: queue})
		if want == "" && len(e) != 1 || want != "" && (len(e) != 2 || !strings.Contains(e[1], want)) {
			t.Errorf("%q: %q", queue, e)
		}
	}
}
