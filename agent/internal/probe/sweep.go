// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"github.com/layertrace/layertrace/bpf"
)

// sweepUntil emits idle exchanges at intervals, and all of them at the end.
func (p *Probe) sweepUntil(ctx context.Context) error {
	tick := time.NewTicker(max(p.opts.IdleTimeout/2, 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return p.sweep(0, 0)
		case <-tick.C:
			if err := p.sweep(p.opts.IdleTimeout, p.opts.RequestTimeout); err != nil {
				return err
			}
		}
	}
}

// sweep emits exchanges that are idle for longer. With none begun since the last
// time, and none left then, it leaves the walk over all connections out, which is
// most of what an idle agent costs.
func (p *Probe) sweep(response, request time.Duration) error {
	started, err := p.counter(bpf.CaptureCounterCOUNTER_STARTED)
	if err != nil || started == p.swept.started && !p.swept.left {
		return err
	}
	args := bpf.CaptureSweepArgs{ResponseIdle: uint64(response), RequestIdle: uint64(request)}
	if _, err := p.kernel.sweep.Run(&ebpf.RunOptions{Context: &args, ContextOut: &args}); err != nil {
		return fmt.Errorf("sweep idle exchanges: %w", err)
	}
	p.swept = swept{started: started, left: args.Open > 0 || args.Tracked > 0}
	return p.countEvicted(started, args.Open)
}

// swept is what the last sweep found: how many exchanges had begun until then, and
// whether it left any open, or connections that were followed.
type swept struct {
	started uint64
	left    bool
}

// countEvicted finds what the LRU map dropped while it was open: begun, but
// neither given out, lost at the ring, nor still there. started was read
// before the sweep and the rest after, so the count is never too high.
func (p *Probe) countEvicted(started, open uint64) error {
	ended, err := p.ended()
	if err != nil {
		return err
	}
	if ended += open; started > ended && started-ended > p.evicted.Load() {
		p.evicted.Store(started - ended)
	}
	return nil
}

// ended returns how many exchanges were given out or lost at the ring.
func (p *Probe) ended() (sum uint64, err error) {
	for _, c := range []bpf.CaptureCounter{bpf.CaptureCounterCOUNTER_EMITTED, bpf.CaptureCounterCOUNTER_RING_FULL} {
		n, err := p.counter(c)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

func (p *Probe) counter(which bpf.CaptureCounter) (sum uint64, err error) {
	var perCPU []uint64
	if err := p.kernel.Counters.Lookup(uint32(which), &perCPU); err != nil {
		return 0, fmt.Errorf("read counter %s: %w", captureCounters[which].name, err)
	}
	for _, v := range perCPU {
		sum += v
	}
	return sum, nil
}
