// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"testing"

	"github.com/layertrace/layertrace/internal/exchange"
)

// From what was seen of a message at the queue to when the driver had it.
func TestHandover(t *testing.T) {
	unknown := exchange.Extent{}
	for _, test := range []struct {
		name string
		seen exchange.Extent
		release
		want exchange.Extent
	}{
		{"nothing", exchange.Extent{}, release{}, exchange.Extent{First: 10, Last: 20}},
		{"all", exchange.Extent{First: 15, Last: 25}, release{whole: true}, exchange.Extent{First: 15, Last: 25}},
		{"not the first byte", exchange.Extent{Last: 25}, release{whole: true}, unknown},
		{"not the last byte", exchange.Extent{First: 15, Last: 18}, release{}, unknown},
		{"the first byte passed by", exchange.Extent{Last: 25}, release{bypassed: true, whole: true}, exchange.Extent{First: 10, Last: 25}},
		{"the last byte passed by", exchange.Extent{First: 15, Last: 18}, release{bypassed: true}, exchange.Extent{First: 15, Last: 20}},
		{"both passed by", exchange.Extent{Last: 18}, release{bypassed: true}, exchange.Extent{First: 10, Last: 20}},
	} {
		out := exchange.Message{First: 10, Last: 20, Packets: 3, Handover: test.seen}
		if got := handover(&out, test.release); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}
