// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// starve lets a pod's Envoy have no CPU, by a limit that is spent, until the
// request has been at the pod's interface for some time. What that took from the
// request is how long it lay there until Envoy read it: who waited before it is
// served first, and Envoy needs time to begin again.
func (b *Bench) starve(ctx context.Context, c faults.Case, r Request) (injected time.Duration, err error) {
	limit, err := b.limit(c.Pod)
	if err != nil {
		return 0, err
	}
	a, err := b.watchArrival(c.Pod, r.TraceID)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	if err := spend(ctx, limit); err != nil {
		return 0, err
	}
	waited := make(chan error, 1)
	go func() {
		var err error
		select {
		case request := <-a.arrived:
			err = b.lab.PodNamespace(c.Pod).DoOnce(func() (err error) {
				injected, err = b.holdUnread(c, request, limit)
				return err
			})
		case <-time.After(5 * time.Second): // missed
		}
		waited <- errors.Join(err, limit.Lift())
	}()
	err = errors.Join(r.Send(ctx), <-waited)
	return met(injected, err)
}

// limit is the limit of a pod's Envoy.
func (b *Bench) limit(pod string) (*sandbox.CPULimit, error) {
	if l := b.limits[pod]; l != nil {
		return l, nil
	}
	l, err := b.lab.SidecarGroup(pod).LimitCPU(period)
	if err == nil {
		b.limits[pod] = l
	}
	return l, err
}

// holdUnread lifts the limit when a request has waited for the fault's time, and
// returns how long it waited until it was read; 0 if it was read before. It
// changes its thread.
func (b *Bench) holdUnread(c faults.Case, request came, limit *sandbox.CPULimit) (time.Duration, error) {
	queue, err := openUnread(b.lab.PodNamespace(c.Pod), request.local, request.remote)
	if err != nil {
		return 0, err
	}
	defer queue.Close()
	// To look in time also while Envoy takes all that it missed.
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0); err != nil {
		return 0, fmt.Errorf("run at once when it is time: %w", err)
	}
	time.Sleep(c.Magnitude - time.Since(request.at))
	left, err := queue.bytes()
	if err != nil || left == 0 {
		return 0, err
	}
	if err := limit.Lift(); err != nil {
		return 0, err
	}
	read, err := queue.readAt()
	return read.Sub(request.at), err
}
