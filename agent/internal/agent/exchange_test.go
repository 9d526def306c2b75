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
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"runtime/pprof"
	"testing"
	"time"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/export"
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
		w.take(tb)
	}
}

// passHops lets the next n requests between two pods of the node through, each of a trace of
// its own and seen at both sockets and interfaces.
func (w *way) passHops(tb testing.TB, n int) {
	r := &w.record
	for range n {
		sent := 1e12 + uint64(w.passed)*100_000
		w.passed++
		binary.BigEndian.PutUint64(r.TraceId[8:], uint64(w.passed))
		binary.BigEndian.PutUint64(r.SpanId[:], uint64(w.passed))
		r.ClientAddr = netip.AddrFrom4([4]byte{10, 0, 0, byte(w.passed % 250)}).As16()
		copy(r.RequestLine[:], "GET /reviews/0 HTTP/1.1\r\n")
		for point := range uint64(4) { // as the request passes them
			later := point * 11_000
			r.RequestFirst, r.ResponseFirst = sent+later, sent+1_000_000-later
			r.RequestLast, r.ResponseLast = r.RequestFirst, r.ResponseFirst
			r.IsSocket, r.IsClient, r.ConnectionIdLen = 0, 0, 0
			r.FarRequestFirst, r.FarRequestLast, r.FarResponseFirst, r.FarResponseLast = 0, 0, 0, 0
			switch point {
			case 1: // the client's interface
				r.Ifindex, r.Direction = 2, uint8(observe.DirectionIngress)
			case 2:
				r.Ifindex, r.Direction = 4, uint8(observe.DirectionEgress)
			default:
				r.IsSocket, r.Netns, r.Tgid = 1, 4026532300+uint32(point), 4711
				r.FarRequestFirst, r.FarResponseFirst = r.RequestFirst+5000, r.ResponseFirst-5000
				if point == 0 {
					r.IsClient = 1
					r.FarRequestFirst, r.FarResponseFirst = r.RequestFirst-5000, r.ResponseFirst+5000
				}
				r.FarRequestLast, r.FarResponseLast = r.FarRequestFirst, r.FarResponseFirst
			}
			w.take(tb)
		}
	}
}

// take lets the present record through, with others.
func (w *way) take(tb testing.TB) {
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&w.record)), unsafe.Sizeof(w.record))
	w.slice = append(w.slice, observe.Observation{})
	if err := w.decoder.Decode(raw, &w.slice[len(w.slice)-1]); err != nil {
		tb.Fatal(err)
	}
	if len(w.slice) == waySlice {
		w.pipeline.take(w.slice)
		w.slice = w.slice[:0]
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
			began := processTime(b)
			for n := 1; b.Loop(); n++ {
				w.pass(b, 1)
				if n%512 == 0 && w.pipeline.queue != nil {
					if err := w.pipeline.queue.ForceFlush(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(processTime(b)-began)/float64(b.N), "cpu-ns/op")
		})
	}
}

// processTime is the CPU time of the process in ns. On a busy machine that of a benchmark is
// less than the time that passes.
func processTime(b *testing.B) int64 {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return used.Utime.Nano() + used.Stime.Nano()
}

// BenchmarkLayers is an agent with layers at fixed rates, from the record to the encoded span:
// its peak memory without program text and BPF maps, the CPU of a request, and the traces that
// were not split or split early. It needs some 15 s of each rate: -benchtime 150000x for 10,000.
// With a path in heapProfile it writes a profile of the heap there after half of the requests.
func BenchmarkLayers(b *testing.B) {
	for _, rate := range []int{5000, 10_000, 20_000} {
		b.Run(fmt.Sprintf("rate=%d", rate), func(b *testing.B) { benchLayers(b, rate) })
	}
}

// heapProfile is the environment variable with the path of BenchmarkLayers' profile.
const heapProfile = "LAYERTRACE_HEAP_PROFILE"

// writeHeap writes a profile of the heap, as of the last garbage collection.
func writeHeap(b *testing.B, path string) {
	file, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	if err := errors.Join(pprof.WriteHeapProfile(file), file.Close()); err != nil {
		b.Fatal(err)
	}
}

// nowhere is a receiver that takes spans without any work.
type nowhere struct{}

func (nowhere) Start(context.Context) error                                  { return nil }
func (nowhere) Stop(context.Context) error                                   { return nil }
func (nowhere) UploadTraces(context.Context, []*tracepb.ResourceSpans) error { return nil }

func benchLayers(b *testing.B, rate int) {
	names := filepath.Join(b.TempDir(), "identity.yaml")
	if err := os.WriteFile(names, []byte("interfaces:\n  veth*: {service: reviews, namespace: default, pod: reviews-1}\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(50)) // as cli's layersGarbage
	w := newWay(b, "--spans=layers", "--identity="+names)
	p := w.pipeline
	p.queue = export.NewQueue(nowhere{}, 8192, slog.New(slog.DiscardHandler))
	emitter := func() *span.Emitter {
		return span.NewEmitter(span.Options{Sink: p.queue, Offset: func() span.ClockOffset { return 0 }, Version: "v1"})
	}
	p.emitter, p.layers.emitter, p.limits = emitter(), emitter(), newSpanLimits(0, 0, prometheus.NewRegistry())
	p.points.add(iface.Interface{Index: 4, Name: "vethratings", Kind: observe.KindVNIC})
	captured, ended := make(chan struct{}), make(chan struct{})
	go func() { defer close(ended); p.run(captured, nil) }()

	memory := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	peak := uint64(0)
	profile := os.Getenv(heapProfile)
	before := processTime(b)
	b.ReportAllocs()
	b.ResetTimer()
	for began, sent := time.Now(), 0; sent < b.N; time.Sleep(5 * time.Millisecond) {
		if profile != "" && sent > b.N/2 {
			writeHeap(b, profile)
			profile = ""
		}
		due := min(b.N, int(time.Since(began).Seconds()*float64(rate)))
		w.passHops(b, due-sent)
		sent = due
		metrics.Read(memory)
		peak = max(peak, memory[0].Value.Uint64()-memory[1].Value.Uint64())
	}
	b.StopTimer()
	cpu := processTime(b) - before
	early, _ := p.layers.buffer.Counts()
	b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
	b.ReportMetric(float64(cpu)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(p.layers.splitter.refused.Load()), "not-split")
	b.ReportMetric(float64(early), "early")
	close(captured)
	<-ended
}
