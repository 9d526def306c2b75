// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"context"
	"errors"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/lab/app"
)

// pad is by how much a message is made longer: with its head it stays below the
// ten segments that TCP sends at once.
const pad = 11_000

// length is how long such a message is at least, so that a fault takes no less
// than it should.
const length = pad + 200

// longer is what no other message in the same direction is: requests have
// metadata, answers little more than a head.
func longer(leg faults.Leg) int {
	if leg.Response {
		return 1100
	}
	return 3000
}

// long sends a request and has the message on a leg made long.
func (b *Bench) long(ctx context.Context, leg faults.Leg, r Request) error {
	pod, fault := leg.Callee, app.Fault{TraceID: r.TraceID, PadResponse: pad}
	if !leg.Response {
		pod, fault = leg.Caller, app.Fault{TraceID: r.TraceID, PadRequests: map[string]int{serviceOf(leg.Callee): pad}}
	}
	if err := b.apps[pod].Arm(ctx, fault); err != nil {
		return err
	}
	err := r.Send(ctx)
	_, disarmed := b.apps[pod].Disarm(ctx)
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
