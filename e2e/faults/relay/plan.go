// SPDX-License-Identifier: Apache-2.0

// Package relay passes packets from one node to another through user space, and
// delays, loses or reorders some on the way: kernels need no netem for it.
package relay

import (
	"net/netip"
	"time"

	"github.com/layertrace/layertrace/e2e/faults/tap"
)

// Packet is an IPv4 packet on its way, with its segment when it has data.
type Packet struct {
	Raw     []byte
	Segment tap.Segment
	Data    bool
	// Last is set on the last packet of what a sender had to send (PSH).
	Last bool
}

// Plan decides on packets, one after the other.
type Plan interface {
	// Decide returns how long a packet is held back, or that it is lost.
	Decide(p Packet, now time.Time) (hold time.Duration, lost bool)
	// Met tells whether there was a packet to do something to.
	Met() bool
}

// Pass is the plan that does nothing.
type Pass struct{}

// Decide lets the packet pass.
func (Pass) Decide(Packet, time.Time) (time.Duration, bool) { return 0, false }

// Met is false.
func (Pass) Met() bool { return false }

// Delay holds every packet for the same time.
type Delay time.Duration

// Met is true: who asks has seen the packets.
func (Delay) Met() bool { return true }

// Decide holds the packet.
func (d Delay) Decide(Packet, time.Time) (time.Duration, bool) { return time.Duration(d), false }

// Target tells whether a segment belongs to the message that is meant.
type Target func(s tap.Segment) bool

// Lose returns a plan that loses the last packet of the target once: no later
// one tells the sender, who has to notice it by time.
func Lose(target Target) Plan { return &lose{target: target} }

type lose struct {
	target Target
	done   bool
}

func (l *lose) Decide(p Packet, _ time.Time) (time.Duration, bool) {
	if l.done || !p.Data || !p.Last || !l.target(p.Segment) {
		return 0, false
	}
	l.done = true
	return 0, true
}

// Met tells whether a packet was lost.
func (l *lose) Met() bool { return l.done }

// Reorder returns a plan that holds the first packet of the target for d while
// those behind it pass. Copies of it that the sender makes meanwhile wait too.
func Reorder(target Target, d time.Duration) Plan { return &reorder{target: target, hold: d} }

type reorder struct {
	target   Target
	hold     time.Duration
	src, dst netip.AddrPort
	from, to uint32
	release  time.Time
}

func (r *reorder) Decide(p Packet, now time.Time) (time.Duration, bool) {
	if !p.Data {
		return 0, false
	}
	s := p.Segment
	if r.release.IsZero() {
		if !r.target(s) {
			return 0, false
		}
		r.src, r.dst, r.from, r.to = s.Src, s.Dst, s.Seq, s.Seq+uint32(s.Length)
		r.release = now.Add(r.hold)
	}
	same := s.Src == r.src && s.Dst == r.dst &&
		int32(s.Seq-r.to) < 0 && int32(s.Seq+uint32(s.Length)-r.from) > 0
	if !same {
		return 0, false
	}
	return max(0, r.release.Sub(now)), false
}

// Met tells whether a packet was held.
func (r *reorder) Met() bool { return !r.release.IsZero() }

// parse reads a packet.
func parse(raw []byte) Packet {
	p := Packet{Raw: raw}
	if p.Segment, p.Data = tap.ParseIP(raw); p.Data {
		const flags, psh = 13, 8
		p.Last = raw[int(raw[0]&15)*4+flags]&psh != 0
	}
	return p
}
