// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"context"
	"errors"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/lab/control"
)

func (b *Bench) sleep(ctx context.Context, c faults.Case, r Request) (time.Duration, error) {
	report, err := b.application(ctx, c.Pod, control.Fault{TraceID: r.TraceID, Sleep: c.Magnitude}, r)
	return met(report.Slept, err)
}

func (b *Bench) notReading(ctx context.Context, c faults.Case, r Request) (time.Duration, error) {
	report, err := b.application(ctx, c.Pod, control.Fault{TraceID: r.TraceID, Hold: c.Magnitude}, r)
	return met(report.Held, err)
}

// application sends a request while a pod's application has a fault.
func (b *Bench) application(ctx context.Context, pod string, f control.Fault, r Request) (report control.Report, err error) {
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
