// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"

	"github.com/layertrace/layertrace/agent/internal/layer"
)

// counted writes a number with its noun.
func counted(n uint32, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// waited says what it means that a message was in a queue.
var waited = map[layer.Queue]string{
	layer.SendQueue:    "the bytes were in the send queue: written, while TCP waited for the peer's window or for acknowledgements",
	layer.PodQueue:     "the bytes were between TCP and the host's end of the pod's interface: in the pod's queue (qdisc) or its packet filter",
	layer.ReceiveQueue: "the bytes were in the receive queue: there, while who reads them had no CPU or did something else",
}

// evidence says what else was seen where the time went: the part itself, and
// what the capture points at the leg counted.
func evidence(l *layer.Leg, p layer.Part) []string {
	e := []string{fmt.Sprintf("%s of it in one piece: %s, on the hop %s", short(p.Time), p.Where, hopName(l))}
	if text := waited[p.Queue]; text != "" {
		e = append(e, text)
	}
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
		e = append(e, counted(retransmits, "segment was", "segments were")+" sent again")
	}
	if drops > 0 {
		e = append(e, "the kernel dropped "+counted(drops, "packet", "packets")+", at last because of "+reason)
	}
	if zero > 0 {
		e = append(e, "the receive window was used up "+counted(zero, "time", "times")+": the reader was too slow")
	}
	if srtt > 0 && p.Layer == layer.RelayNetwork {
		e = append(e, "TCP's smoothed round-trip time is "+short(int64(srtt)))
	}
	if took := acknowledged(l); took > 0 && p.Way != layer.Response && p.Layer != layer.Application {
		e = append(e, "the peer's TCP had acknowledged the request "+short(took)+" after it was sent")
	}
	return e
}

// acknowledged returns how long the peer's TCP took to say that it had the last
// byte of the request, in ns. 0: not known. It is that long at most until the
// byte was there: TCP may put off to say so.
func acknowledged(l *layer.Leg) int64 {
	if s := l.Sender; s != nil && s.Request.Acknowledged > s.Request.Last {
		return int64(s.Request.Acknowledged - s.Request.Last)
	}
	return 0
}
