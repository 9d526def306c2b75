// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// SoakOptions configure a soak test.
type SoakOptions struct {
	CostOptions // Module may be any module of the filter
	// Soak ends after Duration and after Requests responses of each variant.
	Duration time.Duration
	Requests uint64
}

// SoakResult is the result of one variant.
type SoakResult struct {
	Variant  string
	Requests uint64
	Elapsed  time.Duration
	// Counted is how many requests the filter counted, in any of its counters;
	// Errors are those that it could not handle.
	Counted, Errors uint64
	// Failures are the lines about the VM in Envoy's log.
	Failures []string
	// RSS is the resident memory of the Envoy process in bytes, after each tenth of
	// SoakOptions.Duration.
	RSS []uint64
}

// Lasted returns an error when the filter failed, missed requests or kept growing.
// Only growth in the second half counts: in the first, V8's heap and Envoy's buffers
// reach their sizes.
func (r SoakResult) Lasted() error {
	var errs []error
	if len(r.Failures) > 0 {
		errs = append(errs, fmt.Errorf("failures in the log: %q", r.Failures))
	}
	if r.Counted != r.Requests || r.Errors > 0 {
		errs = append(errs, fmt.Errorf("of %d requests the filter counted %d, %d of them as errors", r.Requests, r.Counted, r.Errors))
	}
	if half, end := r.RSS[len(r.RSS)/2], r.RSS[len(r.RSS)-1]; end > half+half/50 {
		errs = append(errs, fmt.Errorf("memory grew from %d bytes at half time to %d, by more than 2 %%", half, end))
	}
	return errors.Join(errs...)
}

// Soak keeps the filter busy in both placements with requests of all kinds.
func Soak(ctx context.Context, o SoakOptions) (results []SoakResult, err error) {
	upstream, err := StartCostUpstream(costResponse)
	if err != nil {
		return nil, err
	}
	defer upstream.Close()
	var runs []*variantRun
	defer func() {
		for _, r := range runs {
			err = errors.Join(err, r.proxy.Stop())
		}
	}()
	for _, v := range filterVariants("wasm", o.Module) {
		o.Progress("starting Envoy for %s", v.Name)
		r, err := startVariant(ctx, o.CostOptions, v, upstream.Address())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v.Name, err)
		}
		runs = append(runs, r)
	}
	results = make([]SoakResult, len(runs))
	group, ctx := errgroup.WithContext(ctx)
	for i, r := range runs {
		group.Go(func() (err error) {
			results[i], err = r.soak(ctx, o)
			return err
		})
	}
	return results, group.Wait()
}

// soak keeps a variant busy.
func (r *variantRun) soak(ctx context.Context, o SoakOptions) (SoakResult, error) {
	address, err := r.proxy.Address(r.name)
	if err != nil {
		return SoakResult{}, err
	}
	var sent atomic.Uint64
	began := time.Now()
	enough := func() bool { return time.Since(began) >= o.Duration && sent.Load() >= o.Requests }
	group, sending := errgroup.WithContext(ctx)
	for i := range costConnections {
		group.Go(func() error {
			const batch = 50
			kinds := soakRequests()
			for n := i; !enough(); n++ {
				if _, err := sendOn(sending, address, kinds[n%len(kinds)], batch); err != nil {
					return err
				}
				sent.Add(batch)
			}
			return nil
		})
	}
	result := SoakResult{Variant: r.name}
	group.Go(func() error {
		result.RSS, err = r.sampleMemory(sending, o, enough, func() {
			o.Progress("%s: %d requests in %.0f s", r.name, sent.Load(), time.Since(began).Seconds())
		})
		return err
	})
	if err := group.Wait(); err != nil {
		return SoakResult{}, fmt.Errorf("%s: %w", r.name, err)
	}
	result.Requests, result.Elapsed = sent.Load(), time.Since(began)
	return result, r.account(ctx, &result)
}

// sampleMemory reads the resident memory after each tenth of the duration, until
// there were enough requests.
func (r *variantRun) sampleMemory(ctx context.Context, o SoakOptions, enough func() bool, progress func()) ([]uint64, error) {
	var samples []uint64
	tick := time.NewTicker(o.Duration / 10)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
		memory, err := sandbox.ReadMemory(r.proxy.PID())
		if err != nil {
			return nil, err
		}
		samples = append(samples, memory.Resident)
		progress()
		if enough() {
			return samples, nil
		}
	}
}

// account reads the filter's counters and Envoy's log.
func (r *variantRun) account(ctx context.Context, result *SoakResult) error {
	for _, name := range []string{"reordered", "already_first", "without_context"} {
		n, err := r.proxy.Counters(ctx, "layertrace_requests_"+name)
		if err != nil {
			return err
		}
		result.Counted += n
	}
	var err error
	if result.Errors, err = r.proxy.Counters(ctx, "layertrace_host_call_errors"); err != nil {
		return err
	}
	result.Counted += result.Errors
	log, err := r.proxy.Log()
	if err != nil {
		return err
	}
	for line := range strings.Lines(log) {
		if strings.Contains(line, "[wasm]") {
			result.Failures = append(result.Failures, strings.TrimSpace(line))
		}
	}
	return nil
}

// soakRequests returns requests of all kinds: the one of the measurement, one that
// starts a trace, one with a leading context, one with many headers, and one with a
// long header, for which the filter has to allocate more memory.
func soakRequests() []string {
	const line = "GET /reviews/0 HTTP/1.1\r\nhost: reviews\r\n"
	var many strings.Builder
	for i := range 60 {
		fmt.Fprintf(&many, "x-header-%d: %d\r\n", i, i)
	}
	return []string{
		costRequest,
		line + "user-agent: soak\r\n\r\n",
		line + "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\nuser-agent: soak\r\n\r\n",
		line + many.String() + "x-b3-sampled: 0\r\nx-b3-traceid: 0af7651916cd43dd8448eb211c80319c\r\nx-b3-spanid: b7ad6b7169203331\r\n\r\n",
		line + "cookie: " + strings.Repeat("c", 40<<10) + "\r\nx-b3-sampled: 0\r\n\r\n",
	}
}
