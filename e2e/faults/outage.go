// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"time"
)

// outage loses all packets between two nodes for the magnitude, from the first packet
// of the affected message on. The result is the sum over all messages of the trace that
// pass between the nodes.
func (in *Injector) outage(ctx context.Context, c Case, r Request) (sum time.Duration, err error) {
	there, here, err := in.relayed(c, func(before *recording) relayPlan {
		return &outagePlan{target: messageTarget(before, c.Transfer, r.TraceID), length: c.Magnitude}
	}, func() error { return r.Send(ctx) })
	if err != nil {
		return 0, err
	}
	for _, e := range there.exchanges(r.TraceID) {
		for _, m := range []message{e.Request, e.Response} {
			if !m.Src.IsValid() {
				continue
			}
			before, after := there, here
			switch [2]int{nodeOfIP(m.Src.Addr().String()), nodeOfIP(m.Dst.Addr().String())} {
			case [2]int{c.FromNode, c.ToNode}:
			case [2]int{c.ToNode, c.FromNode}:
				before, after = here, there
			default:
				continue
			}
			one, err := heldFor(before, after, m)
			if err != nil {
				return 0, err
			}
			sum += one
		}
	}
	return orMissed(sum, nil)
}

// outagePlan loses every packet for a time that begins with the first of the target.
type outagePlan struct {
	target target
	length time.Duration
	until  time.Time
}

// Decide drops the packet during the outage.
func (o *outagePlan) Decide(p packet, now time.Time) (time.Duration, bool) {
	if o.until.IsZero() && p.Data && o.target(p.Segment) {
		o.until = now.Add(o.length)
	}
	return 0, now.Before(o.until)
}

// Met reports whether the outage began.
func (o *outagePlan) Met() bool { return !o.until.IsZero() }

// storm loses most packets of a padded message, which the sender sends all at once, and
// most of their retransmissions.
func (in *Injector) storm(ctx context.Context, c Case, r Request) (time.Duration, error) {
	before, after, err := in.relayed(c, func(before *recording) relayPlan {
		return &stormPlan{target: messageTarget(before, c.Transfer, r.TraceID), left: stormLosses}
	}, func() error { return in.sendPadded(ctx, c.Transfer, r) })
	if err != nil {
		return 0, err
	}
	return timeBetween(before, after, r.TraceID, c.Transfer)
}

// stormLosses is how many packets of the eight or so of a message are lost, with
// retransmissions.
const stormLosses = 18

// stormPlan loses the target's packets but every fourth, until left have been lost.
type stormPlan struct {
	target     target
	seen, left int
}

// Decide drops three of four packets.
func (s *stormPlan) Decide(p packet, _ time.Time) (time.Duration, bool) {
	if s.left == 0 || !p.Data || !s.target(p.Segment) {
		return 0, false
	}
	s.seen++
	if s.seen%4 == 0 {
		return 0, false
	}
	s.left--
	return 0, true
}

// Met reports whether packets were lost.
func (s *stormPlan) Met() bool { return s.seen > 0 }
