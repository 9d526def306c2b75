// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"fmt"
	"io"
	"math"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/bpf"
	"github.com/layertrace/layertrace/internal/observe"
)

// answered lets n exchanges begin that have their response, each on a connection of its own.
func (k *kernel) answered(n int) {
	for i := range n {
		c := newConnection(uint16(20000 + i))
		k.receive(c.request(get + traceparent + end))
		k.receive(c.response(ok200))
	}
}

// A sweep that stopped goes on where it did, also in slices: each connection is visited once
// more only if it was the one for which there was no room.
func TestSweepGoesOnWhereItStopped(t *testing.T) {
	on, err := EnableStats()
	must(t, err)
	defer func() { must(t, on.Close()) }()
	k := newKernel(t, Options{RingBytes: 4096, sweepSlice: 4})
	const n = 50
	k.answered(n)
	visits := func() uint64 {
		stats, err := k.probe.kernel.walk.Stats()
		must(t, err)
		return stats.RunCount
	}
	before, stops, got := visits(), 0, 0
	for k.probe.sweeping != nil || stops == 0 {
		must(t, k.probe.sweep(0, time.Hour))
		got += len(k.emitted())
		stops++
		if stops > n {
			t.Fatal("the sweep does not end")
		}
	}
	// The walk ends with a run for no connection. A stop has one that finds no room, or two.
	if made := visits() - before; made < n+uint64(stops) || made > n+2*uint64(stops) || stops < 3 || got != n || k.probe.swept.left != n {
		t.Errorf("%d visits of %d connections with %d stops, %d exchanges, %d connections left", made, n, stops-1, got, k.probe.swept.left)
	}
}

// At the end all is swept, also what an earlier sweep that stopped would have left.
func TestLastSweepBeginsAnew(t *testing.T) {
	k := newKernel(t, Options{RingBytes: 4096})
	const n = 50
	for i := range n {
		c := newConnection(uint16(20000 + i))
		k.receive(c.request(get + traceparent + end))
		k.receive(c.ack())
		if i >= n/2 { // the others have no response
			k.receive(c.response(ok200))
		}
	}
	must(t, k.probe.sweep(0, time.Hour))
	if k.probe.sweeping == nil {
		t.Fatal("the ring had room for all")
	}
	got := len(k.emitted())
	for sweeps := 0; sweeps == 0 || k.probe.sweeping != nil; sweeps++ {
		must(t, k.probe.sweep(0, 0))
		got += len(k.emitted())
		if sweeps > n {
			t.Fatal("the sweep does not end")
		}
	}
	if got != n {
		t.Errorf("%d exchanges, want %d", got, n)
	}
	k.wantCount("exchanges_ring_full", 0)
}

// timed measures the CPU time of the reads of one thread, in ns.
type timed struct {
	io.Reader
	longest, all int64
}

func (r *timed) Read(p []byte) (n int, err error) {
	began := threadTime()
	n, err = r.Reader.Read(p)
	took := threadTime() - began
	r.longest, r.all = max(r.longest, took), r.all+took
	return n, err
}

func threadTime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}

// BenchmarkSweep walks over tables of connections, in slices and in reads that are as long as the
// kernel has them: the CPU time of a walk, and of the longest read, which not every kernel
// interrupts for others. After maxTurn and one read more the sweep rests.
func BenchmarkSweep(b *testing.B) {
	for _, n := range []int{1000, 16_384, DefaultMaxConnections} {
		p := benchProbe(b)
		fill(b, p, n)
		for name, slice := range map[string]int{"slices": sweepSlice, "whole": 1 << 16} {
			b.Run(fmt.Sprintf("connections=%d/%s", n, name), func(b *testing.B) { benchWalk(b, p, slice) })
		}
	}
}

// benchProbe returns one without capture programs.
func benchProbe(b *testing.B) *Probe {
	b.Helper()
	p, err := open(Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := p.Close(); err != nil {
			b.Error(err)
		}
	})
	return p
}

// BenchmarkRead is the CPU time of a record from the ring to the observation, of 4,096 that
// wait.
func BenchmarkRead(b *testing.B) {
	const n = 4096
	p := benchProbe(b)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	done, cancel := context.WithCancel(b.Context())
	cancel()
	var took int64
	for b.Loop() {
		fill(b, p, n)
		s := &sweeping{}
		if err := p.begin(s); err != nil {
			b.Fatal(err)
		}
		if _, done, err := p.goOn(s); err != nil || !done {
			b.Fatal(done, err)
		}
		got, began := 0, threadTime()
		if err := p.read(done, func(some []observe.Observation) { got += len(some) }); err != nil || got != n {
			b.Fatalf("%d of %d records: %v", got, n, err)
		}
		took += threadTime() - began
	}
	b.ReportMetric(float64(took)/float64(b.N)/n, "cpu-ns/record")
}

// fill makes n connections with a request that waits for its response.
func fill(b *testing.B, p *Probe, n int) {
	b.Helper()
	var c bpf.CaptureConnection
	c.Phase, c.Proof, c.LastNs = 1, 2, math.MaxInt64 // PHASE_REQUEST, PROOF_SEEN, just now
	for i := range n {
		key := bpf.CaptureConnectionKey{Ifindex: 2, PortA: 80, PortB: uint16(i), AddrB: [2]uint64{0, uint64(i)}}
		if err := p.kernel.Connections.Put(key, c); err != nil {
			b.Fatal(err)
		}
	}
}

func benchWalk(b *testing.B, p *Probe, slice int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var longest, all int64
	for b.Loop() {
		s := &sweeping{args: bpf.CaptureSweepArgs{ResponseIdle: math.MaxInt64, RequestIdle: math.MaxInt64}}
		if err := p.begin(s); err != nil {
			b.Fatal(err)
		}
		reads := &timed{Reader: s.connections}
		if done, err := readSlices(reads, slice); err != nil || !done {
			b.Fatal(done, err)
		}
		if err := s.close(); err != nil {
			b.Fatal(err)
		}
		longest, all = max(longest, reads.longest), all+reads.all
	}
	b.ReportMetric(float64(longest)/1e3, "longest-read-µs")
	b.ReportMetric(float64(all)/1e3/float64(b.N), "cpu-µs/walk")
}
