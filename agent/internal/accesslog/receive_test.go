// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	collogspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/testkit"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

const start = uint64(1_700_000_000_123_456_000)

func text(s string) *commonpb.AnyValue {
	return &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: s}}
}

// log returns a record as Envoy sends it: name is the body, labels are pairs.
func log(name string, labels ...string) *logspb.LogRecord {
	r := &logspb.LogRecord{TimeUnixNano: start, Body: text(name)}
	for i := 0; i < len(labels); i += 2 {
		r.Attributes = append(r.Attributes, &commonpb.KeyValue{Key: labels[i], Value: text(labels[i+1])})
	}
	return r
}

const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// clientLog is a complete record of the side of the sender, of a proxy at 127.0.0.1.
func clientLog(changes ...string) *logspb.LogRecord {
	return with(log(NameClient,
		"traceparent", traceparent, "request_id", "7d7b", "local", "127.0.0.1:40000", "remote", "10.1.2.3:9080",
		"tx_beg", "500000", "rx_beg", "1700000", "rx_end", "2900001", "sent", "812", "received", "70012", "attempts", "1",
		"protocol", "HTTP/1.1", "code", "200", "flags", "-", "method", "GET", "path", "/reviews/7?x=secret"), changes)
}

// serverLog is one of the side of the receiver, of a proxy at 127.0.0.1.
func serverLog(changes ...string) *logspb.LogRecord {
	return with(log(NameServer,
		"incoming-traceparent", traceparent, "request_id", "7d7b", "remote", "10.1.2.3:40000", "local", "127.0.0.1:9080",
		"tx_end", "2900001", "received", "812", "sent", "70012", "protocol", "HTTP/1.1", "code", "503", "flags", "UF", "method", "GET", "path", "/"), changes)
}

// with replaces or adds labels.
func with(r *logspb.LogRecord, changes []string) *logspb.LogRecord {
next:
	for i := 0; i < len(changes); i += 2 {
		for _, kv := range r.Attributes {
			if kv.Key == changes[i] {
				kv.Value = text(changes[i+1])
				continue next
			}
		}
		r.Attributes = append(r.Attributes, &commonpb.KeyValue{Key: changes[i], Value: text(changes[i+1])})
	}
	return r
}

// without removes labels, as a log of another version would lack them.
func without(r *logspb.LogRecord, names ...string) *logspb.LogRecord {
	r.Attributes = slices.DeleteFunc(r.Attributes, func(kv *commonpb.KeyValue) bool { return slices.Contains(names, kv.Key) })
	return r
}

func requestOf(records ...*logspb.LogRecord) *collogspb.ExportLogsServiceRequest {
	return &collogspb.ExportLogsServiceRequest{ResourceLogs: []*logspb.ResourceLogs{{ScopeLogs: []*logspb.ScopeLogs{{LogRecords: records}}}}}
}

// taker keeps what a receiver takes.
type taker struct {
	mu      sync.Mutex
	records []Record
	count   int
	most    int // 0: no limit
	wait    chan struct{}
}

func (k *taker) take(records []Record) int {
	if k.wait != nil {
		<-k.wait
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	n := len(records)
	if k.most > 0 {
		n = min(n, k.most-k.count)
	}
	k.count += n
	if k.count < 1000 {
		k.records = append(k.records, records[:n]...)
	}
	return n
}

func (k *taker) total() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.count
}

// serve starts a receiver and returns it with its metrics.
func serve(t testing.TB, k *taker, set func(*Options)) (*Receiver, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewRegistry()
	opts := Options{Address: "127.0.0.1:0", Take: k.take}
	if set != nil {
		set(&opts)
	}
	r, err := Listen(opts, NewMetrics(registry))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- r.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		r.Close(ctx)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return r, registry
}

