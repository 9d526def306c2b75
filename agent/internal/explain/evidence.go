// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/internal/observe"
)

// counted writes a number with its noun.
func counted(n uint32, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// waited says what it means that a message was in a queue.
var waited = map[breakdown.Queue]string{
	breakdown.SendQueue:    "the bytes were in the send queue: written, while TCP waited for the peer's window or for acknowledgements",
	breakdown.PodQueue:     "the bytes were between TCP and the host's end of the pod's interface: in the pod's queue (qdisc) or its packet filter",
	breakdown.ReceiveQueue: "the bytes were in the receive queue: there, while who reads them had no CPU or did something else",
}

// evidence says what else was seen where the time went: the part itself, and
// what the capture points at the leg counted.
func evidence(l *breakdown.Hop, p breakdown.Segment) []string {
	e := []string{fmt.Sprintf("%s of it in one piece: %s, on the hop %s", short(p.Time), p.Between, hopName(l))}
	if text := waited[p.Queue]; text != "" {
		e = append(e, text)
	}
	var retransmits, zero, drops uint32
	reason, srtt := "", uint64(0)
	for _, s := range l.Observations() {
		retransmits = max(retransmits, s.Retransmits)
		if s.Drops > drops {
			drops, reason = s.Drops, s.DropReason
		}
		if s.Socket != nil {
			zero, srtt = max(zero, s.Socket.ZeroWindows), max(srtt, s.Socket.SRTT)
		}
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
	if srtt > 0 && p.Layer == observe.RelayNetwork {
		e = append(e, "TCP's smoothed round-trip time is "+short(int64(srtt)))
	}
	if took := acknowledged(l); took > 0 && p.Phase != breakdown.Response && p.Layer != observe.Application {
		e = append(e, "the peer's TCP had acknowledged the request "+short(took)+" after it was sent")
	}
	return e
}

// acknowledged returns how long the peer's TCP took to say that it had the last
// byte of the request, in ns. 0: not known. It is that long at most until the
// byte was there: TCP may put off to say so.
func acknowledged(l *breakdown.Hop) int64 {
	if s := l.Sender; s != nil && s.Request.Acknowledged > s.Request.Last {
		return int64(s.Request.Acknowledged - s.Request.Last)
	}
	return 0
}
