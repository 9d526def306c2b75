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

// order is where the trace headers stand in a request head.
type order string

const (
	// front: right behind host, with nothing between them.
	leading order = "in front"
	// last: none of the other headers comes after one of them.
	last      order = "last"
	scattered order = "scattered"
	missing   order = "missing"
)

// orders are those of a new trace and of a continued one.
type orders [2]order

var (
	bothLeading = orders{leading, leading}
	// stock is Envoy's own: what the tracer writes goes last.
	stock = orders{last, last}
)

// orderOf classifies a head that came over HTTP/1.1.
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

// send sends one request from the client's application through its sidecar,
// with a context of its own if it continues a trace. mark is the value of the
// header by which it is known again. A status other than 200 is an error.
func (r *chain) send(ctx context.Context, client *http.Client, mark string, continued bool) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, serviceURL, nil)
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

// expect sends a new and a continued trace. The error says where their headers
// stood, when not as wanted.
func (r *chain) expect(ctx context.Context, want orders) error {
	const mark = "probe"
	r.upstream.Take()
	for _, continued := range []bool{false, true} {
		if err := r.send(ctx, r.client.HTTP, mark, continued); err != nil {
			return err
		}
	}
	var got []order
	var heads []reorder.Head
	for _, head := range r.upstream.Take() {
		if slices.Contains(head.Fields, reorder.Field{Name: markHeader, Value: mark}) {
			heads, got = append(heads, head), append(got, orderOf(head))
		}
	}
	if !slices.Equal(got, want[:]) {
		return fmt.Errorf("trace headers are %v, want %v: %v", got, want, fieldNames(heads))
	}
	return nil
}

// limit is how long a configuration may take from the API to the wire.
const configLimit = 2 * time.Minute

// awaitOrder returns when trace headers stand as wanted.
func (r *chain) awaitOrder(ctx context.Context, want orders) error {
	var before error
	return sandbox.Await(ctx, fmt.Sprintf("trace headers %v", want), configLimit, 100*time.Millisecond,
		func(ctx context.Context) error {
			err := r.expect(ctx, want)
			if ctx.Err() != nil && before != nil {
				return before // what was wrong, not that the time is up
			}
			before = err
			return err
		})
}

// staysSo sends further requests, all of which have to be as wanted.
func (r *chain) orderHolds(ctx context.Context, want orders) error {
	for range 20 {
		if err := r.expect(ctx, want); err != nil {
			return err
		}
	}
	return nil
}

// names are the names of each head's fields, in their order.
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

func showsStockOrder(ctx context.Context, r *chain) error { return r.awaitOrder(ctx, stock) }

// load sends requests from the client's application all the time and keeps
// what failed.
type load struct {
	stop context.CancelFunc
	done sync.WaitGroup

	sent, failed atomic.Int64
	first        atomic.Pointer[error]
}

// every is the pause between two requests of one sender: all together they
// leave most of a core to what is being configured.
const loadInterval = 20 * time.Millisecond

// startLoad starts two senders: one with a connection that it keeps, which a
// new listener configuration drains, one with a connection per request. Call
// end.
func (r *chain) startLoad(ctx context.Context) *load {
	l := &load{}
	ctx, l.stop = context.WithCancel(ctx)
	kept := &http.Client{
		Timeout:   r.client.HTTP.Timeout,
		Transport: &http.Transport{DialContext: r.client.Namespace.DialContext},
	}
	for _, client := range []*http.Client{kept, r.client.HTTP} {
		l.done.Go(func() {
			defer client.CloseIdleConnections()
			l.send(ctx, r, client)
		})
	}
	return l
}

func (l *load) send(ctx context.Context, r *chain, client *http.Client) {
	tick := time.NewTicker(loadInterval)
	defer tick.Stop()
	for continued := false; ; continued = !continued {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// A request that was begun is ended: it would fail by our doing.
		err := r.send(context.WithoutCancel(ctx), client, "load", continued)
		l.sent.Add(1)
		if err != nil {
			l.failed.Add(1)
			l.first.CompareAndSwap(nil, &err)
		}
	}
}

// end stops the load. The error says how many requests failed, and how the
// first did.
func (l *load) end() error {
	l.stop()
	l.done.Wait()
	if l.sent.Load() == 0 {
		return errors.New("no request was sent: the load tested nothing")
	}
	if first := l.first.Load(); first != nil {
		return fmt.Errorf("%d of %d requests failed meanwhile, the first: %w", l.failed.Load(), l.sent.Load(), *first)
	}
	return nil
}

// underLoad runs do while requests are sent, none of which may fail.
func (r *chain) underLoad(ctx context.Context, do func(context.Context) error) error {
	l := r.startLoad(ctx)
	err := do(ctx)
	failed := l.end()
	r.options.Progress("  %d requests meanwhile, %d failed", l.sent.Load(), l.failed.Load())
	return errors.Join(err, failed)
}
