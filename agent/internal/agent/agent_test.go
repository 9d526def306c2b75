// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/testkit"
	"github.com/layertrace/layertrace/internal/tracecontext"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// loopback is the index of lo, which is in every network namespace.
const loopback = 1

// options returns the options of an agent that watches lo by a fake probe.
func options(t *testing.T, probe *fakeProbe, args ...string) Options {
	t.Helper()
	fs := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	cfg := config.Define(fs)
	args = append([]string{"--vnic=lo", "--pnic=nosuch*", "--node=node2", "--metrics-address=" + testkit.FreeAddress(t)}, args...)
	// No export unless args ask for one.
	if err := errors.Join(fs.Parse(args), config.Load(fs, cfg, []string{"LAYERTRACE_EXPORT=none"})); err != nil {
		t.Fatal(err)
	}
	return Options{
		Config: cfg, Stdout: io.Discard, Log: slog.New(slog.DiscardHandler), Version: "v1",
		OpenProbe: func(*config.Config, *slog.Logger) (Probe, error) { return probe, nil },
	}
}

// get returns status and body of a response, 0 without one.
func get(t *testing.T, address, path string) (int, string) {
	t.Helper()
	response, err := http.Get("http://" + address + path)
	if err != nil {
		return 0, ""
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// checkWallTime: a line has the wall-clock time of the exchange's first byte.
func checkWallTime(t *testing.T, lines []byte) {
	t.Helper()
	first, _, _ := bytes.Cut(lines, []byte("\n"))
	var line struct {
		Time    time.Time
		Request struct {
			First   time.Time
			FirstNS int64 `json:"first_ns"`
		}
	}
	if err := json.Unmarshal(first, &line); err != nil {
		t.Fatal(err)
	}
	var monotonic unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &monotonic); err != nil {
		t.Fatal(err)
	}
	want := time.Now().Add(time.Duration(line.Request.FirstNS - monotonic.Nano()))
	if off := line.Time.Sub(want).Abs(); off > time.Second || !line.Time.Equal(line.Request.First) {
		t.Errorf("the time of the line is %v, want about %v: %s", line.Time, want, first)
	}
}

// From the probe's observations to the receiver, the lines and the metrics, and a
// shutdown that loses nothing.
func TestRun(t *testing.T) {
	probe := newFakeProbe()
	probe.flush = []observe.Observation{newExchange(loopback, 100)} // open at the stop
	receiver := &testkit.Receiver{}
	opts := options(t, probe, "--export=otlp-grpc,stdout", "--otlp-insecure", "--otlp-endpoint="+receiver.Serve(t, "127.0.0.1:0"))
	var lines bytes.Buffer
	opts.Stdout = &lines
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, opts) }()

	testkit.Eventually(t, "the agent is ready", func() bool { code, _ := get(t, opts.Config.MetricsAddress, "/readyz"); return code == http.StatusOK })
	if !probe.attachedTo(loopback) {
		t.Error("ready without being attached")
	}
	for i := range 10 {
		probe.out <- newExchange(loopback, i)
	}
	probe.out <- newExchange(999, 50) // of no watched interface
	unnamed := newExchange(0, 52)     // a loopback device has no owner, a socket should have
	unnamed.Socket = &observe.Socket{Netns: 1}
	probe.out <- unnamed
	invalid := newExchange(loopback, 51)
	invalid.Context.TraceID = [16]byte{}
	probe.out <- invalid
	testkit.Eventually(t, "all is counted", func() bool {
		_, metrics := get(t, opts.Config.MetricsAddress, "/metrics")
		return strings.Contains(metrics, "layertrace_exchanges_invalid_total 1\n")
	})
	_, metrics := get(t, opts.Config.MetricsAddress, "/metrics")
	for _, want := range []string{
		`layertrace_exchanges_handled_total{kind="vnic"} 11`, "layertrace_exchanges_unknown_interface_total 1",
		`layertrace_exchanges_handled_total{kind="socket"} 1`,
		"layertrace_exchanges_unnamed_total 1", "layertrace_spans_accepted_total 11", "layertrace_lines_written_total 12",
		`layertrace_interfaces{kind="vnic"} 1`, `layertrace_interfaces{kind="pnic"} 0`, "layertrace_ring_full_total 3",
		`layertrace_build_info{version="v1"} 1`, "layertrace_ready 1", "process_resident_memory_bytes",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if code, _ := get(t, opts.Config.MetricsAddress, "/healthz"); code != http.StatusOK {
		t.Errorf("/healthz responds %d", code)
	}

	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if n := len(receiver.Spans()); n != 12 {
		t.Errorf("%d spans arrived, want 12", n)
	}
	names := map[string]int{}
	for _, s := range receiver.Spans() {
		names[s.Name]++
	}
	if names["node2_lo"] != 11 || names["node2_application"] != 1 {
		t.Errorf("spans %v", names)
	}
	if n := bytes.Count(lines.Bytes(), []byte("\n")); n != 13 {
		t.Errorf("%d lines, want 13", n)
	}
	checkWallTime(t, lines.Bytes())
	if probe.closed != 1 {
		t.Errorf("the probe was closed %d times", probe.closed)
	}
	if code, _ := get(t, opts.Config.MetricsAddress, "/healthz"); code != 0 {
		t.Error("the server responds after the end")
	}
}

