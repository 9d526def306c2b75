// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/layertrace/layertrace/e2e/lab/netspace"
)

// AgentMetrics reads the metrics of a node's agent: values by name, with the
// labels where there are any, as in `name{label="value"}`.
func (l *Lab) AgentMetrics(ctx context.Context, node int) (map[string]float64, error) {
	body, err := get(ctx, l.network.nodes[node], "http://"+AgentMetricsAddress+"/metrics")
	if err != nil {
		return nil, err
	}
	metrics := map[string]float64{}
	for line := range strings.Lines(string(body)) {
		line = strings.TrimSpace(line)
		space := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || space < 0 {
			continue
		}
		value, err := strconv.ParseFloat(line[space+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("read metrics of the agent of %s: %q: %w", NodeName(node), line, err)
		}
		metrics[line[:space]] = value
	}
	return metrics, nil
}

// watched is how many interfaces a node's agent is attached to.
func (l *Lab) watched(ctx context.Context, node int) (int, error) {
	metrics, err := l.AgentMetrics(ctx, node)
	if err != nil {
		return 0, err
	}
	total := 0.0
	for name, value := range metrics {
		if strings.HasPrefix(name, "layertrace_interfaces{") {
			total += value
		}
	}
	return int(total), nil
}

// ExportedSpans is how many spans the agents that run have delivered.
func (r *Run) ExportedSpans(ctx context.Context) (int, error) {
	total := 0.0
	for node := range r.agents {
		metrics, err := r.lab.AgentMetrics(ctx, node)
		if err != nil {
			return 0, err
		}
		total += metrics["layertrace_spans_exported_total"]
	}
	return int(total), nil
}

// get asks for a URL from inside a namespace and wants status 200.
func get(ctx context.Context, space *netspace.Space, url string) ([]byte, error) {
	transport := &http.Transport{DialContext: space.DialContext, DisableKeepAlives: true}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s: %s", url, response.Status, body)
	}
	return body, nil
}
