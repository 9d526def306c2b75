// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"context"
	"errors"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/faults/front"
	"github.com/layertrace/layertrace/e2e/lab/app"
)

// sleep lets an application sleep before it answers. What that took from the
// request is by how much longer it was in the application than others lately: who
// has slept works slower afterwards, too.
func (b *Bench) sleep(ctx context.Context, c faults.Case, r Request) (time.Duration, error) {
	var plain []string
	var report app.Report
	seen, err := b.inside(c.Pod, func() (err error) {
		for range plainBefore {
			plain = append(plain, front.NewTraceID())
			if err := r.Plain(ctx, plain[len(plain)-1]); err != nil {
				return err
			}
		}
		report, err = b.application(ctx, c.Pod, app.Fault{TraceID: r.TraceID, Sleep: c.Magnitude}, r)
		return err
	})
	if err != nil {
		return 0, err
	}
	for _, traceID := range plain {
		if stayed := seen.stayed(traceID); stayed > 0 {
			b.stays.Add(alike(c), stayed)
		}
	}
	stayed := seen.stayed(r.TraceID)
	if stayed < report.Slept || report.Slept <= 0 {
		return met(0, nil)
	}
	return met(stayed-b.stays.Median(alike(c)), nil)
}

func (b *Bench) notReading(ctx context.Context, c faults.Case, r Request) (time.Duration, error) {
	report, err := b.application(ctx, c.Pod, app.Fault{TraceID: r.TraceID, Hold: c.Magnitude}, r)
	return met(report.Held, err)
}

// application sends a request while a pod's application has a fault.
func (b *Bench) application(ctx context.Context, pod string, f app.Fault, r Request) (report app.Report, err error) {
	app := b.apps[pod]
	if err := app.Arm(ctx, f); err != nil {
		return report, err
	}
	err = r.Send(ctx)
	report, disarmed := app.Disarm(ctx)
	return report, errors.Join(err, disarmed)
}

// met is an error when no time was taken.
func met(injected time.Duration, err error) (time.Duration, error) {
	if err == nil && injected <= 0 {
		err = ErrMissed
	}
	return injected, err
}