// Without a receiver, spans are kept until they are read; beside one, both get them.
func TestRunKeepsSpans(t *testing.T) {
	receiver := &testkit.Receiver{}
	for name, args := range map[string][]string{
		"alone":  {"--export=none"},
		"beside": {"--export=otlp-grpc", "--otlp-insecure", "--otlp-endpoint=" + receiver.Serve(t, "127.0.0.1:0")},
	} {
		t.Run(name, func(t *testing.T) {
			probe := newFakeProbe()
			opts := options(t, probe, append(args, "--keep-spans=3")...)
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- Run(ctx, opts) }()
			testkit.Eventually(t, "the agent is ready", func() bool { code, _ := get(t, opts.Config.MetricsAddress, "/readyz"); return code == http.StatusOK })
			for i := range 5 {
				probe.out <- newExchange(loopback, i)
			}
			testkit.Eventually(t, "all is counted", func() bool {
				_, metrics := get(t, opts.Config.MetricsAddress, "/metrics")
				return strings.Contains(metrics, "layertrace_kept_spans_total 3\n") && strings.Contains(metrics, "layertrace_kept_spans_dropped_total 2\n")
			})
			received := tracestore.NewReceived(100)
			code, body := get(t, opts.Config.MetricsAddress, "/spans")
			if err := received.Add([]byte(body)); err != nil || code != http.StatusOK {
				t.Fatal(code, err)
			}
			n := 0
			for _, trace := range received.Traces() {
				n += len(trace.Observations)
			}
			if n != 3 {
				t.Errorf("%d spans were kept, want 3", n)
			}
			stop()
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
		})
	}
	if n := len(receiver.Spans()); n != 5 {
		t.Errorf("the receiver has %d spans, want 5", n)
	}
}

func TestNotReadyWithoutInterface(t *testing.T) {
	probe := newFakeProbe()
	probe.refuse[loopback] = true
	opts := options(t, probe)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, opts) }()
	testkit.Eventually(t, "the failure is counted", func() bool {
		_, metrics := get(t, opts.Config.MetricsAddress, "/metrics")
		return strings.Contains(metrics, "layertrace_attach_failures_total 1\n") && strings.Contains(metrics, "layertrace_ready 0\n")
	})
	if code, body := get(t, opts.Config.MetricsAddress, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "no interface") {
		t.Errorf("/readyz responds %d %s", code, body)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A part that hangs does not delay the end beyond --shutdown-timeout.
func TestShutdownTimeout(t *testing.T) {
	probe := newFakeProbe()
	probe.deaf = true
	opts := options(t, probe, "--shutdown-timeout=100ms")
	ctx, stop := context.WithCancel(t.Context())
	stop()
	start := time.Now()
	err := Run(ctx, opts)
	if err == nil || !strings.Contains(err.Error(), "--shutdown-timeout") {
		t.Errorf("got %v", err)
	}
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("it took %v", d)
	}
	if probe.closed != 1 {
		t.Error("the probe was not closed")
	}
}

func TestRunRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, test := range map[string]struct{ arg, want string }{
		"port in use":       {"--metrics-address=" + taken.Addr().String(), "is in use"},
		"missing interface": {"--pnic=nosuch0", `no interface "nosuch0"`},
		"no identity file":  {"--identity=/nosuch", "--identity"},
		"no kubeconfig":     {"--kubernetes=true,--kubeconfig=/nosuch", "--kubeconfig"},
		"unusable address":  {"--metrics-address=192.0.2.1:1", "--metrics-address"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := Run(t.Context(), options(t, newFakeProbe(), strings.Split(test.arg, ",")...)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want a message with %q", err, test.want)
			}
		})
	}
}

