// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/reorder/golden"
	"github.com/layertrace/layertrace/e2e/reorder/proxy"
)

// Options of the golden suite.
type Options struct {
	// Envoy and Module are the paths of the programs under test.
	Envoy, Module string
	// Dir is an existing directory for configurations and logs.
	Dir string
	// Golden has a directory of golden files for each tracer.
	Golden fs.FS
	// Placements to hold to the files; none means all of them.
	Placements []Placement
	Progress   func(format string, args ...any)
	// After, if set, is called with each Envoy when its cases are through.
	After func(context.Context, *Bench) error
}

// Tracers are those that golden files exist for.
var Tracers = []lab.Tracer{lab.Zipkin, lab.OpenTelemetry}

var protocols = []proxy.Protocol{proxy.HTTP1, proxy.HTTP2}

// Result is one case on the wire.
type Result struct {
	Tracer    lab.Tracer     `json:"tracer"`
	Placement Placement      `json:"placement"`
	Case      string         `json:"case"`
	Protocol  proxy.Protocol `json:"protocol"`
	Pass      bool           `json:"pass"`
	// Order is the names of the header fields in wire order, of the last
	// attempt where there were several.
	Order []string `json:"order"`
	// Offset is where the first header that the tracer writes begins, in bytes
	// from the beginning of an HTTP/1.1 request; -1 where there is none.
	Offset int `json:"-"`
	// Err says what is wrong when Pass is false.
	Err error `json:"-"`
}

// Run starts the Envoys, one for each tracer and set of inline headers, and
// sends every case through every placement by both protocols. A case that is not
// as the file says is a Result without Pass, not an error.
func Run(ctx context.Context, o Options) ([]Result, error) {
	if len(o.Placements) == 0 {
		o.Placements = Placements
	}
	var results []Result
	for _, tracer := range Tracers {
		cases, err := golden.Load(o.Golden, string(tracer))
		if err != nil {
			return nil, err
		}
		for _, group := range groupByBootstrap(o.Placements) {
			o.Progress("%s: %d cases, %v", tracer, len(cases), group)
			part, err := runGroup(ctx, o, tracer, group, cases)
			results = append(results, part...)
			if err != nil {
				return results, fmt.Errorf("%s, %v: %w", tracer, group, err)
			}
		}
	}
	return results, nil
}

// groupByBootstrap parts the placements by the inline headers they need.
func groupByBootstrap(placements []Placement) [][]Placement {
	var groups [][]Placement
	for _, p := range placements {
		at := slices.IndexFunc(groups, func(g []Placement) bool {
			return slices.Equal(g[0].InlineHeaders(), p.InlineHeaders())
		})
		if at < 0 {
			groups = append(groups, nil)
			at = len(groups) - 1
		}
		groups[at] = append(groups[at], p)
	}
	return groups
}

// runGroup runs placements with the same bootstrap in one Envoy.
func runGroup(ctx context.Context, o Options, tracer lab.Tracer, placements []Placement, cases []golden.Case) (results []Result, err error) {
	bench, err := startBench(ctx, o, tracer, placements, cases)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bench.stop()) }()
	if err := bench.warmUp(ctx, cases); err != nil {
		return nil, err
	}
	for _, c := range cases {
		for _, placement := range placements {
			for _, protocol := range protocols {
				result := Result{Tracer: tracer, Placement: placement, Case: c.Name, Protocol: protocol}
				heads, err := bench.Exchange(ctx, placement, protocol, c)
				if ctx.Err() != nil {
					return results, ctx.Err()
				}
				if err == nil {
					err = c.Compare(string(placement), heads)
				}
				result.Pass, result.Err = err == nil, err
				result.Order, result.Offset = lastOrder(heads), offset(heads, tracer)
				results = append(results, result)
			}
		}
	}
	if o.After != nil {
		return results, o.After(ctx, bench)
	}
	return results, nil
}
