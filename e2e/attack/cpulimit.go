// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// cpuLimit sends sampled requests as fast as they are answered, to an agent with a small share
// of the CPUs. It leaves new requests out before long, takes less than its share then, and
// captures all again when it is over.
func cpuLimit(ctx context.Context, t *Testbed) (measured string, pass bool, err error) {
	const (
		limit, newRequests = 0.04, 3 // CPUs, and the last step
		clients, batch     = 4, 200
	)
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	if err := t.serve(t.Pods[1], PodAddress(2)+":80", handler); err != nil {
		return "", false, err
	}
	if err := t.StartAgent(ctx, "--cpu-limit", fmt.Sprint(limit)); err != nil {
		return "", false, err
	}
	flooding, stop := context.WithCancel(ctx)
	defer stop()
	answered := make([]int, clients)
	var group errgroup.Group
	for c := range clients {
		group.Go(func() error {
			for flooding.Err() == nil {
				err := t.ask(ctx, batch, func(i int) (string, int) {
					n := c<<32 | answered[c] + i + 1
					return fmt.Sprintf("22222222%024x", n), n
				})
				if err != nil {
					return err
				}
				answered[c] += batch
			}
			return nil
		})
	}
	began := time.Now()
	at := func(step float64) func(context.Context) error {
		return func(ctx context.Context) error {
			now, err := t.Metric(ctx, "layertrace_cpu_limit_step")
			if err == nil && now != step {
				err = fmt.Errorf("at step %.0f", now)
			}
			return err
		}
	}
	await := func(what string, condition func(context.Context) error) (time.Duration, error) {
		from := time.Now()
		err := sandbox.Await(ctx, what, 100*time.Second, 500*time.Millisecond, condition)
		return time.Since(from), err
	}
	down, err := await("the last step", at(newRequests))
	if err == nil {
		// The mean of the time after the step has to be below the limit.
		_, err = await("less use than the limit", func(ctx context.Context) error {
			used, err := t.Metric(ctx, "layertrace_cpu_usage_cores")
			if err == nil && used >= limit {
				err = fmt.Errorf("it takes %.3f CPUs", used)
			}
			return err
		})
	}
	lasted := time.Since(began)
	stop()
	if err := errors.Join(err, group.Wait()); err != nil {
		return "", false, err
	}
	left, err := t.Metric(ctx, "layertrace_requests_not_captured_total")
	if err != nil {
		return "", false, err
	}
	up, err := await("step 0", at(0))
	if err != nil {
		return "", false, err
	}
	const last = "33333333333333333333333333333333"
	if err := t.ask(ctx, 1, func(int) (string, int) { return last, 1 }); err != nil {
		return "", false, err
	}
	if _, err := await("the spans of a request after the flood", func(context.Context) error {
		if n, _ := t.Spans(last); n == 0 {
			return errors.New("there are none")
		}
		return nil
	}); err != nil {
		return "", false, err
	}
	sum := 0
	for _, n := range answered {
		sum += n
	}
	return fmt.Sprintf("%d requests in %.0f s, 0 failed; the last step after %.0f s, %.0f requests left out, all back %.0f s after the flood",
		sum, lasted.Seconds(), down.Seconds(), left, up.Seconds()), left > 0, nil
}