// The port is free again after a failed start.
func TestFailedStartFreesThePort(t *testing.T) {
	opts := options(t, newFakeProbe())
	failure := errors.New("no BPF here")
	opts.OpenProbe = func(*config.Config, *slog.Logger) (Probe, error) { return nil, failure }
	if err := Run(t.Context(), opts); !errors.Is(err, failure) {
		t.Fatalf("got %v", err)
	}
	l, err := net.Listen("tcp", opts.Config.MetricsAddress)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// fakeProbe returns the observations that a test puts in.
type fakeProbe struct {
	out   chan observe.Observation
	flush []observe.Observation // returned at the end
	deaf  bool                  // Run never ends

	*fakeAttacher
	ahead  map[int][]probe.Foreign
	closed int
	limits probe.Limits
}

func newFakeProbe() *fakeProbe {
	return &fakeProbe{out: make(chan observe.Observation), fakeAttacher: newFakeAttacher()}
}

// fakeAttacher remembers where it is attached.
type fakeAttacher struct {
	mu       sync.Mutex
	refuse   map[int]bool // interfaces that cannot be attached to
	attached map[int]bool
}

func newFakeAttacher() *fakeAttacher {
	return &fakeAttacher{refuse: map[int]bool{}, attached: map[int]bool{}}
}

func (f *fakeAttacher) Attach(ifindex int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse[ifindex] {
		return errors.New("refused")
	}
	f.attached[ifindex] = true
	return nil
}

func (f *fakeAttacher) Detach(ifindex int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.attached, ifindex)
	return nil
}

func (f *fakeProbe) Ahead(ifindex int) ([]probe.Foreign, error) { return f.ahead[ifindex], nil }

func (f *fakeProbe) Run(ctx context.Context, take func([]observe.Observation)) error {
	for {
		select {
		case x := <-f.out:
			take([]observe.Observation{x})
		case <-ctx.Done():
			if f.deaf {
				select {}
			}
			for len(f.out) > 0 {
				take([]observe.Observation{<-f.out})
			}
			take(f.flush)
			return nil
		}
	}
}

func (f *fakeProbe) Limit(l probe.Limits) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.limits = l
	return nil
}

func (*fakeProbe) RunTime() (time.Duration, error) { return 0, nil }

func (*fakeProbe) IsCrowded() bool { return false }

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

func (f *fakeAttacher) attachedTo(ifindex int) bool {
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

// Without sockets, --spans=layers cannot separate protocol stack and application: the
// agent says so at once, and nothing with sockets.
func TestLayersWithoutSocketsAreLogged(t *testing.T) {
	for _, c := range []struct {
		args []string
		want bool
	}{
		{[]string{"--spans=layers", "--socket-cgroup=none"}, true},
		{[]string{"--spans=layers", "--socket-cgroup=/sys/fs/cgroup"}, false},
		{nil, false},
	} {
		opts := options(t, newFakeProbe(), c.args...)
		var log bytes.Buffer
		opts.Log = slog.New(slog.NewTextHandler(&log, nil))
		ctx, stop := context.WithCancel(t.Context())
		stop()
		if err := Run(ctx, opts); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(log.String(), "without sockets"); got != c.want {
			t.Errorf("%v: the log has %s", c.args, &log)
		}
	}
}

// The loopback device is added on a machine without pods only, where nothing was chosen.
func TestLoopbackByDefault(t *testing.T) {
	for _, test := range []struct {
		chosen, cluster, pods, want bool
	}{
		{want: true}, {chosen: true}, {cluster: true}, {pods: true},
	} {
		cfg := &config.Config{VNIC: []string{"kind:veth"}, VNICDefault: !test.chosen, Kubernetes: test.cluster}
		s, loopback := selectInterfaces(cfg, func() bool { return test.pods })
		if got := s.Kind("lo", "loopback") == observe.KindVNIC; got != test.want || loopback != test.want {
			t.Errorf("%+v: loopback is selected: %v, %v", test, got, loopback)
		}
		if s.Kind("veth1", "veth") != observe.KindVNIC || len(cfg.VNIC) != 1 {
			t.Errorf("%+v: %v, settings %v", test, s, cfg.VNIC)
		}
	}
}
