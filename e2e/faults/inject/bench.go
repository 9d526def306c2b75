// SPDX-License-Identifier: Apache-2.0

// Package inject puts faults into the lab, one request at a time, and tells how
// much time each really took from the request: by packets seen on both sides of a
// process or a queue, or by the clock of the application that does not read.
package inject

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/faults/front"
	"github.com/layertrace/layertrace/e2e/faults/relay"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/lab/app"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Bench is a running lab into which faults are put; close it.
type Bench struct {
	lab   *lab.Lab
	run   *lab.Run
	apps  map[string]*app.Client
	relay *relay.Relay
	// Of the pods whose Envoys were starved.
	limits map[string]*sandbox.CPULimit

	stays front.Typical // in applications
}

// New returns a bench for a run.
func New(l *lab.Lab, run *lab.Run) (*Bench, error) {
	b := &Bench{lab: l, run: run, apps: map[string]*app.Client{}, limits: map[string]*sandbox.CPULimit{}}
	for _, pod := range lab.Pods {
		if !pod.Gateway {
			b.apps[pod.Name] = app.NewClient(run.ControlSocket(pod.Name))
		}
	}
	var err error
	b.relay, err = relay.Start(l.InfraNamespace(), lab.SwitchBridge, lab.AllPods)
	return b, err
}

// Close ends what the bench has started.
func (b *Bench) Close() error {
	for _, app := range b.apps {
		app.Close()
	}
	return b.relay.Close()
}

// Request is one request that is sent while a fault is there.
type Request struct {
	TraceID string
	// Send sends it and waits for the answer.
	Send func(ctx context.Context) error
	// Plain sends one like it under another trace ID, without a fault.
	Plain func(ctx context.Context, traceID string) error
}

type injector func(b *Bench, ctx context.Context, c faults.Case, r Request) (time.Duration, error)

var injectors = map[faults.Kind]injector{
	faults.NoFault:        (*Bench).nothing,
	faults.AppSleep:       (*Bench).sleep,
	faults.AppNotReading:  (*Bench).notReading,
	faults.SidecarStarved: (*Bench).starve,
	faults.PodQdisc:       (*Bench).podQueue,
	faults.DriverQdisc:    (*Bench).driverQueue,
	faults.SlowBridge:     (*Bench).bridgeQueue,
	faults.RelayDelay:     (*Bench).delay,
	faults.RelayLoss:      (*Bench).lose,
	faults.RelayReorder:   (*Bench).reorder,
}

// ErrMissed is returned when a fault did not meet the request.
var ErrMissed = errors.New("the fault did not meet the request")

// Inject sends a request with a fault and returns how long the request was held
// up by it. Afterwards the fault is gone.
func (b *Bench) Inject(ctx context.Context, c faults.Case, r Request) (time.Duration, error) {
	inject, ok := injectors[c.Kind]
	if !ok {
		return 0, fmt.Errorf("no way to make a fault %q", c.Kind)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	injected, err := inject(b, ctx, c, r)
	if err != nil {
		return 0, fmt.Errorf("%v: %w", c, err)
	}
	return injected, nil
}

func (b *Bench) nothing(ctx context.Context, _ faults.Case, r Request) (time.Duration, error) {
	return 0, r.Send(ctx)
}
