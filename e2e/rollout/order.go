// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/reorder/upstream"
	"github.com/layertrace/layertrace/e2e/sandbox"
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

// orders are those of a new trace and of a continued one.
type orders [2]order

var (
	inFront = orders{front, front}
	// stock is Envoy's own: what the tracer writes goes last.
	stock = orders{last, last}
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

const markHeader = "x-mark"

// send sends one request from the client's application through its sidecar,
// with a context of its own if it continues a trace. mark is the value of the
// header by which it is known again. A status other than 200 is an error.
func (r *rollout) send(ctx context.Context, client *http.Client, mark string, continued bool) error {
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
func (r *rollout) expect(ctx context.Context, want orders) error {
	const mark = "probe"
	r.upstream.Take()
	for _, continued := range []bool{false, true} {
		if err := r.send(ctx, r.client.HTTP, mark, continued); err != nil {
			return err
		}
	}
	var got []order
	var heads []upstream.Head
	for _, head := range r.upstream.Take() {
		if slices.Contains(head.Fields, upstream.Field{Name: markHeader, Value: mark}) {
			heads, got = append(heads, head), append(got, orderOf(head))
		}
	}
	if !slices.Equal(got, want[:]) {
		return fmt.Errorf("trace headers are %v, want %v: %v", got, want, names(heads))
	}
	return nil
}

// limit is how long a configuration may take from the API to the wire.
const limit = 2 * time.Minute

// awaitOrder returns when trace headers stand as wanted.
func (r *rollout) awaitOrder(ctx context.Context, want orders) error {
	var before error
	return sandbox.Await(ctx, fmt.Sprintf("trace headers %v", want), limit, 100*time.Millisecond,
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
func (r *rollout) staysSo(ctx context.Context, want orders) error {
	for range 20 {
		if err := r.expect(ctx, want); err != nil {
			return err
		}
	}
	return nil
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

func showsStockOrder(ctx context.Context, r *rollout) error { return r.awaitOrder(ctx, stock) }
