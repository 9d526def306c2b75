// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"

	"github.com/layertrace/layertrace/agent/internal/layer"
)

// evidence says what else was seen where the time went: the part itself, and
// what the capture points at the leg counted.
func evidence(l *layer.Leg, p layer.Part) []string {
	e := []string{fmt.Sprintf("%s of it in one piece: %s, on the hop %s", short(p.Time), p.Where, hopName(l))}
	var retransmits, zero, drops uint32
	reason, srtt := "", uint64(0)
	for _, s := range l.Sightings() {
		retransmits = max(retransmits, s.Retransmits)
		zero = max(zero, s.ZeroWindows)
		if s.Drops > drops {
			drops, reason = s.Drops, s.DropReason
		}
		srtt = max(srtt, s.SRTT)
	}
	if retransmits > 0 {
		e = append(e, fmt.Sprintf("%d segments were sent again", retransmits))
	}
	if drops > 0 {
		e = append(e, fmt.Sprintf("the kernel dropped %d packets, the last one because of %s", drops, reason))
	}
	if zero > 0 {
		e = append(e, fmt.Sprintf("the receive window was used up %d times: the reader was too slow", zero))
	}
	if srtt > 0 && p.Layer == layer.RelayNetwork {
		e = append(e, "TCP's smoothed round-trip time is "+short(int64(srtt)))
	}
	return e
}
