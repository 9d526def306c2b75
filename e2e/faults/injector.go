// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/lab/app"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Injector injects faults into a running lab; close it.
type Injector struct {
	lab          *lab.Lab
	run          *lab.Run
	applications map[string]*app.Client
	relay        *relay
	// secrets reveal what encrypted segments are; nil for plain text.
	secrets *revealer
	// limits has the CPU limits of Envoys, by pod, after their first use.
	limits map[string]*sandbox.CPULimit

	residences baseline // of requests in applications
}

// NewInjector returns an injector for a run.
func NewInjector(l *lab.Lab, run *lab.Run) (*Injector, error) {
	in := &Injector{lab: l, run: run, applications: map[string]*app.Client{}, limits: map[string]*sandbox.CPULimit{}}
	for _, pod := range l.Pods() {
		if !pod.Gateway {
			in.applications[pod.Name] = app.NewClient(run.ControlSocket(pod.Name))
		}
	}
	var err error
	if run.Encrypted() {
		if in.secrets, err = startRevealer(l, run); err != nil {
			return nil, err
		}
	}
	in.relay, err = startRelay(l.InfraNamespace(), lab.SwitchBridge, lab.AllPods, in.secrets.reveal)
	return in, err
}

// Close ends what the injector started.
func (in *Injector) Close() error {
	for _, app := range in.applications {
		app.Close()
	}
	err := in.relay.Close()
	if in.secrets != nil {
		err = errors.Join(err, in.secrets.Close())
	}
	return err
}

// Request is a request to inject a fault into.
type Request struct {
	TraceID string
	// AppTraceID is the trace ID that the applications take from the request: another
	// one if it has several contexts.
	AppTraceID string
	// Send sends the request and waits for the response.
	Send func(ctx context.Context) error
	// Plain sends an equal request with another trace ID and without a fault.
	Plain func(ctx context.Context, traceID string) error
}

type injectFunc func(in *Injector, ctx context.Context, c Case, r Request) (time.Duration, error)

var injectFuncs = map[Kind]injectFunc{
	NoFault:        (*Injector).nothing,
	AppSleep:       (*Injector).sleep,
	AppNotReading:  (*Injector).notReading,
	SidecarStarved: (*Injector).starve,
	PodQdisc:       (*Injector).podQueue,
	DriverQdisc:    (*Injector).driverQueue,
	SlowBridge:     (*Injector).bridgeQueue,
	RelayDelay:     (*Injector).delay,
	RelayLoss:      (*Injector).lose,
	RelayReorder:   (*Injector).reorder,
	DeviceQueue:    (*Injector).stationQueue,
	LinkQueue:      (*Injector).stationQueue,

	ResponsePause: (*Injector).pause, EventStream: (*Injector).pause, ResponseReset: (*Injector).pause,
	SlowReader: (*Injector).readLate, SlowUploadReader: (*Injector).readLate,
	LinkDown: (*Injector).outage, RetransmissionStorm: (*Injector).storm,
	SeveralContexts: (*Injector).sleep, ConnectionChurn: (*Injector).sleep, MixedTraffic: (*Injector).nothing,
}

// ErrMissed is returned when the fault did not affect the request.
var ErrMissed = errors.New("the fault missed the request")

// Inject sends a request with a fault and returns how long the fault held it up.
// Afterwards the fault is removed.
func (in *Injector) Inject(ctx context.Context, c Case, r Request) (time.Duration, error) {
	inject, ok := injectFuncs[c.Kind]
	if !ok {
		return 0, fmt.Errorf("no injector for fault %q", c.Kind)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second+2*c.Magnitude)
	defer cancel()
	injected, err := inject(in, ctx, c, r)
	if err != nil {
		return 0, fmt.Errorf("%v: %w", c, err)
	}
	return injected, nil
}

func (in *Injector) nothing(ctx context.Context, _ Case, r Request) (time.Duration, error) {
	return 0, r.Send(ctx)
}

// sleep makes an application sleep before it responds. The result is by how much the
// request's residence in the application exceeds that of recent requests, as an
// application also works more slowly after it slept.
func (in *Injector) sleep(ctx context.Context, c Case, r Request) (time.Duration, error) {
	var plain []string
	var report app.Report
	seen, err := in.captureInside(c.Pod, func() (err error) {
		for range plainRequests {
			plain = append(plain, newTraceID())
			if err := r.Plain(ctx, plain[len(plain)-1]); err != nil {
				return err
			}
		}
		report, err = in.application(ctx, c.Pod, app.Fault{TraceID: r.AppTraceID, Sleep: c.Magnitude}, r)
		return err
	})
	if err != nil {
		return 0, err
	}
	for _, traceID := range plain {
		if stayed := seen.residence(traceID); stayed > 0 {
			in.residences.add(sameClass(c), stayed)
		}
	}
	stayed := seen.residence(r.TraceID)
	if stayed < report.Slept || report.Slept <= 0 {
		return orMissed(0, nil)
	}
	return orMissed(stayed-in.residences.median(sameClass(c)), nil)
}

