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

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sync/errgroup"
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

// The last sweep deletes no connection: a slice that ends after one would skip its neighbor. The
// table is half full, of connections with and without proof.
func TestLastSweepSkipsNone(t *testing.T) {
	k := newKernel(t, Options{MaxConnections: 1024, sweepSlice: 1})
	const n = 250
	k.answered(n)
	for i := range n {
		k.receive(newConnection(uint16(30000 + i)).request(get + traceparent + end))
	}
	must(t, k.probe.sweep(0, 0))
	if got := len(k.emitted()); got != n {
		t.Errorf("%d exchanges, want %d", got, n)
	}
	k.wantCount("requests_unproven", n)
	must(t, k.probe.sweep(0, 0))
	if got := len(k.emitted()); got != 0 {
		t.Errorf("%d exchanges again", got)
	}
	k.wantCount("requests_unproven", n)
}

// sweptTable has elements that the sweep forgets, and as many that it keeps.
type sweptTable struct {
	walks *link.Iter
	table *ebpf.Map
	sweep func(slice int) (left uint64, err error)
}

func (s *sweptTable) size(t *testing.T) (n uint64) {
	t.Helper()
	key, value := make([]byte, s.table.KeySize()), make([]byte, s.table.ValueSize())
	all := s.table.Iterate()
	for all.Next(&key, &value) {
		n++
	}
	must(t, all.Err())
	return n
}

// latest and old are when elements were last touched that are never idle, and always.
const latest, old = math.MaxInt64, 1

// half of all elements are old.
func half(i int) uint64 {
	if i%2 == 0 {
		return latest
	}
	return old
}

// The sweep of a full table visits it in slices. One that ends where an element was deleted can
// skip another, which the next sweep forgets.
func TestSweepInSlices(t *testing.T) {
	const n, forget = 2048, time.Second
	for name, open := range map[string]func(t *testing.T) sweptTable{
		"encrypted": func(t *testing.T) sweptTable {
			e := openEncrypted(t, EncryptedOptions{MaxConnections: n})
			fillEncrypted(t, e, n, half)
			return sweptTable{e.walks[0], e.objects.Maps[bpf.EncryptedMapConnections], func(slice int) (uint64, error) {
				e.sweepSlice = slice
				return e.sweep(forget, time.Hour)
			}}
		},
		"device": func(t *testing.T) sweptTable {
			d := newDevice(t, Options{MaxConnections: n})
			fillDevice(t, d.Device, n, half)
			return sweptTable{d.walks, d.objects.Maps[bpf.DeviceMapFlows], func(slice int) (uint64, error) {
				d.opts.sweepSlice = slice
				result, err := d.sweep(forget, forget)
				return result.Left, err
			}}
		},
	} {
		for _, slice := range []int{1, 64, n} {
			t.Run(fmt.Sprintf("%s/%d", name, slice), func(t *testing.T) {
				s := open(t)
				left, err := s.sweep(slice)
				must(t, err)
				if size := s.size(t); left != n/2 && slice == n || left > n/2 || size < n/2 || size > n/2+uint64(n/slice) {
					t.Errorf("%d of %d elements kept, %d are left", left, n/2, size)
				}
				for sweeps := 0; s.size(t) != n/2; sweeps++ {
					if sweeps > n {
						t.Fatal("sweeps do not forget all")
					}
					_, err := s.sweep(slice)
					must(t, err)
				}
				if left, err = s.sweep(slice); err != nil || left != n/2 {
					t.Errorf("%d elements kept (%v), want %d", left, err, n/2)
				}
				elements, err := s.walks.Open()
				must(t, err)
				visited, err := elements.Read(make([]byte, slice))
				must(t, err)
				must(t, elements.Close())
				if want := min(slice, n/2); visited != want {
					t.Fatalf("a read visits %d elements, want %d", visited, want)
				}
			})
		}
	}
}

// Beside connections the sweep forgets the points that saw them, and what was kept of lost
// segments. It runs in the agent's own time.
func TestEncryptedSweepOfAllTables(t *testing.T) {
	on, err := EnableStats()
	must(t, err)
	defer func() { must(t, on.Close()) }()
	const n = 512
	e := openEncrypted(t, EncryptedOptions{MaxConnections: n})
	fillEncrypted(t, e, n, half)
	for i := range n {
		must(t, e.objects.Maps[bpf.EncryptedMapDisorders].Put(uint64(i), bpf.EncryptedDisorder{Since: half(i)}))
	}
	before, err := e.RunTime()
	must(t, err)
	_, err = e.sweep(time.Second, time.Hour)
	must(t, err)
	after, err := e.RunTime()
	must(t, err)
	if after != before {
		t.Errorf("the programs ran for %v more", after-before)
	}
	for i, w := range encryptedWalks {
		s := sweptTable{walks: e.walks[i], table: e.objects.Maps[w.table]}
		if size := s.size(t); size != n/2 {
			t.Errorf("%s has %d elements, want %d", w.table, size, n/2)
		}
	}
}

