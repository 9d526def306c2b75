// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/lab/envoy"
)

// Stock is the mesh as it comes, with agents that look at the first 1,024
// bytes of a request: the paper's starting point.
func Stock(tracer envoy.Tracer) lab.Setup {
	return lab.Setup{Name: "stock", Tracer: tracer, AgentFlags: []string{"--prefix-window=1024"}}
}

// StockDeep is the mesh as it comes, with agents that search on.
func StockDeep(tracer envoy.Tracer) lab.Setup {
	return lab.Setup{Name: "stock-deep", Tracer: tracer, AgentFlags: []string{"--deep"}}
}

// Reordered is the mesh with the trace headers in front, agents as for Stock.
func Reordered(tracer envoy.Tracer) lab.Setup {
	return lab.Setup{Name: "reordered", Tracer: tracer, Reordered: true, AgentFlags: []string{"--prefix-window=1024"}}
}
