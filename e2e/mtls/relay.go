// SPDX-License-Identifier: Apache-2.0

package mtls

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	collogspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/lab/app"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Trouble is what a LabRelay does to records. The shares are of all records, and exclude each
// other.
type Trouble struct {
	Lost, Doubled, Late, Reordered float64
	// Delay is how late the late ones are.
	Delay time.Duration
	// Step is added to the times of records while the relay is Stepped: as if the proxy's
	// node had stepped its clock and the agent not noticed.
	Step time.Duration
	// Paused is the share of the senders' records that are early as a whole, by up to
	// maxPaused: as if the proxy had lost the CPU between the two clocks that it reads.
	Paused float64
	Seed   uint64
}

// maxPaused is some time slices of a CPU.
const maxPaused = 5 * time.Millisecond

// LabRelay takes the records of all pods' Envoys and passes them on to the agents, after
// doing something to them. It is the lab's own and stands for what can happen between both
// in a mesh; no mesh has one. It listens and connects in the pods, so that the agents see the
// pods' addresses.
type LabRelay struct {
	// Port is where it listens, on each pod's loopback address.
	Port int
	// Stepped is set while the clock of the proxies is off.
	Stepped atomic.Bool
	// Counted are the records that came, and what became of them.
	Counted RelayCounts

	trouble Trouble
	mu      sync.Mutex // of the next two
	random  *rand.Rand
	lost    map[string]bool // IDs of the contexts of lost records
	pods    []*podRelay
	late    sync.WaitGroup
}

// RelayCounts are numbers of records.
type RelayCounts struct{ Received, Lost, Doubled, Late, Reordered, Stepped, Paused, Unsent atomic.Int64 }

// podRelay is the relay in one pod.
type podRelay struct {
	collogspb.UnimplementedLogsServiceServer
	relay  *LabRelay
	server *grpc.Server
	conn   *grpc.ClientConn
	client collogspb.LogsServiceClient
	// held is a record that the next one overtakes.
	mu   sync.Mutex
	held *collogspb.ExportLogsServiceRequest
}

// attemptLog is the body of the senders' records.
const attemptLog = "layertrace-attempt"

// relayPort is where the relay listens in each pod.
const relayPort = 4328

// StartRelay starts a relay in the pods of a lab.
func StartRelay(l *lab.Lab, trouble Trouble) (*LabRelay, error) {
	r := &LabRelay{Port: relayPort, trouble: trouble, lost: map[string]bool{}, random: rand.New(rand.NewPCG(trouble.Seed, 1))}
	for _, pod := range lab.Pods {
		p := &podRelay{relay: r, server: grpc.NewServer()}
		namespace := l.PodNamespace(pod.Name)
		listener, err := namespace.Listen(net.JoinHostPort("127.0.0.1", strconv.Itoa(relayPort)))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("start the lab's relay of records: %w", err), r.Close())
		}
		collogspb.RegisterLogsServiceServer(p.server, p)
		r.pods = append(r.pods, p)
		p.conn, err = grpc.NewClient("passthrough:///"+net.JoinHostPort(lab.PodGateway(pod.Node), strconv.Itoa(lab.AccessLogPort)),
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			// An agent that starts late is found soon.
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1, MaxDelay: 100 * time.Millisecond}}),
			grpc.WithContextDialer(func(_ context.Context, address string) (net.Conn, error) { return dialAsEnvoy(namespace, address) }))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("start the lab's relay of records: %w", err), listener.Close(), r.Close())
		}
		p.client = collogspb.NewLogsServiceClient(p.conn)
		go func() { _ = p.server.Serve(listener) }() // ends with Close
	}
	return r, nil
}

// dialAsEnvoy connects from inside a pod with the group of Envoys, whose connections are not
// redirected.
func dialAsEnvoy(namespace *sandbox.Namespace, address string) (conn net.Conn, err error) {
	err = namespace.DoOnce(func() error {
		if err := unix.Setfsgid(lab.GID); err != nil {
			return err
		}
		conn, err = net.DialTimeout("tcp", address, 5*time.Second)
		return err
	})
	return conn, err
}