// dial returns a connection to a receiver from a local address.
func dial(t testing.TB, r *Receiver, from string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+r.Address(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
			return d.DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// countsOf returns the values of counters as name/labels, without zeros.
func countsOf(t testing.TB, registry *prometheus.Registry) map[string]int {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, f := range families {
		name := strings.TrimSuffix(strings.TrimPrefix(f.GetName(), "layertrace_access_log_"), "_total")
		for _, m := range f.GetMetric() {
			if n := int(m.GetCounter().GetValue()); n != 0 {
				counts[name+labelsOf(m)] = n
			}
		}
	}
	return counts
}

func labelsOf(m *dto.Metric) (s string) {
	for _, l := range m.GetLabel() {
		if l.GetValue() != "" {
			s += " " + l.GetValue()
		}
	}
	return s
}

// Records of all three sides arrive over gRPC with the right values, and are counted by
// their sender.
func TestReceive(t *testing.T) {
	k := &taker{}
	r, registry := serve(t, k, func(o *Options) {
		o.Sender = func(netip.Addr) observe.Peer {
			return observe.Peer{Service: "reviews", Namespace: "shop"}
		}
	})
	own := log(NameServer, "incoming-traceparent", "-", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01",
		"remote", "10.1.2.3:40000", "local", "127.0.0.1:9080")
	own.TraceId, own.SpanId = bytes.Repeat([]byte{10}, 16), bytes.Repeat([]byte{11}, 8)
	attempt := clientLog("rx_end", "-", "attempts", "0", "traceparent", "-",
		"x-b3-traceid", "0af7651916cd43dd8448eb211c80319c", "x-b3-spanid", "b7ad6b7169203331", "x-b3-sampled", "1")
	attempt.Body = text(NameAttempt)
	response, err := collogspb.NewLogsServiceClient(dial(t, r, "127.0.0.1")).Export(t.Context(), requestOf(clientLog(), attempt, serverLog(), own))
	if err != nil || response.GetPartialSuccess() != nil {
		t.Fatal(response, err)
	}
	peer, w3c := netip.MustParseAddr("127.0.0.1"), tracecontext.FormatW3C
	context := tracecontext.Context{
		TraceID: tracecontext.TraceID{0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c},
		SpanID:  tracecontext.SpanID{0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31}, Sampling: tracecontext.Accepted, Format: w3c,
	}
	b3 := context
	b3.Format = tracecontext.FormatB3Multi
	sender := observe.Peer{Service: "reviews", Namespace: "shop"}
	client := Record{
		Side: SideClient, Peer: peer, Sender: sender, Context: context, RequestID: "7d7b",
		Client: netip.MustParseAddrPort("127.0.0.1:40000"), Server: netip.MustParseAddrPort("10.1.2.3:9080"),
		Start: start, RequestFirst: start + 500_000, ResponseFirst: start + 1_700_000, ResponseLast: start + 2_900_001,
		RequestBytes: 812, ResponseBytes: 70012, SizesKnown: true, Attempts: 1, Protocol: "HTTP/1.1", Method: "GET", Path: "/reviews/7", Status: 200,
	}
	try := client
	try.Side, try.ResponseLast, try.Attempts, try.Context = SideAttempt, 0, 0, b3
	server := Record{
		Side: SideServer, Peer: peer, Sender: sender, Context: context, RequestID: "7d7b",
		Client: netip.MustParseAddrPort("10.1.2.3:40000"), Server: netip.MustParseAddrPort("127.0.0.1:9080"),
		Start: start, ResponseLast: start + 2_900_001, RequestBytes: 812, ResponseBytes: 70012, SizesKnown: true,
		Protocol: "HTTP/1.1", Method: "GET", Path: "/", Status: 503, ResponseFlags: "UF",
	}
	bare := Record{
		Side: SideServer, Peer: peer, Sender: sender, Client: server.Client, Server: server.Server, Start: start,
		OwnContext: tracecontext.Context{
			TraceID: tracecontext.TraceID(bytes.Repeat([]byte{10}, 16)), SpanID: tracecontext.SpanID(bytes.Repeat([]byte{11}, 8)),
			Sampling: tracecontext.Accepted, Format: w3c,
		},
	}
	want := []Record{client, try, server, bare}
	if len(k.records) != len(want) {
		t.Fatalf("%d records", len(k.records))
	}
	for i := range want {
		if k.records[i] != want[i] {
			t.Errorf("record %d:\n got %+v\nwant %+v", i, k.records[i], want[i])
		}
	}
	got := countsOf(t, registry)
	if got["records shop client reviews"] != 1 || got["records shop attempt reviews"] != 1 || got["records shop server reviews"] != 2 {
		t.Errorf("counted %v", got)
	}
}

// Every bad record is refused for its own reason, and the good one next to it is not.
func TestRefusals(t *testing.T) {
	noTime := clientLog()
	noTime.TimeUnixNano = 0
	endOfTime := clientLog()
	endOfTime.TimeUnixNano = 1<<64 - 1
	noBody := clientLog()
	noBody.Body = nil
	for _, test := range []struct {
		name string
		in   *logspb.LogRecord
		want Reason
	}{
		{"another log", log("access"), RefusedField},
		{"no body", noBody, RefusedField},
		{"no time", noTime, RefusedField},
		{"time without end", endOfTime, RefusedField},
		{"no context", clientLog("traceparent", "-"), RefusedField},
		{"half a context", clientLog("traceparent", traceparent[:40]), RefusedField},
		{"context of zeros", clientLog("traceparent", "00-00000000000000000000000000000000-0000000000000000-01"), RefusedField},
		{"not sampled", clientLog("traceparent", strings.TrimSuffix(traceparent, "1")+"0"), RefusedNotSampled},
		{"server not sampled", serverLog("incoming-traceparent", "-", "traceparent", strings.TrimSuffix(traceparent, "1")+"0"), RefusedNotSampled},
		{"server without any context", serverLog("incoming-traceparent", "-"), RefusedField},
		{"no connection", clientLog("local", "-", "remote", "-"), RefusedNoConnection},
		{"nothing sent", clientLog("tx_beg", "-"), RefusedNoConnection},
		{"a log without connections", without(clientLog(), "local", "remote"), RefusedField},
		{"a log without times", without(clientLog(), "tx_beg"), RefusedField},
		{"address of a pipe", clientLog("local", "/run/x.sock"), RefusedField},
		{"internal address", serverLog("remote", "envoy://internal/1"), RefusedField},
		{"port 0", serverLog("remote", "10.1.2.3:0"), RefusedField},
		{"address with a zone", serverLog("remote", "[fe80::1%eth0]:1"), RefusedField},
		{"negative time", clientLog("tx_beg", "-1"), RefusedField},
		{"time that overflows", clientLog("rx_end", "18446744073709551615"), RefusedField},
		{"no number", clientLog("sent", "many"), RefusedField},
		{"size that overflows", clientLog("received", "18446744073709551616"), RefusedField},
		{"status", clientLog("code", "1000"), RefusedField},
		{"response before request", clientLog("rx_beg", "1"), RefusedField},
		{"end before beginning", clientLog("rx_end", "1600000"), RefusedField},
		{"another pod's connection", clientLog("local", "10.9.9.9:40000"), RefusedAddress},
		{"the peer's end of it", clientLog("local", "10.9.9.9:40000", "remote", "127.0.0.1:9080"), RefusedAddress},
		{"another pod's server", serverLog("local", "10.9.9.9:9080"), RefusedAddress},
		{"the client's end of it", serverLog("local", "10.9.9.9:9080", "remote", "127.0.0.1:40000"), RefusedAddress},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := &taker{}
			r, registry := serve(t, k, nil)
			response, err := collogspb.NewLogsServiceClient(dial(t, r, "127.0.0.1")).Export(t.Context(), requestOf(test.in, clientLog()))
			if err != nil || response.GetPartialSuccess().GetRejectedLogRecords() != 1 {
				t.Error(response, err)
			}
			if got := countsOf(t, registry); got["records_refused "+string(test.want)] != 1 || got["records client"] != 1 || len(got) != 2 {
				t.Errorf("counted %v", got)
			}
		})
	}
}

