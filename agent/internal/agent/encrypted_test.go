// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	collogspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/iface"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/testkit"
)

// fakeEncrypted is a kernel side that saw one exchange, 500 bytes up and 1,200 down.
type fakeEncrypted struct {
	*fakeAttacher
	closed int
	seen   []observe.Turn // guarded by the attacher's lock
}

func newFakeEncrypted() *fakeEncrypted { return &fakeEncrypted{fakeAttacher: newFakeAttacher()} }

func (f *fakeEncrypted) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (f *fakeEncrypted) Turns(dst []observe.Turn, client, server netip.AddrPort, _, _ uint64) ([]observe.Turn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.seen {
		if t.Client == client && t.Server == server {
			dst = append(dst, t)
		}
	}
	return dst, nil
}

func (f *fakeEncrypted) Sockets(func(observe.Key, *observe.Socket)) error { return nil }

func (*fakeEncrypted) RunTime() (time.Duration, error) { return 0, nil }

func (f *fakeEncrypted) Close() error { f.closed++; return nil }

func (f *fakeEncrypted) Describe(chan<- *prometheus.Desc) {}

func (f *fakeEncrypted) Collect(chan<- prometheus.Metric) {}

// see adds an exchange that began at a monotonic time.
func (f *fakeEncrypted) see(number, at uint64) {
	message := func(first uint64, length int) observe.TurnMessage {
		return observe.TurnMessage{
			Message:     observe.Message{First: first, Last: first, Bytes: uint64(length) + 5, Packets: 1},
			RecordBytes: uint64(length), Records: 1, Leading: []observe.LeadingRecord{{Length: uint16(length), First: first}},
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, observe.Turn{
		Key:       observe.Key{Client: netip.MustParseAddrPort("127.0.0.1:40000"), Server: netip.MustParseAddrPort("10.0.0.2:80")},
		Interface: loopback, Direction: observe.DirectionEgress, Number: number,
		Request: message(at+1_000_000, 517), Response: message(at+5_000_000, 1217), Flags: observe.TurnOpen,
	})
}

// logOf is a proxy's record of the exchange that began at a monotonic time.
func logOf(clock *span.Clock, at uint64, spanID string) *collogspb.ExportLogsServiceRequest {
	text := func(s string) *commonpb.AnyValue {
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: s}}
	}
	r := &logspb.LogRecord{TimeUnixNano: uint64(clock.Offset().Wall(at).UnixNano()) / 1000 * 1000, Body: text("layertrace-attempt")}
	for key, value := range map[string]string{
		"traceparent": "00-0af7651916cd43dd8448eb211c80319c-" + spanID + "-01", "request_id": spanID,
		"local": "127.0.0.1:40000", "remote": "10.0.0.2:80", "tx_beg": "100000", "rx_beg": "6000000", "rx_end": "7000000",
		"sent": "500", "received": "1200", "protocol": "HTTP/1.1", "code": "200", "method": "GET", "path": "/x",
	} {
		r.Attributes = append(r.Attributes, &commonpb.KeyValue{Key: key, Value: text(value)})
	}
	return &collogspb.ExportLogsServiceRequest{ResourceLogs: []*logspb.ResourceLogs{{ScopeLogs: []*logspb.ScopeLogs{{LogRecords: []*logspb.LogRecord{r}}}}}}
}

// From a proxy's record over gRPC and the turns of its connection to a span in the record's
// trace, with names, beside the plain ones; and what came before the end is joined.
func TestEncryptedConnections(t *testing.T) {
	probe, kernel := newFakeProbe(), newFakeEncrypted()
	receiver := &testkit.Receiver{}
	address := testkit.FreeAddress(t)
	opts := options(t, probe, "--mtls", "--access-log-address="+address, "--export=otlp-grpc", "--otlp-insecure", "--otlp-endpoint="+receiver.Serve(t, "127.0.0.1:0"))
	opts.OpenEncrypted = func(*config.Config, *slog.Logger) (Encrypted, error) { return kernel, nil }
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, opts) }()
	testkit.Eventually(t, "the agent is ready", func() bool { code, _ := get(t, opts.Config.MetricsAddress, "/readyz"); return code == http.StatusOK })
	if !probe.attachedTo(loopback) || !kernel.attachedTo(loopback) {
		t.Error("ready without being attached by both")
	}
	clock, err := span.NewClock()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	at := span.Monotonic() - 100_000_000
	kernel.see(1, at)
	probe.out <- newExchange(loopback, 1)
	if _, err := collogspb.NewLogsServiceClient(conn).Export(ctx, logOf(clock, at, "00000000000000a1")); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the record is joined", func() bool {
		_, metrics := get(t, opts.Config.MetricsAddress, "/metrics")
		return strings.Contains(metrics, `layertrace_encrypted_records_total{namespace="",reason="",side="attempt",state="exact",workload=""} 1`)
	})
	// One that has no exchange yet when the agent ends.
	kernel.see(2, at+20_000_000)
	if _, err := collogspb.NewLogsServiceClient(conn).Export(ctx, logOf(clock, at+20_000_000, "00000000000000a2")); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if probe.closed != 1 || kernel.closed != 1 {
		t.Errorf("closed %d and %d times", probe.closed, kernel.closed)
	}
	joined := map[string]string{}
	for _, s := range receiver.Spans() {
		texts := receiver.Texts(s)
		if join := texts["layertrace.join"]; join != "" {
			joined[join+" "+texts["url.path"]+" "+s.Name] += string(s.ParentSpanId[7:])
		}
	}
	if len(joined) != 1 || len(joined["exact /x node2_lo"]) != 2 || len(receiver.Spans()) != 3 {
		t.Errorf("%d spans, joined %q", len(receiver.Spans()), joined)
	}
}

