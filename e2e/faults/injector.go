// SPDX-License-Identifier: Apache-2.0

// Package inject puts faults into the lab, one request at a time, and tells how
// much time each really took from the request: by packets seen on both sides of a
// process or a queue, or by the clock of the application that does not read.
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

// Bench is a running lab into which faults are put; close it.
type Injector struct {
	lab          *lab.Lab
	run          *lab.Run
	applications map[string]*app.Client
	relay        *relay
	// Of the pods whose Envoys were starved.
	limits map[string]*sandbox.CPULimit

	residences baseline // in applications
}

// New returns a bench for a run.
func NewInjector(l *lab.Lab, run *lab.Run) (*Injector, error) {
	in := &Injector{lab: l, run: run, applications: map[string]*app.Client{}, limits: map[string]*sandbox.CPULimit{}}
	for _, pod := range lab.Pods {
		if !pod.Gateway {
			in.applications[pod.Name] = app.NewClient(run.ControlSocket(pod.Name))
		}
	}
	var err error
	in.relay, err = startRelay(l.InfraNamespace(), lab.SwitchBridge, lab.AllPods)
	return in, err
}

// Close ends what the bench has started.
func (in *Injector) Close() error {
	for _, app := range in.applications {
		app.Close()
	}
	return in.relay.Close()
}

// Request is one request that is sent while a fault is there.
type Request struct {
	TraceID string
	// Send sends it and waits for the answer.
	Send func(ctx context.Context) error
	// Plain sends one like it under another trace ID, without a fault.
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
}

// ErrMissed is returned when a fault did not meet the request.
var ErrMissed = errors.New("the fault did not meet the request")

// Inject sends a request with a fault and returns how long the request was held
// up by it. Afterwards the fault is gone.
func (in *Injector) Inject(ctx context.Context, c Case, r Request) (time.Duration, error) {
	inject, ok := injectFuncs[c.Kind]
	if !ok {
		return 0, fmt.Errorf("no way to make a fault %q", c.Kind)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
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

// sleep lets an application sleep before it answers. What that took from the
// request is by how much longer it was in the application than others lately: who
// has slept works slower afterwards, too.
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
		report, err = in.application(ctx, c.Pod, app.Fault{TraceID: r.TraceID, Sleep: c.Magnitude}, r)
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

func (in *Injector) notReading(ctx context.Context, c Case, r Request) (time.Duration, error) {
	report, err := in.application(ctx, c.Pod, app.Fault{TraceID: r.TraceID, Hold: c.Magnitude}, r)
	return orMissed(report.Held, err)
}

// application sends a request while a pod's application has a fault.
func (in *Injector) application(ctx context.Context, pod string, f app.Fault, r Request) (report app.Report, err error) {
	app := in.applications[pod]
	if err := app.Arm(ctx, f); err != nil {
		return report, err
	}
	err = r.Send(ctx)
	report, disarmed := app.Disarm(ctx)
	return report, errors.Join(err, disarmed)
}

// met is an error when no time was taken.
func orMissed(injected time.Duration, err error) (time.Duration, error) {
	if err == nil && injected <= 0 {
		err = ErrMissed
	}
	return injected, err
}

// plainBefore is how many requests without a fault are watched before each with
// one, where what a fault took is told by what others take.
const plainRequests = 2

// kin is what requests have in common that take as long at a pod.
type peerKey struct {
	pod, version string
	load         bool
}

func sameClass(c Case) peerKey { return peerKey{c.Pod, c.Version, c.Load} }

// pad is by how much a message is made longer: with its head it stays below the
// ten segments that TCP sends at once.
const padding = 11_000

// length is how long such a message is at least, so that a fault takes no less
// than it should.
const paddedLength = padding + 200

// longer is what no other message in the same direction is: requests have
// metadata, answers little more than a head.
func minPaddedPacket(transfer Transfer) int {
	if transfer.Response {
		return 1100
	}
	return 3000
}

// long sends a request and has the message on a transfer made long.
func (in *Injector) sendPadded(ctx context.Context, transfer Transfer, r Request) error {
	pod, fault := transfer.Callee, app.Fault{TraceID: r.TraceID, PadResponse: padding}
	if !transfer.Response {
		pod, fault = transfer.Caller, app.Fault{TraceID: r.TraceID, PadRequests: map[string]int{serviceOf(transfer.Callee): padding}}
	}
	if err := in.applications[pod].Arm(ctx, fault); err != nil {
		return err
	}
	err := r.Send(ctx)
	_, disarmed := in.applications[pod].Disarm(ctx)
	return errors.Join(err, disarmed)
}

// serviceOf is the name by which a pod is called.
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
