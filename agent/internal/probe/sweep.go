// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/bpf"
)

// deferredPause is the time between a sweep that found the ring full and the next, in which the
// reader makes room.
const deferredPause = 10 * time.Millisecond

// sweepUntil sweeps at intervals, and until nothing is left after ctx is done. sweep reports
// whether the ring had no room for some. It ends early when the reader does.
func sweepUntil(ctx context.Context, interval time.Duration, reading <-chan struct{}, sweep func(last bool) (deferred bool, err error)) error {
	interval = max(interval, deferredPause)
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		last := false
		select {
		case <-reading:
			return nil
		case <-ctx.Done():
			last = true
		case <-timer.C:
		}
		deferred, err := sweep(last)
		switch {
		case err != nil || last && !deferred:
			return err
		case last:
			select {
			case <-reading:
			case <-time.After(deferredPause):
			}
		case deferred:
			timer.Reset(deferredPause)
		default:
			timer.Reset(interval)
		}
	}
}

// sweepUntil emits idle exchanges at intervals, and all of them at the end.
func (p *Probe) sweepUntil(ctx context.Context, reading <-chan struct{}) (err error) {
	defer func() {
		if p.sweeping != nil {
			err = errors.Join(err, p.sweeping.close())
			p.sweeping = nil
		}
	}()
	return sweepUntil(ctx, p.opts.IdleTimeout/2, reading, func(last bool) (bool, error) {
		response, request := p.opts.IdleTimeout, p.opts.RequestTimeout
		if last {
			response, request = 0, 0
		}
		err := p.sweep(response, request)
		return p.swept.deferred, err
	})
}

// maxUnframedIdle is the time without a packet after which an exchange is reported
// whose end its framing does not tell.
const maxUnframedIdle = time.Minute

// swept is the result of the last sweep: how many exchanges and unproven connections had
// begun by then (0: not known), how many connections are left in the table, and whether the ring
// had no room for some exchanges, so that it is not over.
type swept struct {
	started, left uint64
	deferred      bool
	flooded       bool // see unprovenIdle
}

const (
	// maxUnprovenIdle is the time without a packet after which a connection without proof is
	// forgotten. TCP sends its request again after up to half of the time since then.
	maxUnprovenIdle = time.Minute
	// floodedIdle is the same from floodedBy such connections on, until there are none:
	// longer than a server delays an acknowledgement. They cost other connections time.
	floodedIdle = 2 * time.Second
	floodedBy   = 256
)

// unprovenIdle returns how long a connection without proof is kept.
func (p *Probe) unprovenIdle(request time.Duration) time.Duration {
	if p.swept.flooded {
		return min(request, floodedIdle)
	}
	return min(request, maxUnprovenIdle)
}

// maxForgetIdle is the time without a packet after which a connection is forgotten: the
// longest time between two copies of a segment (TCP_RTO_MAX of include/net/tcp.h). A copy
// of a request must not be taken for a new one.
const maxForgetIdle = 2 * time.Minute

// forgetIdle returns how long a connection is kept whose exchange was emitted: in short
// tests, and while the table is half full, not longer than needed.
func (p *Probe) forgetIdle(response time.Duration) time.Duration {
	if p.swept.left > uint64(p.opts.MaxConnections/2) {
		return 0
	}
	return min(60*response, maxForgetIdle)
}

// sweep emits exchanges that have been idle for longer: complete ones for response,
// others for request. It skips the walk over all connections, most of the cost of an
// idle agent, if no exchange has begun since the last one and nothing was left then.
// Of more open exchanges than the budget it evicts those that were idle for longest. Where
// the ring has no room, it stops (swept.deferred), and the next call goes on.
func (p *Probe) sweep(response, request time.Duration) error {
	s := p.sweeping
	p.sweeping = nil
	if s != nil && (s.args.ResponseIdle != uint64(response) || s.args.RequestIdle != uint64(request)) {
		if err := s.close(); err != nil {
			return err
		}
		s = nil
	}
	if s == nil {
		var started uint64
		if p.swept.left == 0 && !p.swept.deferred { // else it is swept in any case
			var err error
			if started, err = p.started(); err != nil || started == p.swept.started {
				return err
			}
		}
		s = &sweeping{started: started, args: bpf.CaptureSweepArgs{
			ResponseIdle: uint64(response), RequestIdle: uint64(request),
			UnframedIdle: uint64(min(request, maxUnframedIdle)), HoldAfter: uint64(p.opts.HoldAfter), ReportAfter: uint64(max(p.opts.OpenSpanAfter, 0)),
			ForgetIdle: uint64(p.forgetIdle(response)), UnprovenIdle: uint64(p.unprovenIdle(request)),
		}}
		if err := p.begin(s); err != nil {
			return err
		}
	}
	result, done, err := p.goOn(s)
	if excess := int64(result.Open) - int64(p.openBudget()); done && excess > 0 && s.args.EvictMax == 0 {
		s.args.EvictMax = uint64(excess)
		s.args.EvictIdle = evictionAge(result.Idle[:], uint64(excess))
		if err = p.begin(s); err == nil {
			result, done, err = p.goOn(s)
		}
	}
	if err != nil {
		return errors.Join(err, s.close())
	}
	if !done {
		p.sweeping, p.swept.deferred = s, true
		return nil
	}
	p.swept = swept{
		started: s.started, left: result.Open + result.Unproven + result.Tracked + result.Miscounted,
		flooded: result.Unproven > floodedBy || p.swept.flooded && result.Unproven > 0,
	}
	return nil
}

