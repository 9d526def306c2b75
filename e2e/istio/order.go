// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/layertrace/layertrace/e2e/reorder"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// order is the position of the trace headers in a request head.
type order string

const (
	// leading: directly after host, with nothing between them.
	leading order = "leading"
	// last: no other header comes after one of them.
	last      order = "last"
	scattered order = "scattered"
	missing   order = "missing"
)

// orders are the orders of a new trace and of a continued one.
type orders [2]order

var (
	bothLeading = orders{leading, leading}
	// stock is Envoy's own order: the tracer appends.
	stock = orders{last, last}
)

// orderOf classifies an HTTP/1.1 head.
func orderOf(head reorder.Head) order {
	var traces []int
	for i, field := range head.Fields {
		if name := strings.ToLower(field.Name); name == "traceparent" || name == "tracestate" {
			traces = append(traces, i)
		}
	}
	n := len(traces)
	switch {
	case n == 0:
		return missing
	case traces[n-1]-traces[0] != n-1:
		return scattered
	case traces[0] == 1 && strings.EqualFold(head.Fields[0].Name, "host"):
		return leading
	case traces[n-1] == len(head.Fields)-1:
		return last
	}
	return scattered
}

const markHeader = "x-mark"

// send sends a request from the client's application through its sidecar, with a
// trace context if it continues a trace. mark is the value of the header that
// identifies it. A status other than 200 is an error.
func (c *chain) send(ctx context.Context, client *http.Client, mark string, continued bool) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, nil)
	if err != nil {
		return err
	}
	request.Header.Set("x-filler", strings.Repeat("f", 1100))
	request.Header.Set(markHeader, mark)
	if continued {
		request.Header.Set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		request.Header.Set("tracestate", "vendor=value")
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", response.Status)
	}
	return nil
}

// expect sends a new and a continued trace. An error has the order of their headers
// when it is not as wanted.
func (c *chain) expect(ctx context.Context, want orders) error {
	const mark = "probe"
	c.upstream.Take()
	for _, continued := range []bool{false, true} {
		if err := c.send(ctx, c.client.HTTP, mark, continued); err != nil {
			return err
		}
	}
	var got []order
	var heads []reorder.Head
	for _, head := range c.upstream.Take() {
		if slices.Contains(head.Fields, reorder.Field{Name: markHeader, Value: mark}) {
			heads, got = append(heads, head), append(got, orderOf(head))
		}
	}
	if !slices.Equal(got, want[:]) {
		return fmt.Errorf("trace headers are %v, want %v: %v", got, want, fieldNames(heads))
	}
	return nil
}

// configLimit is how long a configuration may take from the API to the wire.
const configLimit = 2 * time.Minute

// awaitOrder waits until the trace headers have an order.
func (c *chain) awaitOrder(ctx context.Context, want orders) error {
	var before error
	return sandbox.Await(ctx, fmt.Sprintf("trace headers %v", want), configLimit, 100*time.Millisecond,
		func(ctx context.Context) error {
			err := c.expect(ctx, want)
			if ctx.Err() != nil && before != nil {
				return before // the last order, not the timeout
			}
			before = err
			return err
		})
}

// orderHolds sends further requests, which all must have an order.
func (c *chain) orderHolds(ctx context.Context, want orders) error {
	for range 20 {
		if err := c.expect(ctx, want); err != nil {
			return err
		}
	}
	return nil
}

// fieldNames returns the names of each head's fields, in order.
func fieldNames(heads []reorder.Head) (all [][]string) {
	for _, head := range heads {
		var names []string
		for _, field := range head.Fields {
			names = append(names, field.Name)
		}
		all = append(all, names)
	}
	return all
}

func showsStockOrder(ctx context.Context, c *chain) error { return c.awaitOrder(ctx, stock) }

// load sends requests from the client's application continuously and records
// failures.
type load struct {
	stop context.CancelFunc
	done sync.WaitGroup

	sent, failed atomic.Int64
	first        atomic.Pointer[error]
}

// loadInterval is the time between two requests of a sender. The senders together
// leave most of a core to the configuration.
const loadInterval = 20 * time.Millisecond

// startLoad starts two senders: one keeps its connection, which a new listener
// configuration drains; one opens a connection per request. Call end.
func (c *chain) startLoad(ctx context.Context) *load {
	l := &load{}
	ctx, l.stop = context.WithCancel(ctx)
	kept := &http.Client{
		Timeout:   c.client.HTTP.Timeout,
		Transport: &http.Transport{DialContext: c.client.Namespace.DialContext},
	}
	for connection, client := range map[string]*http.Client{"a kept connection": kept, "a new connection": c.client.HTTP} {
		l.done.Go(func() {
			defer client.CloseIdleConnections()
			l.send(ctx, c, client, connection)
		})
	}
	return l
}

func (l *load) send(ctx context.Context, c *chain, client *http.Client, connection string) {
	tick := time.NewTicker(loadInterval)
	defer tick.Stop()
	for continued := false; ; continued = !continued {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// Complete a request that has begun: cancelling it would be a failure.
		begun := time.Now()
		err := c.send(context.WithoutCancel(ctx), client, "load", continued)
		l.sent.Add(1)
		if err != nil {
			l.failed.Add(1)
			err = fmt.Errorf("on %s, %v after its begin at %s: %w", connection, time.Since(begun).Round(time.Millisecond), begun.Format(time.TimeOnly+".000"), err)
			l.first.CompareAndSwap(nil, &err)
		}
	}
}

// end stops the load. An error has the number of failed requests and the first
// failure.
func (l *load) end() error {
	l.stop()
	l.done.Wait()
	if l.sent.Load() == 0 {
		return errors.New("the load sent no request")
	}
	if first := l.first.Load(); first != nil {
		return fmt.Errorf("%d of %d requests failed, the first: %w", l.failed.Load(), l.sent.Load(), *first)
	}
	return nil
}

// underLoad runs do under load, of which no request may fail.
func (c *chain) underLoad(ctx context.Context, do func(context.Context) error) error {
	l := c.startLoad(ctx)
	err := do(ctx)
	failed := l.end()
	c.options.Progress("  %d requests, %d failed", l.sent.Load(), l.failed.Load())
	return errors.Join(err, failed)
}
