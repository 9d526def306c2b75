// SPDX-License-Identifier: Apache-2.0

// Package probe is the way out of the kernel: it loads the BPF programs, puts
// them on interfaces and cgroups, and gives out one exchange per request and
// capture point.
package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sync/errgroup"

	"github.com/layertrace/layertrace/internal/observe"
)

// Probe is the kernel side of one agent. Its methods may be called
// concurrently.
type Probe struct {
	log     *slog.Logger
	opts    Options
	kernel  *kernelSide
	options *optionWriter
	sockets *sockets // nil: no capture there
	drivers *drivers // nil: not watched
	reader  *ringbuf.Reader
	out     chan observe.Observation

	mu       sync.Mutex
	mode     Mode
	attached map[int]attachment

	received, unreadable, evicted, unhanded atomic.Uint64

	swept swept // of the goroutine that sweeps
}

// Open loads the programs and begins to write TCP options if asked to.
// Nothing is captured before Attach and given out before Run.
func Open(opts Options) (*Probe, error) {
	p, err := open(opts)
	if err != nil {
		return nil, err
	}
	if _, _, err := p.programs(true); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// open is Open without the capture programs.
func open(opts Options) (*Probe, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	kernel, err := loadKernelSide(&opts)
	if err != nil {
		return nil, err
	}
	p := &Probe{
		log: opts.Log, opts: opts, kernel: kernel, mode: opts.Mode,
		attached: map[int]attachment{},
		out:      make(chan observe.Observation, 256),
	}
	if p.reader, err = ringbuf.NewReader(kernel.Exchanges); err != nil {
		return nil, errors.Join(fmt.Errorf("open ring buffer: %w", err), kernel.Close())
	}
	if opts.TCPOption != OptionOff {
		if p.options, err = openOptionWriter(&opts); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	if opts.Sockets {
		p.sockets, err = openSockets(&opts, kernel)
		if err := doWithout(err, "no capture at sockets: layers are told by interfaces alone", opts.Log); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	if opts.Drivers {
		p.drivers, err = openDrivers(&opts, kernel)
		if err := doWithout(err, "drivers are not watched: the node driver counts as relay network, and drops are not known", opts.Log); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	return p, nil
}

// Observations returns the channel of what was captured. Run closes it.
func (p *Probe) Observations() <-chan observe.Observation { return p.out }

// Run reads and sweeps until ctx is done; then it gives out what is still
// open and closes Observations. A slow receiver makes the ring buffer fill, which
// the kernel side counts.
func (p *Probe) Run(ctx context.Context) error {
	defer close(p.out)
	reading, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var group errgroup.Group
	group.Go(func() error { return p.read(reading) })
	group.Go(func() error {
		defer stop()
		return p.sweepUntil(ctx)
	})
	return group.Wait()
}

// Counters returns all counts since Open.
func (p *Probe) Counters() ([]Counter, error) {
	counters, err := readCounters(p.kernel.Counters, captureCounters[:])
	if err != nil {
		return nil, err
	}
	if p.options != nil {
		more, err := readCounters(p.options.objs.OptionCounters, optionCounters[:])
		if err != nil {
			return nil, err
		}
		counters = append(counters, more...)
	}
	return append(counters, readerCounters(p.received.Load(), p.unreadable.Load(), p.evicted.Load(), p.unhanded.Load())...), nil
}

// Close detaches everything and frees the programs. Run must have returned or
// never been called.
func (p *Probe) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for ifindex, a := range p.attached {
		if err := a.Close(); err != nil {
			errs = append(errs, fmt.Errorf("detach from interface %d: %w", ifindex, err))
		}
		delete(p.attached, ifindex)
	}
	if p.options != nil {
		errs = append(errs, p.options.Close())
	}
	if p.sockets != nil {
		errs = append(errs, p.sockets.Close())
	}
	if p.drivers != nil {
		errs = append(errs, p.drivers.Close())
	}
	return errors.Join(append(errs, p.reader.Close(), p.kernel.Close())...)
}
