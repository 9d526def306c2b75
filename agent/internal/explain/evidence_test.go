// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"slices"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/layer"
	"github.com/layertrace/layertrace/internal/exchange"
)

// How long the request took to be acknowledged is told of what lies between the
// sockets, where the request is in it and it is known.
func TestEvidenceOfTheAcknowledgement(t *testing.T) {
	const told = "the peer's TCP had acknowledged the request 250 µs after it was sent"
	request := exchange.Message{First: 1_000, Last: 2_000, Acknowledged: 252_000}
	silent := request
	silent.Acknowledged = 0
	for name, c := range map[string]struct {
		leg  layer.Leg
		part layer.Part
		want bool
	}{
		"request":     {layer.Leg{Sender: &layer.Sighting{Request: request}}, layer.Part{Layer: layer.ProtocolStack, Way: layer.Request}, true},
		"both ways":   {layer.Leg{Sender: &layer.Sighting{Request: request}}, layer.Part{Layer: layer.RelayNetwork, Way: layer.Both}, true},
		"response":    {layer.Leg{Sender: &layer.Sighting{Request: request}}, layer.Part{Layer: layer.RelayNetwork, Way: layer.Response}, false},
		"application": {layer.Leg{Sender: &layer.Sighting{Request: request}}, layer.Part{Layer: layer.Application, Way: layer.Both}, false},
		"not known":   {layer.Leg{Sender: &layer.Sighting{Request: silent}}, layer.Part{Layer: layer.RelayNetwork, Way: layer.Both}, false},
		"not seen":    {layer.Leg{ClientVNIC: &layer.Sighting{Request: silent}}, layer.Part{Layer: layer.RelayNetwork, Way: layer.Both}, false},
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
	for queue, want := range map[layer.Queue]string{
		layer.SendQueue: "in the send queue", layer.PodQueue: "the pod's queue", layer.ReceiveQueue: "in the receive queue", "": "",
	} {
		e := evidence(&layer.Leg{}, layer.Part{Layer: layer.ProtocolStack, Queue: queue})
		if want == "" && len(e) != 1 || want != "" && (len(e) != 2 || !strings.Contains(e[1], want)) {
			t.Errorf("%q: %q", queue, e)
		}
	}
}