// An agent whose receiver cannot listen does not start, and leaves nothing in the kernel.
func TestAccessLogAddressInUse(t *testing.T) {
	probe, kernel := newFakeProbe(), newFakeEncrypted()
	other, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(t.Context())
	opts := options(t, probe, "--mtls", "--access-log-address="+other.Address())
	opts.OpenEncrypted = func(*config.Config, *slog.Logger) (Encrypted, error) { return kernel, nil }
	if err := Run(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "--access-log-address") {
		t.Errorf("got %v", err)
	}
	if probe.closed != 1 || kernel.closed != 1 {
		t.Errorf("closed %d and %d times", probe.closed, kernel.closed)
	}
}

// An interface at which only one of the kernel sides can attach is tried again as a whole.
func TestAttachBothOrNone(t *testing.T) {
	probe, kernel := newFakeProbe(), newFakeEncrypted()
	kernel.refuse[7] = true
	both := attachers{probe, kernel}
	if err := both.Attach(7); err == nil || probe.attachedTo(7) {
		t.Errorf("attached by half: %v", err)
	}
	kernel.refuse[7] = false
	if err := both.Attach(7); err != nil || !probe.attachedTo(7) || !kernel.attachedTo(7) {
		t.Errorf("not attached: %v", err)
	}
	if err := both.Detach(7); err != nil || probe.attachedTo(7) || kernel.attachedTo(7) {
		t.Errorf("not detached: %v", err)
	}
}

// A turn's capture point is on the side of the request's sender or of its receiver, or, at a
// loopback device, on both.
func TestSides(t *testing.T) {
	points := newRegistry(resolver{}, time.Minute, 1337)
	points.interfaces = map[int]*interfacePoint{
		1: {iface: iface.Interface{Index: 1, Name: "lo", Kind: observe.KindVNIC}},
		2: {iface: iface.Interface{Index: 2, Name: "veth1", Kind: observe.KindVNIC}},
		3: {iface: iface.Interface{Index: 3, Name: "eth0", Kind: observe.KindPNIC}},
	}
	for _, c := range []struct {
		turn           observe.Turn
		client, server bool
	}{
		{observe.Turn{Interface: 1, Direction: observe.DirectionEgress}, true, true},
		{observe.Turn{Interface: 2, Direction: observe.DirectionIngress}, true, false},
		{observe.Turn{Interface: 2, Direction: observe.DirectionEgress}, false, true},
		{observe.Turn{Interface: 3, Direction: observe.DirectionIngress}, false, true},
		{observe.Turn{Interface: 3, Direction: observe.DirectionEgress}, true, false},
		{observe.Turn{Interface: 4, Direction: observe.DirectionEgress}, false, false},
		{observe.Turn{Socket: &observe.Socket{Client: true}}, true, false},
		{observe.Turn{Socket: &observe.Socket{}}, false, true},
	} {
		if points.isOnSide(&c.turn, true) != c.client || points.isOnSide(&c.turn, false) != c.server {
			t.Errorf("%+v: client's %v, server's %v", c.turn, points.isOnSide(&c.turn, true), points.isOnSide(&c.turn, false))
		}
	}
}

// The spans of a trace wait for those of its encrypted exchanges, which come when their record
// has: one that comes before the end of the wait is of the trace, one that comes later is counted.
func TestJoinWait(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  config.Config
		wait time.Duration
	}{
		{"plain", config.Config{IdleTimeout: 2 * time.Second, ReadInterval: 100 * time.Millisecond}, 4100 * time.Millisecond},
		{"mtls", config.Config{MTLS: true}, 5 * time.Second},
		{"infer", config.Config{MTLS: true, MTLSInfer: true}, 8 * time.Second},
		{"mtls, long timeouts", config.Config{MTLS: true, IdleTimeout: 10 * time.Second}, 20 * time.Second},
	} {
		for _, after := range []time.Duration{-time.Millisecond, 0} {
			l := newLayers(&test.cfg, "node1", nil, prometheus.NewRegistry())
			start := time.Unix(1000, 0)
			first, second := newExchange(loopback, 0), newExchange(loopback, 1)
			second.Join = observe.JoinExact
			first.Point, second.Point = &observe.Point{}, &observe.Point{}
			l.add(&first, start)
			now := start.Add(test.wait + after)
			l.buffer.Flush(now)
			l.add(&second, now)
			want := uint64(0)
			if after == 0 {
				want = 1
			}
			if early, late := l.buffer.Counts(); early != 0 || late != want {
				t.Errorf("%s: %v after the first: %d split early, %d late, want %d", test.name, test.wait+after, early, late, want)
			}
		}
	}
}