// Only the address that a connection's own end has may send its records: not another pod, nor
// a pod of another node.
func TestBelieve(t *testing.T) {
	k := &taker{}
	r, registry := serve(t, k, func(o *Options) {
		o.SamePod = func(a, b netip.Addr) bool {
			return a == netip.MustParseAddr("fd00::7") && b == netip.MustParseAddr("127.0.0.1")
		}
		o.OtherNode = func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.3") }
	})
	for _, c := range []struct {
		from, local string
		taken       bool
	}{
		{"127.0.0.1", "127.0.0.1:1", true},
		{"127.0.0.1", "[::ffff:127.0.0.1]:1", true},
		{"127.0.0.1", "[fd00::7]:1", true}, // the pod's other address
		{"127.0.0.2", "127.0.0.1:1", false},
		{"127.0.0.2", "[fd00::7]:1", false},
		{"127.0.0.3", "127.0.0.3:1", false},
	} {
		before := k.total()
		if _, err := collogspb.NewLogsServiceClient(dial(t, r, c.from)).Export(t.Context(), requestOf(clientLog("local", c.local))); err != nil {
			t.Fatal(err)
		}
		if taken := k.total() > before; taken != c.taken {
			t.Errorf("from %s for %s: taken %v", c.from, c.local, taken)
		}
	}
	if got := countsOf(t, registry); got["records_refused foreign_address"] != 2 || got["records_refused foreign_node"] != 1 {
		t.Errorf("counted %v", got)
	}
}

// raw is a codec that sends bytes as they are.
type raw struct{}

func (raw) Name() string                       { return "proto" }
func (raw) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = bytes.Clone(data); return nil }

var _ encoding.Codec = raw{}

