// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/lab/await"
	"github.com/layertrace/layertrace/e2e/reorder/upstream"
)

// order is where the trace headers stand in a request head.
type order string

const (
	// front: right behind host, with nothing between them.
	front order = "in front"
	// last: none of the other headers comes after one of them.
	last      order = "last"
	scattered order = "scattered"
	missing   order = "missing"
)

// orderOf classifies a head that came over HTTP/1.1.
func orderOf(head upstream.Head) order {
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
		return front
	case traces[n-1] == len(head.Fields)-1:
		return last
	}
	return scattered
}

// send sends one request from the client's application through its sidecar,
// with a context of its own if it continues a trace. A status other than 200 is
// an error.
func (r *rollout) send(ctx context.Context, client *http.Client, continued bool) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, serviceURL, nil)
	if err != nil {
		return err
	}
	request.Header.Set("x-filler", strings.Repeat("f", 1100))
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

// seen sends a new and a continued trace and returns where their headers stood.
func (r *rollout) seen(ctx context.Context) (orders []order, heads []upstream.Head, err error) {
	r.upstream.Take()
	for _, continued := range []bool{false, true} {
		if err := r.send(ctx, r.client.HTTP, continued); err != nil {
			return nil, nil, err
		}
	}
	heads = r.upstream.Take()
	for _, head := range heads {
		orders = append(orders, orderOf(head))
	}
	if len(orders) != 2 {
		err = fmt.Errorf("the upstream received %d requests, want 2", len(orders))
	}
	return orders, heads, err
}

// limit is how long a configuration may take from the API to the wire.
const limit = 2 * time.Minute

// awaitOrder returns when new and continued traces have the order, or fails
// with what was seen instead.
func (r *rollout) awaitOrder(ctx context.Context, want order) error {
	return await.Until(ctx, "trace headers "+string(want), limit, 100*time.Millisecond, func(ctx context.Context) error {
		got, heads, err := r.seen(ctx)
		if err == nil && !slices.Equal(got, []order{want, want}) {
			err = fmt.Errorf("they are %v: %v", got, names(heads))
		}
		return err
	})
}

// names are the names of each head's fields, in their order.
func names(heads []upstream.Head) (all [][]string) {
	for _, head := range heads {
		var names []string
		for _, field := range head.Fields {
			names = append(names, field.Name)
		}
		all = append(all, names)
	}
	return all
}

func showsStockOrder(ctx context.Context, r *rollout) error { return r.awaitOrder(ctx, last) }

// staysSo sends further requests, all of which have to have the order.
func (r *rollout) staysSo(ctx context.Context, want order) error {
	var errs []error
	for range 20 {
		got, heads, err := r.seen(ctx)
		if err == nil && !slices.Equal(got, []order{want, want}) {
			err = fmt.Errorf("trace headers are %v, want %s: %v", got, want, names(heads))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
