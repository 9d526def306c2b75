// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	collogspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // senders may compress
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// Reason is why a record, or a whole request, was refused.
type Reason string

// Reasons for records.
const (
	// RefusedField: a field is missing or is not what it should be.
	RefusedField Reason = "bad_field"
	// RefusedNotSampled: the trace context says so.
	RefusedNotSampled Reason = "not_sampled"
	// RefusedNoConnection: the proxy used none for the request.
	RefusedNoConnection Reason = "no_connection"
	// RefusedAddress: the proxy's end of the connection is not the address that sent it.
	RefusedAddress Reason = "foreign_address"
	// RefusedNode: the sender's address belongs to another node.
	RefusedNode Reason = "foreign_node"
	// RefusedRate: more than the rate allows.
	RefusedRate Reason = "rate"
	// RefusedFull: too many records wait for their exchange.
	RefusedFull Reason = "full"
)

// Reasons for whole requests; RefusedRate is one too.
const (
	// RefusedMalformed: not OTLP.
	RefusedMalformed Reason = "malformed"
	// RefusedLarge: larger than MaxRequest.
	RefusedLarge Reason = "too_large"
	// RefusedBusy: too many requests at once.
	RefusedBusy Reason = "busy"
)

// Bounds of the receiver. Envoy sends a request of 16 KiB, or every second what there is, on
// one connection per worker.
const (
	// MaxRequest is the largest request in bytes that is accepted, decompressed.
	MaxRequest = 512 << 10
	// maxInFlight is the number of requests that are handled at once: with MaxRequest it
	// bounds the memory.
	maxInFlight = 128
	// maxStreams is the number of requests at once on a connection.
	maxStreams = 8
	// maxConnections is the number of connections, maxPerPeer that of one address.
	maxConnections, maxPerPeer = 2048, 128
	// maxRate is the number of records per second, maxPeerRate that of one address. A
	// second's records may come at once.
	maxRate, maxPeerRate = 20_000, 10_000
	// bytesPerToken: a record of more bytes on the wire counts as several.
	bytesPerToken = 4096
	// malformedTokens is the number of records that an unreadable request counts as.
	malformedTokens = 100
	// maxSenders is the number of workloads with counters of their own.
	maxSenders = 256
	// maxPeers is the number of addresses with a rate of their own. The others share one.
	maxPeers = 4096
)

// Options of a Receiver. Address and Take are required.
type Options struct {
	// Address to listen on.
	Address string
	// Take takes believable records and returns how many, from the first on. It must not
	// keep the slice. It is called concurrently.
	Take func([]Record) int
	// Preferred are the formats of trace contexts to read, as --context-format; none: all.
	Preferred []tracecontext.Format
	// SamePod reports whether two addresses belong to one pod; nil: none do.
	SamePod func(a, b netip.Addr) bool
	// OtherNode reports whether an address is known to belong to another node; nil: none is.
	OtherNode func(netip.Addr) bool
	// Sender returns the workload at an address; nil: none is known.
	Sender func(netip.Addr) observe.Peer
	// Log, default slog.Default.
	Log *slog.Logger
}

// Receiver receives Envoy's access log: OTLP logs over gRPC (OTLP specification 1.10). It
// needs no trust in its senders: each can only name connections of its own pod.
type Receiver struct {
	collogspb.UnimplementedLogsServiceServer

	opts     Options
	listener net.Listener
	server   *grpc.Server
	counts   *Metrics
	inFlight atomic.Int64
	decoders sync.Pool

	mu       sync.Mutex
	all      *rate.Limiter
	others   *rate.Limiter            // of the addresses above maxPeers
	peers    map[netip.Addr]*peerRate // by address
	perPeer  map[netip.Addr]int       // connections
	senders  map[observe.Peer]struct{}
	accepted int // connections
}

type peerRate struct {
	limiter *rate.Limiter
	last    time.Time
}