// What is not OTLP, or too large, is refused and counted, and the receiver goes on.
func TestMalformed(t *testing.T) {
	k := &taker{}
	r, registry := serve(t, k, nil)
	conn := dial(t, r, "127.0.0.1")
	send := func(data []byte) codes.Code {
		var answer []byte
		return status.Code(conn.Invoke(t.Context(), "/opentelemetry.proto.collector.logs.v1.LogsService/Export", data, &answer, grpc.ForceCodec(raw{})))
	}
	good, err := proto.Marshal(requestOf(clientLog()))
	if err != nil {
		t.Fatal(err)
	}
	if c := send([]byte("\xff\xff\xff no protobuf")); c != codes.Internal {
		t.Errorf("garbage: %v", c)
	}
	if c := send(good[:len(good)-3]); c != codes.Internal {
		t.Errorf("half a request: %v", c)
	}
	if c := send(bytes.Repeat(good, MaxRequest/len(good)+1)); c != codes.ResourceExhausted {
		t.Errorf("too large: %v", c)
	}
	if c := send(nil); c != codes.OK {
		t.Errorf("empty: %v", c)
	}
	if c := send(good); c != codes.OK {
		t.Errorf("good: %v", c)
	}
	testkit.Eventually(t, "all is counted", func() bool {
		got := countsOf(t, registry)
		return got["requests_refused malformed"] == 2 && got["requests_refused too_large"] == 1 && got["records client"] == 1 && len(got) == 3
	})
}

// 100,000 records a second and more, if the machine can send them: the receiver takes what its
// rate allows, counts what it refuses, and needs little memory.
func TestFlood(t *testing.T) {
	k := &taker{}
	r, registry := serve(t, k, nil)
	batch := make([]*logspb.LogRecord, 500)
	for i := range batch {
		batch[i] = clientLog()
	}
	request := requestOf(batch...)
	began, sent := time.Now(), 0
	var mu sync.Mutex
	var group sync.WaitGroup
	for range 4 {
		client := collogspb.NewLogsServiceClient(dial(t, r, "127.0.0.1"))
		group.Go(func() {
			for {
				mu.Lock()
				if sent >= 200_000 || time.Since(began) > 2*time.Second {
					mu.Unlock()
					return
				}
				sent += len(batch)
				mu.Unlock()
				_, _ = client.Export(t.Context(), request) // refused ones are errors
			}
		})
	}
	group.Wait()
	took := time.Since(began)
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	got := countsOf(t, registry)
	most := maxPeerRate + int(took.Seconds()*maxPeerRate) + len(batch)
	if n := k.total(); n > most || n < min(maxPeerRate, sent)/2 {
		t.Errorf("took %d records in %v, at most %d are allowed", n, took, most)
	}
	seen := k.total() + got["records_refused rate"] + got["requests_refused rate"]*len(batch)
	if seen != sent {
		t.Errorf("%d records sent, %d counted: %v", sent, seen, got)
	}
	if mem.HeapInuse > 128<<20 {
		t.Errorf("%d MiB of heap", mem.HeapInuse>>20)
	}
	t.Logf("%d records in %v (%.0f per second), %d taken, %v", sent, took, float64(sent)/took.Seconds(), k.total(), got)
	// A flood of one address leaves room for others.
	if _, err := collogspb.NewLogsServiceClient(dial(t, r, "127.0.0.2")).Export(t.Context(), requestOf(clientLog("local", "127.0.0.2:1"))); err != nil {
		t.Error(err)
	}
}

// Requests and connections are bounded: the ones above are refused and counted.
func TestBounds(t *testing.T) {
	k := &taker{wait: make(chan struct{})}
	r, registry := serve(t, k, nil)
	var group sync.WaitGroup
	busy := make(chan error, 200)
	const connections = maxInFlight/maxStreams + 2
	for range connections {
		client := collogspb.NewLogsServiceClient(dial(t, r, "127.0.0.1"))
		for range maxStreams {
			group.Go(func() {
				_, err := client.Export(context.Background(), requestOf(clientLog()))
				busy <- err
			})
		}
	}
	refused := connections*maxStreams - maxInFlight
	for range refused {
		if err := <-busy; status.Code(err) != codes.Unavailable {
			t.Errorf("got %v", err)
		}
	}
	close(k.wait)
	group.Wait()
	testkit.Eventually(t, "requests that ended count no more", func() bool { return r.inFlight.Load() == 0 })
	if got := countsOf(t, registry); got["requests_refused busy"] != refused || got["records client"] != maxInFlight {
		t.Errorf("counted %v, want %d refused", got, refused)
	}

	var open []net.Conn
	for range maxPerPeer + 3 {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.9")}}
		c, err := d.Dial("tcp", r.Address())
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	testkit.Eventually(t, "connections above the bound are closed", func() bool {
		return countsOf(t, registry)["connections_refused"] == 3
	})
	for _, c := range open {
		_ = c.Close()
	}
	testkit.Eventually(t, "closed connections count no more", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.perPeer[netip.MustParseAddr("127.0.0.9")] == 0
	})
}