// release passes on what is held, as no more records come.
func (r *LabRelay) release() {
	r.late.Wait()
	for _, p := range r.pods {
		p.release()
	}
}

// Close ends the relay.
func (r *LabRelay) Close() error {
	r.release()
	var errs []error
	for _, p := range r.pods {
		p.server.Stop()
		if p.conn != nil {
			errs = append(errs, p.conn.Close())
		}
	}
	return errors.Join(errs...)
}

// Export is the gRPC method.
func (p *podRelay) Export(_ context.Context, request *collogspb.ExportLogsServiceRequest) (*collogspb.ExportLogsServiceResponse, error) {
	for _, resource := range request.GetResourceLogs() {
		for _, scope := range resource.GetScopeLogs() {
			for _, record := range scope.GetLogRecords() {
				p.pass(&collogspb.ExportLogsServiceRequest{ResourceLogs: []*logspb.ResourceLogs{{
					Resource:  resource.GetResource(),
					ScopeLogs: []*logspb.ScopeLogs{{Scope: scope.GetScope(), LogRecords: []*logspb.LogRecord{record}}},
				}}}, record)
			}
		}
	}
	return &collogspb.ExportLogsServiceResponse{}, nil
}

// pass does to a record what is drawn for it.
func (p *podRelay) pass(request *collogspb.ExportLogsServiceRequest, record *logspb.LogRecord) {
	r, t := p.relay, &p.relay.trouble
	r.Counted.Received.Add(1)
	if t.Step != 0 && r.Stepped.Load() {
		r.Counted.Stepped.Add(1)
		record.TimeUnixNano += uint64(t.Step) // two's complement: negative steps as well
	}
	r.mu.Lock()
	fate, paused := r.random.Float64(), r.random.Float64() < t.Paused
	pause := r.random.Int64N(int64(maxPaused))
	r.mu.Unlock()
	if paused && record.GetBody().GetStringValue() == attemptLog {
		r.Counted.Paused.Add(1)
		record.TimeUnixNano -= uint64(pause)
	}
	if fate -= t.Lost; fate < 0 {
		r.Counted.Lost.Add(1)
		r.mu.Lock()
		r.lost[contextIn(record)] = true
		r.mu.Unlock()
		return
	}
	if fate -= t.Doubled; fate < 0 {
		r.Counted.Doubled.Add(1)
		p.send(request)
		p.send(proto.CloneOf(request))
		return
	}
	if fate -= t.Late; fate < 0 {
		r.Counted.Late.Add(1)
		r.late.Add(1)
		time.AfterFunc(t.Delay, func() {
			defer r.late.Done()
			p.send(request)
		})
		return
	}
	if fate -= t.Reordered; fate < 0 {
		p.mu.Lock()
		hold := p.held == nil
		if hold {
			p.held = request
		}
		p.mu.Unlock()
		if hold {
			r.Counted.Reordered.Add(1)
			return
		}
	}
	p.send(request)
	p.release()
}

// contextIn returns trace and span ID of the context on the wire that a record has.
func contextIn(record *logspb.LogRecord) string {
	headers := map[string]string{}
	for _, attribute := range record.GetAttributes() {
		name := strings.TrimPrefix(attribute.GetKey(), "incoming-")
		if _, known := headers[name]; !known || name != attribute.GetKey() {
			headers[name] = attribute.GetValue().GetStringValue()
		}
	}
	trace, span := app.TraceIDs(headers)
	return trace + span
}

// Lost returns the IDs (trace, span) of lost records.
func (r *LabRelay) Lost() map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.lost)
}

// release passes on the record that was held.
func (p *podRelay) release() {
	p.mu.Lock()
	held := p.held
	p.held = nil
	p.mu.Unlock()
	if held != nil {
		p.send(held)
	}
}

func (p *podRelay) send(request *collogspb.ExportLogsServiceRequest) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := p.client.Export(ctx, request); err != nil {
		p.relay.Counted.Unsent.Add(1)
	}
}
