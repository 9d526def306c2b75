// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/iface"
	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/bpf"
	"github.com/layertrace/layertrace/internal/observe"
)

// way is the whole way of exchanges through the agent: from records as they are in the ring
// buffer to OTLP over HTTP at a receiver.
type way struct {
	decoder  *probe.Decoder
	pipeline *pipeline
	record   bpf.CaptureExchangeRecord
	slice    []observe.Observation
	passed   int
}

const waySlice = 64

// newWay returns the way through an agent with args.
func newWay(tb testing.TB, args ...string) *way {
	tb.Helper()
	fs := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	cfg := config.Define(fs)
	if err := errors.Join(fs.Parse(append([]string{"--node=node2"}, args...)), config.Load(fs, cfg, []string{"LAYERTRACE_EXPORT=none"})); err != nil {
		tb.Fatal(err)
	}
	opts := Options{Config: cfg, Stdout: io.Discard, Log: slog.New(slog.DiscardHandler), Version: "v1"}
	names, err := newResolver(opts)
	if err != nil {
		tb.Fatal(err)
	}
	clock, err := span.NewClock()
	if err != nil {
		tb.Fatal(err)
	}
	w := &way{decoder: probe.NewDecoder(false)}
	if w.pipeline, err = newPipeline(tb.Context(), opts, names, clock, prometheus.NewRegistry()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := w.pipeline.close(context.WithoutCancel(tb.Context())); err != nil {
			tb.Error(err)
		}
	})
	points := newRegistry(names, gracePeriod(cfg), cfg.SidecarUID)
	points.add(iface.Interface{Index: 2, Name: "vethreviews", Kind: observe.KindVNIC})
	points.add(iface.Interface{Index: 3, Name: "eth0", Kind: observe.KindPNIC})
	w.pipeline.find(points)

	r := &w.record
	r.Sampling, r.Format, r.Status, r.Direction = 1, 1, 200, 1
	r.ClientPort, r.ServerPort, r.ConnectionIdLen = 40000, 9080, 8
	r.RequestBytes, r.RequestPackets, r.ResponseBytes, r.ResponsePackets = 400, 1, 9000, 4
	return w
}

// pass lets the next n exchanges through: two interfaces, 250 connections, 1,000 paths.
func (w *way) pass(tb testing.TB, n int) {
	r := &w.record
	raw := unsafe.Slice((*byte)(unsafe.Pointer(r)), unsafe.Sizeof(*r))
	for range n {
		w.passed++
		i := uint64(w.passed)
		binary.BigEndian.PutUint64(r.TraceId[8:], i)
		binary.BigEndian.PutUint64(r.SpanId[:], i)
		binary.BigEndian.PutUint32(r.ConnectionId[4:], uint32(i%250))
		r.Ifindex = 2 + uint32(i%2)
		r.ClientAddr = netip.AddrFrom4([4]byte{10, 0, 0, byte(i % 250)}).As16()
		r.ServerAddr = netip.AddrFrom4([4]byte{10, 0, 1, byte(i % 250)}).As16()
		line := append(r.RequestLine[:0], "GET /reviews/"...)
		line = append(line, byte('0'+i/100%10), byte('0'+i/10%10), byte('0'+i%10))
		copy(r.RequestLine[len(line):], " HTTP/1.1\r\n")
		r.RequestFirst = 1e12 + i*1000
		r.RequestLast, r.ResponseFirst, r.ResponseLast = r.RequestFirst, r.RequestFirst+1e6, r.RequestFirst+2e6
		w.slice = append(w.slice, observe.Observation{})
		if err := w.decoder.Decode(raw, &w.slice[len(w.slice)-1]); err != nil {
			tb.Fatal(err)
		}
		if len(w.slice) == waySlice {
			w.pipeline.take(w.slice)
			w.slice = w.slice[:0]
		}
	}
}

// sink returns the settings of an agent that delivers to a receiver which discards all.
func sink(tb testing.TB) []string {
	tb.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	tb.Cleanup(server.Close)
	return []string{"--export=otlp-http", "--otlp-endpoint=" + server.URL, "--queue-size=65536"}
}

// An exchange costs no allocation without an export, and at most two, HTTP included, on its
// way to OTLP.
func TestAllocationsOfAnExchange(t *testing.T) {
	const many = 1000    // so that what comes once per slice or request is counted too
	const runtime = 0.01 // what Go's runtime allocates meanwhile on a busy machine
	for _, test := range []struct {
		name string
		args []string
		most float64
	}{{"no export", nil, 0}, {"OTLP", sink(t), 2}} {
		w := newWay(t, test.args...)
		flush := func() {
			if w.pipeline.queue != nil {
				if err := w.pipeline.queue.ForceFlush(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.pass(t, 3*many)
		flush()
		got := testing.AllocsPerRun(10, func() { w.pass(t, many); flush() }) / many
		t.Logf("%s: %.3f allocations per exchange", test.name, got)
		if got > test.most+runtime {
			t.Errorf("%s: %.3f allocations per exchange, want %v at most", test.name, got, test.most)
		}
	}
}

// BenchmarkExchange is the CPU of the whole way, the receiver included.
func BenchmarkExchange(b *testing.B) {
	for name, args := range map[string]func(testing.TB) []string{
		"none": func(testing.TB) []string { return nil }, "otlp": sink,
	} {
		b.Run(fmt.Sprintf("export=%s", name), func(b *testing.B) {
			w := newWay(b, args(b)...)
			b.ReportAllocs()
			for n := 1; b.Loop(); n++ {
				w.pass(b, 1)
				if n%512 == 0 && w.pipeline.queue != nil {
					if err := w.pipeline.queue.ForceFlush(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
