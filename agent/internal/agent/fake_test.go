// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// fakeProbe returns the observations that a test puts in.
type fakeProbe struct {
	out   chan observe.Observation
	flush []observe.Observation // returned at the end
	deaf  bool                  // Run never ends

	mu       sync.Mutex
	refuse   map[int]bool // interfaces that cannot be attached to
	attached map[int]bool
	closed   int
}

func newFakeProbe() *fakeProbe {
	return &fakeProbe{out: make(chan observe.Observation), refuse: map[int]bool{}, attached: map[int]bool{}}
}

func (f *fakeProbe) Attach(ifindex int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse[ifindex] {
		return errors.New("refused")
	}
	f.attached[ifindex] = true
	return nil
}

func (f *fakeProbe) Detach(ifindex int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.attached, ifindex)
	return nil
}

func (f *fakeProbe) Run(ctx context.Context) error {
	<-ctx.Done()
	if f.deaf {
		select {}
	}
	for _, x := range f.flush {
		f.out <- x
	}
	close(f.out)
	return nil
}

func (f *fakeProbe) Observations() <-chan observe.Observation { return f.out }

var ringFull = prometheus.NewDesc("layertrace_ring_full_total", "Lost.", nil, nil)

func (f *fakeProbe) Describe(out chan<- *prometheus.Desc) { out <- ringFull }

func (f *fakeProbe) Collect(out chan<- prometheus.Metric) {
	out <- prometheus.MustNewConstMetric(ringFull, prometheus.CounterValue, 3)
}

func (f *fakeProbe) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed++
	return nil
}

func (f *fakeProbe) attachedTo(ifindex int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.attached[ifindex]
}

// newExchange returns the i-th exchange of an interface.
func newExchange(ifindex, i int) observe.Observation {
	return observe.Observation{
		Interface: ifindex, Direction: observe.DirectionEgress,
		Context: observe.Context{Context: tracecontext.Context{
			TraceID: tracecontext.TraceID{1}, SpanID: tracecontext.SpanID{1, byte(i)},
			Sampling: tracecontext.Accepted, Format: tracecontext.FormatW3C,
		}},
		Key:     observe.Key{Client: netip.MustParseAddrPort("10.0.0.1:4000"), Server: netip.MustParseAddrPort("10.0.0.2:80")},
		Request: observe.Message{First: 1e9, Last: 1e9, Bytes: 100, Packets: 1}, Status: 200,
	}
}
