// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/faults/queue"
	"github.com/layertrace/layertrace/e2e/faults/tap"
	"github.com/layertrace/layertrace/e2e/lab"
)

// podQueue makes the queue of a pod's interface slow. What is in front of it
// cannot be watched, but its first packet passes at once and all of them came
// together: what it took from the last is the time between first and last.
func (b *Bench) podQueue(ctx context.Context, c faults.Case, r Request) (time.Duration, error) {
	pod, err := lab.PodByName(c.Pod)
	if err != nil {
		return 0, err
	}
	slow := queue.Slow{Space: b.lab.PodNamespace(pod.Name), NIC: "eth0"}
	node := b.lab.NodeNamespace(pod.Node)
	behind, err := b.slow(ctx, slow, c, r, spot{node, pod.VNIC})
	if err != nil {
		return 0, err
	}
	m, err := behind[0].message(r.TraceID, c.Leg)
	if err != nil {
		return 0, err
	}
	began, ok1 := behind[0].Began(m)
	passed, ok2 := behind[0].Passed(m)
	if !ok1 || !ok2 {
		return 0, ErrMissed
	}
	return passed.Sub(began), nil
}

// driverQueue makes the queue of a node's physical interface slow.
func (b *Bench) driverQueue(ctx context.Context, c faults.Case, r Request) (time.Duration, error) {
	from, err := lab.PodByName(c.Leg.From())
	if err != nil {
		return 0, err
	}
	node := b.lab.NodeNamespace(c.Node)
	slow := queue.Slow{Space: node, NIC: lab.PNIC}
	seen, err := b.slow(ctx, slow, c, r, spot{node, from.VNIC}, spot{node, lab.PNIC})
	if err != nil {
		return 0, err
	}
	return between(seen[0], seen[1], r.TraceID, c.Leg)
}

// bridgeQueue makes the queue of a node's bridge slow, for what the node routes
// to its pods.
func (b *Bench) bridgeQueue(ctx context.Context, c faults.Case, r Request) (time.Duration, error) {
	to, err := lab.PodByName(c.Leg.To())
	if err != nil {
		return 0, err
	}
	node := b.lab.NodeNamespace(c.Node)
	slow := queue.Slow{Space: node, NIC: lab.NodeBridge}
	seen, err := b.slow(ctx, slow, c, r, spot{node, lab.PNIC}, spot{node, to.VNIC})
	if err != nil {
		return 0, err
	}
	return between(seen[0], seen[1], r.TraceID, c.Leg)
}

// slow sends a request whose message on the case's leg is long, with one queue
// slow for it, and returns what passed the spots.
func (b *Bench) slow(ctx context.Context, s queue.Slow, c faults.Case, r Request, spots ...spot) (seen []*sight, err error) {
	s.Match = queue.Match{Port: lab.AppPort, Response: c.Leg.Response, Longer: longer(c.Leg)}
	// A message that comes in pieces waits less: the queue is at work before
	// its last piece is there.
	s.Rate = queue.Rate(length, c.Magnitude+200*time.Microsecond)
	remove, err := s.Install()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	return watched(spots, func([]*sight) error { return b.long(ctx, c.Leg, r) })
}

// between is how long after the first spot a message had passed the second.
func between(before, behind *sight, traceID string, leg faults.Leg) (time.Duration, error) {
	m, err := before.message(traceID, leg)
	if err != nil {
		return 0, err
	}
	return held(before, behind, m)
}

func held(before, behind *sight, m tap.Message) (time.Duration, error) {
	came, ok1 := before.Passed(m)
	went, ok2 := behind.Passed(m)
	if !ok1 || !ok2 {
		return 0, fmt.Errorf("%w: it was not seen on both sides", ErrMissed)
	}
	return went.Sub(came), nil
}