// Metrics of a Receiver.
type Metrics struct {
	received    *prometheus.CounterVec // by side and sender
	records     map[Reason]prometheus.Counter
	requests    map[Reason]prometheus.Counter
	connections prometheus.Counter
}

// NewMetrics registers the receiver's metrics and returns them for Listen.
func NewMetrics(r prometheus.Registerer) *Metrics {
	with := promauto.With(r)
	m := &Metrics{records: map[Reason]prometheus.Counter{}, requests: map[Reason]prometheus.Counter{}}
	m.received = with.NewCounterVec(prometheus.CounterOpts{
		Name: "layertrace_access_log_records_total",
		Help: "Records of proxies' access logs that were accepted, by side: client (of the last attempt), attempt (of each), server; and by the workload whose proxy sent them (other: one of more than " + fmt.Sprint(maxSenders) + ").",
	}, []string{"side", "namespace", "workload"})
	records := with.NewCounterVec(prometheus.CounterOpts{
		Name: "layertrace_access_log_records_refused_total",
		Help: "Records of proxies' access logs that were refused, by reason: bad_field (missing or unreadable), not_sampled, no_connection (the proxy used none), foreign_address (the proxy's end of the connection is not the address that sent the record), foreign_node, rate (above " +
			fmt.Sprint(maxRate) + " per second, or " + fmt.Sprint(maxPeerRate) + " of one address), full (too many wait for their exchange, or all are left out to keep within cpu-limit).",
	}, []string{"reason"})
	for _, reason := range []Reason{RefusedField, RefusedNotSampled, RefusedNoConnection, RefusedAddress, RefusedNode, RefusedRate, RefusedFull} {
		m.records[reason] = records.WithLabelValues(string(reason))
	}
	requests := with.NewCounterVec(prometheus.CounterOpts{
		Name: "layertrace_access_log_requests_refused_total",
		Help: "Requests with records of proxies' access logs that were refused as a whole, by reason: malformed (not OTLP), too_large (above " +
			fmt.Sprint(MaxRequest) + " bytes), busy (more than " + fmt.Sprint(maxInFlight) + " at once), rate.",
	}, []string{"reason"})
	for _, reason := range []Reason{RefusedMalformed, RefusedLarge, RefusedBusy, RefusedRate} {
		m.requests[reason] = requests.WithLabelValues(string(reason))
	}
	m.connections = with.NewCounter(prometheus.CounterOpts{
		Name: "layertrace_access_log_connections_refused_total",
		Help: "Connections to the receiver of access logs that were closed at once: more than " + fmt.Sprint(maxConnections) + ", or " + fmt.Sprint(maxPerPeer) + " of one address.",
	})
	return m
}

// Listen listens on the address. Requests wait until Serve.
func Listen(opts Options, metrics *Metrics) (*Receiver, error) {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	listener, err := net.Listen("tcp", opts.Address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s for access logs: %w; choose another address with --access-log-address", opts.Address, err)
	}
	r := &Receiver{
		opts: opts, listener: listener, counts: metrics,
		all: rate.NewLimiter(maxRate, maxRate), others: rate.NewLimiter(maxPeerRate, maxPeerRate),
		peers: map[netip.Addr]*peerRate{}, perPeer: map[netip.Addr]int{},
		senders: map[observe.Peer]struct{}{},
	}
	r.decoders.New = func() any { return &decoder{preferred: opts.Preferred} }
	r.server = grpc.NewServer(
		grpc.MaxRecvMsgSize(MaxRequest), grpc.MaxConcurrentStreams(maxStreams), grpc.MaxHeaderListSize(8<<10),
		grpc.ConnectionTimeout(5*time.Second), grpc.InTapHandle(r.admit), grpc.StatsHandler(&requestStats{r}),
	)
	collogspb.RegisterLogsServiceServer(r.server, r)
	return r, nil
}

// Address returns the address that the receiver listens on.
func (r *Receiver) Address() string { return r.listener.Addr().String() }

