// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/lab/await"
	"github.com/layertrace/layertrace/e2e/lab/envoy"
	"github.com/layertrace/layertrace/e2e/lab/netspace"
)

// Drain waits until every Envoy has sent Jaeger a span for each request it
// has seen; an Envoy that ends drops what it has not sent.
func (r *Run) Drain(ctx context.Context) error {
	for _, pod := range Pods {
		space := r.lab.network.pods[pod.Name]
		what := fmt.Sprintf("the spans of the Envoy of %s to be sent", pod.Name)
		err := await.Until(ctx, what, 30*time.Second, 50*time.Millisecond, func(ctx context.Context) error {
			requests, spans, err := spanCounts(ctx, space)
			if err == nil && spans < requests {
				err = fmt.Errorf("%d of %d", spans, requests)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// spanCounts reads from an Envoy's statistics how many requests its listeners
// have had and how many spans it has sent.
func spanCounts(ctx context.Context, space *netspace.Space) (requests, spans uint64, err error) {
	const url = "http://" + envoy.AdminAddress + "/stats?format=json&filter=downstream_rq_total|spans_sent"
	data, err := get(ctx, space, url)
	if err != nil {
		return 0, 0, err
	}
	var body struct {
		Stats []struct {
			Name  string `json:"name"`
			Value uint64 `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(data, &body); err != nil {
		return 0, 0, fmt.Errorf("read Envoy statistics: %w", err)
	}
	for _, stat := range body.Stats {
		switch {
		case strings.HasSuffix(stat.Name, ".spans_sent"):
			spans += stat.Value
		case stat.Name == "http.inbound.downstream_rq_total", stat.Name == "http.outbound.downstream_rq_total":
			requests += stat.Value
		}
	}
	return requests, spans, nil
}
