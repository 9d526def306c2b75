// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"testing"

	"github.com/layertrace/layertrace/internal/observe"
)

// From what was seen of a message at the queue to when the driver had it.
func TestHandover(t *testing.T) {
	unknown := observe.Extent{}
	for _, test := range []struct {
		name string
		seen observe.Extent
		release
		want observe.Extent
	}{
		{"nothing", observe.Extent{}, release{}, observe.Extent{First: 10, Last: 20}},
		{"all", observe.Extent{First: 15, Last: 25}, release{whole: true}, observe.Extent{First: 15, Last: 25}},
		{"not the first byte", observe.Extent{Last: 25}, release{whole: true}, unknown},
		{"not the last byte", observe.Extent{First: 15, Last: 18}, release{}, unknown},
		{"the first byte passed by", observe.Extent{Last: 25}, release{bypassed: true, whole: true}, observe.Extent{First: 10, Last: 25}},
		{"the last byte passed by", observe.Extent{First: 15, Last: 18}, release{bypassed: true}, observe.Extent{First: 15, Last: 20}},
		{"both passed by", observe.Extent{Last: 18}, release{bypassed: true}, observe.Extent{First: 10, Last: 20}},
	} {
		out := observe.Message{First: 10, Last: 20, Packets: 3, Tx: test.seen}
		if got := transmitted(&out, test.release); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}
