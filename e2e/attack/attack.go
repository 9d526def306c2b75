// SPDX-License-Identifier: Apache-2.0

// Package attack does to an agent what hostile and unlucky traffic does, in network
// namespaces of its own, and checks that nothing grows, stops or reaches others beyond its
// bound. Everything it sends is bounded in number and time.
//
// A new case is a function with a line in the table of Cases.
package attack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Options of Run. All are required but Only.
type Options struct {
	// Program is the layertrace to attack.
	Program string
	// Dir is the directory for logs.
	Dir string
	// Only is the name of the one case to run; empty: all.
	Only string
	// Progress prints what is done.
	Progress func(format string, args ...any)
}

// Result of a case: what is allowed, and what was seen.
type Result struct {
	Name     string `json:"name"`
	Bound    string `json:"bound"`
	Measured string `json:"measured"`
	Pass     bool   `json:"pass"`
}

// Case is one attack.
type Case struct {
	Name string
	// Bound is what must hold, in words.
	Bound string
	// Run does it on a testbed without agent. It returns what it measured, and whether that
	// is within the bound; an error if it could not be tried.
	Run func(ctx context.Context, t *Testbed) (measured string, pass bool, err error)
}

// Cases are all cases, in the order in which they run.
var Cases = []Case{
	{"trace-flood", "ordinary requests beside 30,000 with one trace ID have their spans within 10 s; /readyz stays 200", traceFlood},
	{"metrics-connections", "of 2,000 connections of a pod 8 are served, the agent's memory grows by 32 MiB at most, and the node reads /readyz", metricsConnections},
	{"forged-segments", "150,000 requests of no connection make no span, a packet costs 1.10 times what it did before at most, and a request of 3 s beside them is seen", forgedSegments},
	{"cpu-limit", "a flood of sampled requests makes an agent with --cpu-limit leave new ones out and take less than its limit; no request fails, and all is captured again after it", cpuLimit},
	{"terminal", "what a trace store responds does not control the terminal", terminal},
}

// caseTimeout is for one case, the testbed included.
const caseTimeout = 3 * time.Minute

// Run runs the cases one after the other, each on a testbed of its own.
func Run(ctx context.Context, o Options) (results []Result, err error) {
	known := false
	for _, c := range Cases {
		if o.Only != "" && o.Only != c.Name {
			continue
		}
		known = true
		o.Progress("%s", c.Name)
		r, err := run(ctx, o, c)
		if err != nil {
			return results, fmt.Errorf("run %s: %w", c.Name, err)
		}
		results = append(results, r)
	}
	if !known {
		return nil, fmt.Errorf("there is no case %q; see bin/lab attack --help", o.Only)
	}
	return results, nil
}

func run(ctx context.Context, o Options, c Case) (r Result, err error) {
	ctx, cancel := context.WithTimeout(ctx, caseTimeout)
	defer cancel()
	dir := filepath.Join(o.Dir, c.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return r, err
	}
	t, err := newTestbed(o.Program, dir)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	r = Result{Name: c.Name, Bound: c.Bound}
	r.Measured, r.Pass, err = c.Run(ctx, t)
	return r, err
}