// Serve receives until Close.
func (r *Receiver) Serve() error {
	if err := r.server.Serve(&boundedListener{r.listener, r}); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("receive access logs: %w", err)
	}
	return nil
}

// Close lets running requests end until ctx is done.
func (r *Receiver) Close(ctx context.Context) {
	ended := make(chan struct{})
	go func() { r.server.GracefulStop(); close(ended) }()
	select {
	case <-ended:
	case <-ctx.Done():
		r.server.Stop()
		<-ended
	}
}

// Export is the gRPC method. It takes what the rate allows and answers how many it refused:
// a sender that tries again would not help.
func (r *Receiver) Export(ctx context.Context, request *collogspb.ExportLogsServiceRequest) (*collogspb.ExportLogsServiceResponse, error) {
	if s, ok := ctx.Value(requestKey{}).(*requestState); ok {
		s.read = true
	}
	from := peerOf(ctx)
	total := 0
	for _, resource := range request.GetResourceLogs() {
		for _, scope := range resource.GetScopeLogs() {
			total += len(scope.GetLogRecords())
		}
	}
	allowed := r.allow(from, total)
	refused := total - allowed
	r.counts.records[RefusedRate].Add(float64(refused))
	d := r.decoders.Get().(*decoder)
	defer func() { d.labels = labels{}; r.decoders.Put(d) }() // keep no part of the request
	records := make([]Record, 0, allowed)
	sender := r.sender(from)
	foreign := r.opts.OtherNode != nil && r.opts.OtherNode(from)
	for _, resource := range request.GetResourceLogs() {
		for _, scope := range resource.GetScopeLogs() {
			for _, in := range scope.GetLogRecords() {
				if allowed == 0 {
					break
				}
				allowed--
				record, why := d.decode(in, from)
				if why == "" {
					why = r.believe(&record, foreign)
				}
				if why != "" {
					r.counts.records[why].Inc()
					refused++
					continue
				}
				record.Sender = sender
				records = append(records, record)
			}
		}
	}
	taken := r.opts.Take(records)
	for i := range records[:taken] {
		r.counts.received.WithLabelValues(records[i].Side.String(), sender.Namespace, sender.Service).Inc()
	}
	r.counts.records[RefusedFull].Add(float64(len(records) - taken))
	refused += len(records) - taken
	response := &collogspb.ExportLogsServiceResponse{}
	if refused > 0 {
		response.PartialSuccess = &collogspb.ExportLogsPartialSuccess{RejectedLogRecords: int64(refused)}
	}
	return response, nil
}

// sender returns the workload at an address, of which there are not more than maxSenders.
func (r *Receiver) sender(from netip.Addr) observe.Peer {
	if r.opts.Sender == nil {
		return observe.Peer{}
	}
	s := r.opts.Sender(from)
	s.Node = ""
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.senders[s]; !known && len(r.senders) >= maxSenders {
		return observe.Peer{Service: "other"}
	}
	r.senders[s] = struct{}{}
	return s
}

// believe returns why the sender of a record may not speak for its connection, "" if it may:
// the proxy's own end of the connection has to be the address that sent the record.
func (r *Receiver) believe(record *Record, foreign bool) Reason {
	own := record.Client.Addr()
	if record.Side == SideServer {
		own = record.Server.Addr()
	}
	switch {
	case !record.Peer.IsValid():
		return RefusedAddress
	case own != record.Peer && (r.opts.SamePod == nil || !r.opts.SamePod(own, record.Peer)):
		return RefusedAddress
	case foreign:
		return RefusedNode
	}
	return ""
}

// allow returns how many of the records of an address the rates allow now, and charges all.
func (r *Receiver) allow(from netip.Addr, records int) (allowed int) {
	now := time.Now()
	allowed = records
	for _, l := range [...]*rate.Limiter{r.limiter(from, now), r.all} {
		allowed = max(0, min(allowed, int(l.TokensAt(now))))
		l.ReserveN(now, min(records, l.Burst()))
	}
	return allowed
}