// sweeping is a sweep that goes on.
type sweeping struct {
	started     uint64
	args        bpf.CaptureSweepArgs
	connections io.ReadCloser // those still to visit; nil: all were
}

func (s *sweeping) close() error {
	if s.connections == nil {
		return nil
	}
	err := s.connections.Close()
	s.connections = nil
	return err
}

// begin begins a walk over all connections.
func (p *Probe) begin(s *sweeping) (err error) {
	if s.connections, err = p.walks.Open(); err != nil {
		return fmt.Errorf("sweep idle exchanges: %w", err)
	}
	if _, err = p.runSweep(s.args, bpf.CaptureSweepStageSWEEP_BEGIN); err != nil {
		return errors.Join(err, s.close())
	}
	return nil
}

// goOn continues where the sweep began or stopped. It returns false if it stopped again.
func (p *Probe) goOn(s *sweeping) (result bpf.CaptureSweepArgs, done bool, err error) {
	if s.connections != nil {
		switch done, err := readSlices(s.connections, p.opts.sweepSlice); {
		case err != nil:
			return result, false, fmt.Errorf("sweep idle exchanges: %w", err)
		case !done:
			return result, false, nil
		}
		if err := s.close(); err != nil {
			return result, false, err
		}
		if _, err := p.runSweep(s.args, bpf.CaptureSweepStageSWEEP_END); err != nil {
			return result, false, err
		}
	}
	result, err = p.runSweep(s.args, bpf.CaptureSweepStageSWEEP_QUEUED)
	return result, err == nil && result.Deferred == 0, err
}

// attachWalk attaches a program of bpf/include/iterator.h to the table whose elements it visits.
func attachWalk(program *ebpf.Program, table *ebpf.Map) (*link.Iter, error) {
	walks, err := link.AttachIter(link.IterOptions{Program: program, Map: table})
	if err != nil {
		return nil, fmt.Errorf("attach %s to its table: %w", program, err)
	}
	return walks, nil
}

// walk visits all elements of a table.
func walk(walks *link.Iter, slice int) error {
	elements, err := walks.Open()
	if err != nil {
		return err
	}
	for done := false; !done && err == nil; {
		done, err = readSlices(elements, slice)
	}
	return errors.Join(err, elements.Close())
}

// sweepSlice is the number of elements that are visited without a look at the clock: some
// 0.2 ms of work, with cold caches.
const sweepSlice = 512

// readSlices visits the elements of a table from an iterator, and rests after each maxTurn. It
// returns false if the program stopped at one, with which the next call goes on.
func readSlices(elements io.Reader, slice int) (done bool, err error) {
	buffer := make([]byte, slice)
	for began := time.Now(); ; {
		_, err := elements.Read(buffer)
		switch {
		case errors.Is(err, io.EOF):
			return true, nil
		case errors.Is(err, unix.EAGAIN): // the program returned 1
			return false, nil
		case err != nil:
			return false, fmt.Errorf("walk over a table: %w", err)
		}
		if time.Since(began) > maxTurn {
			time.Sleep(rest)
			began = time.Now()
		}
	}
}

// started returns a number that grows with each exchange, and with each connection without
// proof.
func (p *Probe) started() (uint64, error) {
	exchanges, err := p.counter(bpf.CaptureCounterCOUNTER_STARTED)
	if err != nil {
		return 0, err
	}
	var tracked bpf.CaptureTracked
	if err := p.kernel.TrackedConnections.Lookup(uint32(0), &tracked); err != nil {
		return 0, fmt.Errorf("read the number of connections: %w", err)
	}
	return exchanges + uint64(tracked.Next), nil
}

func (p *Probe) runSweep(args bpf.CaptureSweepArgs, stage bpf.CaptureSweepStage) (bpf.CaptureSweepArgs, error) {
	args.Stage = stage
	if _, err := p.kernel.sweep.Run(&ebpf.RunOptions{Context: &args, ContextOut: &args}); err != nil {
		return args, fmt.Errorf("sweep idle exchanges: %w", err)
	}
	return args, nil
}

// openBudget is the number of exchanges that may be open: the rest of the table is for
// those that begin before the next sweep.
func (p *Probe) openBudget() int { return p.opts.MaxConnections / 4 * 3 }

// evictionAge returns the largest idle time in ns that enough exchanges exceed. idle
// counts them by the logarithm of their idle time in units of 2^20 ns.
func evictionAge(idle []uint64, excess uint64) uint64 {
	older := uint64(0)
	for bucket := len(idle) - 1; bucket > 0; bucket-- {
		if older += idle[bucket]; older >= excess {
			return 1 << (20 + bucket - 1)
		}
	}
	return 1
}