// pause makes an application pause in its response.
func (in *Injector) pause(ctx context.Context, c Case, r Request) (time.Duration, error) {
	f := app.Fault{TraceID: r.TraceID, Pause: c.Magnitude, Reset: c.Kind == ResponseReset}
	if c.Kind == EventStream {
		f.Events = eventsPerStream
	}
	report, err := in.application(ctx, c.Pod, f, r)
	return orMissed(report.Paused, err)
}

const (
	// eventsPerStream is the number of parts of a stream of events.
	eventsPerStream = 4
	// bulk is the length of a message that does not fit into the buffers between two
	// applications, the sidecars' included.
	bulk = 3 << 20
)

// readLate makes an application leave a long message unread: the response to its call,
// or the request that it received.
func (in *Injector) readLate(ctx context.Context, c Case, r Request) (time.Duration, error) {
	caller, callee := app.Fault{TraceID: r.TraceID}, app.Fault{TraceID: r.TraceID}
	service := serviceOf(c.Transfer.Callee)
	if c.Transfer.Response {
		callee.PadResponse = bulk
		caller.ReadCallsAfter = map[string]time.Duration{service: c.Magnitude}
	} else {
		caller.PadRequests = map[string]int{service: bulk}
		callee.ReadBodyAfter = c.Magnitude
	}
	writer, reader := in.applications[c.Transfer.From()], in.applications[c.Transfer.To()]
	toRead, toWrite := caller, callee
	if !c.Transfer.Response {
		toRead, toWrite = callee, caller
	}
	if err := errors.Join(writer.Arm(ctx, toWrite), reader.Arm(ctx, toRead)); err != nil {
		return 0, err
	}
	err := r.Send(ctx)
	report, err1 := reader.Disarm(ctx, r.TraceID)
	_, err2 := writer.Disarm(ctx, r.TraceID)
	return orMissed(report.Unread, errors.Join(err, err1, err2))
}

func (in *Injector) notReading(ctx context.Context, c Case, r Request) (time.Duration, error) {
	report, err := in.application(ctx, c.Pod, app.Fault{TraceID: r.TraceID, Hold: c.Magnitude}, r)
	return orMissed(report.Held, err)
}

// application sends a request while a fault is armed in a pod's application.
func (in *Injector) application(ctx context.Context, pod string, f app.Fault, r Request) (report app.Report, err error) {
	client := in.applications[pod]
	if err := client.Arm(ctx, f); err != nil {
		return report, err
	}
	err = r.Send(ctx)
	report, disarmed := client.Disarm(ctx, f.TraceID)
	return report, errors.Join(err, disarmed)
}

// orMissed returns ErrMissed when the fault took no time.
func orMissed(injected time.Duration, err error) (time.Duration, error) {
	if err == nil && injected <= 0 {
		err = ErrMissed
	}
	return injected, err
}

// plainRequests is how many requests without a fault are captured before each one
// with a fault, where the measurement is relative to them.
const plainRequests = 2

// peerKey is what requests with the same residence in a pod have in common.
type peerKey struct {
	pod     string
	version string
	traffic Traffic
}

// sameClass returns the key of requests like that of a case.
func sameClass(c Case) peerKey { return peerKey{c.Pod, c.Version, c.Traffic()} }

// padding is how many bytes are added to a message. With its head it stays below the
// ten segments that TCP sends at once.
const padding = 11_000

// paddedLength is the minimum length of a padded message, so that a fault does not
// take less than intended.
const paddedLength = padding + 200

// minPaddedPacket returns a length that only padded messages in the same direction
// exceed: requests have metadata, responses little more than a head.
func minPaddedPacket(transfer Transfer) int {
	if transfer.Response {
		return 1100
	}
	return 3000
}

// sendPadded sends a request of which one message is padded.
func (in *Injector) sendPadded(ctx context.Context, transfer Transfer, r Request) error {
	pod, fault := transfer.Callee, app.Fault{TraceID: r.TraceID, PadResponse: padding}
	if !transfer.Response {
		pod, fault = transfer.Caller, app.Fault{TraceID: r.TraceID, PadRequests: map[string]int{serviceOf(transfer.Callee): padding}}
	}
	if err := in.applications[pod].Arm(ctx, fault); err != nil {
		return err
	}
	err := r.Send(ctx)
	_, disarmed := in.applications[pod].Disarm(ctx, r.TraceID)
	return errors.Join(err, disarmed)
}

// serviceOf returns the service of a pod.
func serviceOf(pod string) string {
	for name, service := range lab.Services {
		for _, p := range service.Pods {
			if p == pod {
				return name
			}
		}
	}
	return ""
}