// limiter returns the rate of an address.
func (r *Receiver) limiter(from netip.Addr, now time.Time) *rate.Limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.peers[from]
	if !ok {
		if len(r.peers) >= maxPeers {
			for addr, old := range r.peers {
				if now.Sub(old.last) > time.Minute { // its rate is full again
					delete(r.peers, addr)
				}
			}
		}
		if len(r.peers) >= maxPeers {
			return r.others
		}
		p = &peerRate{limiter: rate.NewLimiter(maxPeerRate, maxPeerRate)}
		r.peers[from] = p
	}
	p.last = now
	return p.limiter
}

// admit refuses a request before it is read, if too many are being handled, or if its sender
// or all senders together are above the rate.
func (r *Receiver) admit(ctx context.Context, _ *tap.Info) (context.Context, error) {
	now := time.Now()
	if r.limiter(peerOf(ctx), now).TokensAt(now) < 1 || r.all.TokensAt(now) < 1 {
		r.counts.requests[RefusedRate].Inc()
		return nil, status.Error(codes.ResourceExhausted, "too many records; log fewer")
	}
	if r.inFlight.Add(1) > maxInFlight {
		r.inFlight.Add(-1)
		r.counts.requests[RefusedBusy].Inc()
		return nil, status.Error(codes.Unavailable, "too many requests at once; send again later")
	}
	context.AfterFunc(ctx, func() { r.inFlight.Add(-1) }) // it ends with the request, read or not
	return ctx, nil
}

// peerOf returns the address that sent a request, invalid if it is unknown.
func peerOf(ctx context.Context) netip.Addr {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return netip.Addr{}
	}
	return addressOf(p.Addr)
}

func addressOf(a net.Addr) netip.Addr {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap().WithZone("")
}

// requestStats counts the requests that cannot be read, which do not reach Export, and
// charges their size.
type requestStats struct{ r *Receiver }

type requestKey struct{}

type requestState struct{ read bool }

// TagRPC implements stats.Handler.
func (s *requestStats) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, requestKey{}, &requestState{})
}

// HandleRPC implements stats.Handler.
func (s *requestStats) HandleRPC(ctx context.Context, event stats.RPCStats) {
	switch e := event.(type) {
	case *stats.InPayload:
		s.r.allow(peerOf(ctx), e.Length/bytesPerToken)
	case *stats.End:
		if state, ok := ctx.Value(requestKey{}).(*requestState); !ok || state.read || e.Error == nil {
			return
		}
		switch status.Code(e.Error) {
		case codes.ResourceExhausted:
			s.r.counts.requests[RefusedLarge].Inc()
		case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable: // the sender went away
			return
		default:
			s.r.counts.requests[RefusedMalformed].Inc()
		}
		s.r.allow(peerOf(ctx), malformedTokens)
	}
}

// TagConn implements stats.Handler.
func (s *requestStats) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return ctx
}

// HandleConn implements stats.Handler.
func (s *requestStats) HandleConn(context.Context, stats.ConnStats) {}

// boundedListener closes connections above the bounds at once.
type boundedListener struct {
	net.Listener
	r *Receiver
}

// Accept returns the next connection within the bounds.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := addressOf(conn.RemoteAddr())
		if l.r.open(from) {
			return &boundedConn{Conn: conn, closed: func() { l.r.leave(from) }}, nil
		}
		l.r.counts.connections.Inc()
		_ = conn.Close()
	}
}

func (r *Receiver) open(from netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.accepted >= maxConnections || r.perPeer[from] >= maxPerPeer {
		return false
	}
	r.accepted++
	r.perPeer[from]++
	return true
}

func (r *Receiver) leave(from netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.accepted--
	if r.perPeer[from]--; r.perPeer[from] == 0 {
		delete(r.perPeer, from)
	}
}

type boundedConn struct {
	net.Conn
	once   sync.Once
	closed func()
}

// Close implements net.Conn.
func (c *boundedConn) Close() error {
	c.once.Do(c.closed)
	return c.Conn.Close()
}