// What does not fit the joiner is counted.
func TestFull(t *testing.T) {
	k := &taker{most: 2}
	r, registry := serve(t, k, nil)
	response, err := collogspb.NewLogsServiceClient(dial(t, r, "127.0.0.1")).Export(t.Context(), requestOf(clientLog(), clientLog(), clientLog()))
	if err != nil || response.GetPartialSuccess().GetRejectedLogRecords() != 1 {
		t.Error(response, err)
	}
	if got := countsOf(t, registry); got["records_refused full"] != 1 || got["records client"] != 2 {
		t.Errorf("counted %v", got)
	}
}

// The number of senders with counters of their own is bounded.
func TestSenders(t *testing.T) {
	r, _ := serve(t, &taker{}, func(o *Options) {
		o.Sender = func(a netip.Addr) observe.Peer { return observe.Peer{Service: a.String(), Node: "x"} }
	})
	for i := range maxSenders + 10 {
		got := r.sender(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
		if want := fmt.Sprintf("10.0.%d.%d", i>>8, byte(i)); i < maxSenders && got != (observe.Peer{Service: want}) {
			t.Errorf("%d: %v", i, got)
		} else if i >= maxSenders && got != (observe.Peer{Service: "other"}) {
			t.Errorf("%d: %v", i, got)
		}
	}
}

// FuzzDecode: no request makes the decoder fail, and what it takes is plausible and short.
func FuzzDecode(f *testing.F) {
	for _, r := range []*logspb.LogRecord{clientLog(), serverLog(), log(NameAttempt, "traceparent", traceparent)} {
		data, err := proto.Marshal(requestOf(r))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	d := &decoder{}
	f.Fuzz(func(t *testing.T, data []byte) {
		var request collogspb.ExportLogsServiceRequest
		if proto.Unmarshal(data, &request) != nil {
			return
		}
		for _, resource := range request.GetResourceLogs() {
			for _, scope := range resource.GetScopeLogs() {
				for _, in := range scope.GetLogRecords() {
					checkDecoded(t, d, in)
				}
			}
		}
	})
}

func checkDecoded(t *testing.T, d *decoder, in *logspb.LogRecord) {
	r, why := d.decode(in, netip.MustParseAddr("10.0.0.1"))
	if size := len(r.RequestID) + len(r.Protocol) + len(r.Method) + len(r.Path) + len(r.ResponseFlags); size > maxRequestID+maxProtocol+maxRequestLine+maxFlags {
		t.Errorf("texts of %d bytes", size)
	}
	if why != "" {
		return
	}
	context := r.Context
	if r.Side == SideServer && context.TraceID.IsZero() {
		context = r.OwnContext
	}
	switch {
	case context.TraceID.IsZero() || context.SpanID.IsZero() || context.Sampling == tracecontext.Denied:
		t.Errorf("taken without a sampled context: %+v", r)
	case !r.Client.IsValid() || !r.Server.IsValid() || r.Client.Port() == 0 || r.Server.Port() == 0:
		t.Errorf("taken without a connection: %+v", r)
	case r.Side != SideServer && r.RequestFirst < r.Start, r.ResponseFirst != 0 && r.ResponseFirst < r.Start, r.ResponseLast != 0 && r.ResponseLast < r.Start:
		t.Errorf("taken with times before the start: %+v", r)
	case len(r.Path) > maxRequestLine || strings.Contains(r.Path, "?"):
		t.Errorf("path %q", r.Path)
	}
}

func BenchmarkDecode(b *testing.B) {
	d, from := &decoder{}, netip.MustParseAddr("127.0.0.1")
	in := clientLog()
	b.ReportAllocs()
	for b.Loop() {
		if _, why := d.decode(in, from); why != "" {
			b.Fatal(why)
		}
	}
}

func BenchmarkUnmarshalAndDecode(b *testing.B) {
	d, from := &decoder{}, netip.MustParseAddr("127.0.0.1")
	data, err := proto.Marshal(requestOf(clientLog()))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		var request collogspb.ExportLogsServiceRequest
		if err := proto.Unmarshal(data, &request); err != nil {
			b.Fatal(err)
		}
		if _, why := d.decode(request.ResourceLogs[0].ScopeLogs[0].LogRecords[0], from); why != "" {
			b.Fatal(why)
		}
	}
}
