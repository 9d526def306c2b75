// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"container/heap"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Relay is a relay that is ready: what nodes route to it goes through it.
type Relay struct {
	space        *sandbox.Namespace
	bridge, pods string
	file         *os.File
	in           chan Packet
	group        sync.WaitGroup

	mu   sync.Mutex
	plan Plan
	err  error
}

// Start makes a relay in the switch: bridge is where packets come in, pods the
// subnet of all pods. Nothing goes through it before a node's route says so.
func Start(space *sandbox.Namespace, bridge, pods string) (*Relay, error) {
	r := &Relay{space: space, bridge: bridge, pods: pods, in: make(chan Packet, 4096), plan: Pass{}}
	err := space.Do(func() (err error) {
		r.file, err = openDevice()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make a relay (needs tun): %w", err)
	}
	if err := routeInto(space, bridge, pods); err != nil {
		return nil, errors.Join(fmt.Errorf("make a relay: %w", err), r.file.Close())
	}
	r.group.Go(r.read)
	r.group.Go(r.pass)
	return r, nil
}

// Set changes the plan; packets that are held keep their times.
func (r *Relay) Set(plan Plan) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.plan = plan
}

// Met tells whether the plan has done something to a packet.
func (r *Relay) Met() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.plan.Met()
}

// Close ends the relay; what it holds is lost.
func (r *Relay) Close() error {
	err := errors.Join(unroute(r.space, r.bridge, r.pods), r.file.Close())
	r.group.Wait()
	return errors.Join(err, r.err)
}

func (r *Relay) read() {
	defer close(r.in)
	for {
		raw := make([]byte, 1<<16)
		n, err := r.file.Read(raw)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case err != nil:
			r.fail(err)
			return
		}
		r.in <- parse(raw[:n:n])
	}
}

// pass decides on each packet as it comes, and writes it when its time has come.
func (r *Relay) pass() {
	var hold waiting
	var order uint64
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case p, ok := <-r.in:
			if !ok {
				return
			}
			now := time.Now()
			if delay, lost := r.decide(p, now); !lost {
				order++
				heap.Push(&hold, held{now.Add(delay), order, p.Raw})
			}
		case <-timer.C:
		}
		ready, next := hold.due(time.Now())
		for _, raw := range ready {
			if _, err := r.file.Write(raw); err != nil && !errors.Is(err, os.ErrClosed) {
				r.fail(err)
			}
		}
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

func (r *Relay) decide(p Packet, now time.Time) (time.Duration, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.plan.Decide(p, now)
}

func (r *Relay) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = errors.Join(r.err, fmt.Errorf("relay: %w", err))
}