// The last sweep of a device emits every message, also those beside flows that another sweep
// would forget.
func TestDeviceLastSweepSkipsNone(t *testing.T) {
	const n = 1024
	d := newDevice(t, Options{MaxConnections: n, sweepSlice: 1})
	fillDevice(t, d.Device, n, half)
	done, cancel := context.WithCancel(t.Context())
	cancel()
	var group errgroup.Group
	group.Go(func() error { return d.Run(done) })
	got := 0
	for range d.Sightings() {
		got++
	}
	must(t, group.Wait())
	if got != n/2 {
		t.Errorf("%d messages, want %d", got, n/2)
	}
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

// BenchmarkSweep walks over tables, in slices and in reads that are as long as the kernel has
// them: the CPU time of a sweep, and of the longest read, which not every kernel interrupts for
// others. After maxTurn and one read more the sweep rests.
func BenchmarkSweep(b *testing.B) {
	reads := map[string]int{"slices": sweepSlice, "whole": 1 << 16}
	for _, n := range []int{1000, 16_384, DefaultMaxConnections} {
		p := benchProbe(b)
		fill(b, p, n)
		for name, slice := range reads {
			b.Run(fmt.Sprintf("captured=%d/%s", n, name), func(b *testing.B) {
				benchWalks(b, slice, []*link.Iter{p.walks}, func() error {
					_, err := p.runSweep(bpf.CaptureSweepArgs{ResponseIdle: math.MaxInt64, RequestIdle: math.MaxInt64}, bpf.CaptureSweepStageSWEEP_BEGIN)
					return err
				})
			})
		}
	}
	const n = DefaultMaxConnections
	all := func(int) uint64 { return latest }
	e, err := OpenEncrypted(EncryptedOptions{MaxConnections: n})
	must(b, err)
	defer func() { must(b, e.Close()) }()
	fillEncrypted(b, e, n, all)
	_, err = e.sweep(time.Hour, time.Hour) // as each walk below, which forgets none
	must(b, err)
	d, err := OpenDevice(Options{MaxConnections: n})
	must(b, err)
	defer func() { must(b, d.Close()) }()
	fillDevice(b, d, n, all)
	_, err = d.sweep(time.Hour, time.Hour)
	must(b, err)
	for name, slice := range reads {
		b.Run(fmt.Sprintf("encrypted=%d/%s", n, name), func(b *testing.B) {
			benchWalks(b, slice, e.walks, func() error { return nil })
		})
		b.Run(fmt.Sprintf("device=%d/%s", n, name), func(b *testing.B) {
			benchWalks(b, slice, []*link.Iter{d.walks}, func() error { return nil })
		})
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

// fillEncrypted makes n connections that one point each sees. touched returns when they were last
// used.
func fillEncrypted(tb testing.TB, e *Encrypted, n int, touched func(i int) uint64) {
	tb.Helper()
	for i := range n {
		key := bpf.EncryptedConnectionKey{AddrA: [2]uint64{0, 1}, AddrB: [2]uint64{0, uint64(i)}, PortA: 443, PortB: uint16(i)}
		const point = 2
		must(tb, e.objects.Maps[bpf.EncryptedMapPointsOfEnds].Put(key, bpf.EncryptedPoints{Of: [8]uint64{point}}))
		key.Point = point
		must(tb, e.objects.Maps[bpf.EncryptedMapConnections].Put(key, bpf.EncryptedConnection{Touched: touched(i)}))
	}
}

// fillDevice makes n flows. Those that were used long ago have no message to emit.
func fillDevice(tb testing.TB, d *Device, n int, touched func(i int) uint64) {
	tb.Helper()
	for i := range n {
		key := bpf.DeviceFlowKey{Ifindex: 2, Src: [2]uint64{0, uint64(i)}, Sport: uint16(i), Dport: 80}
		f := bpf.DeviceFlow{Claim: 2, Touched: touched(i), IdLen: 8}
		if f.Touched == old {
			f.Claim |= 1 // emitted
		}
		must(tb, d.objects.Maps[bpf.DeviceMapFlows].Put(key, f))
	}
}

func benchWalks(b *testing.B, slice int, walks []*link.Iter, begin func() error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var longest, all int64
	for b.Loop() {
		must(b, begin())
		for _, w := range walks {
			elements, err := w.Open()
			must(b, err)
			reads := &timed{Reader: elements}
			if done, err := readSlices(reads, slice); err != nil || !done {
				b.Fatal(done, err)
			}
			must(b, elements.Close())
			longest, all = max(longest, reads.longest), all+reads.all
		}
	}
	b.ReportMetric(float64(longest)/1e3, "longest-read-µs")
	b.ReportMetric(float64(all)/1e3/float64(b.N), "cpu-µs/walk")
}
