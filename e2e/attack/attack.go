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

// Options of Run. All are required but Only and Envoy.
type Options struct {
	// Program is the layertrace to attack.
	Program string
	// Envoy is the path of Envoy; only the cases of a proxy need it.
	Envoy string
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
	{"metrics-idle", "idle connections to the metrics server, unfinished requests and responses that nobody reads end within 40 s", metricsIdle},
	{"forged-segments", "150,000 requests of no connection make no span, a packet costs 1.10 times what it did before at most, and a request of 3 s beside them is seen", forgedSegments},
	{"blind-reset", "4,000 RST and SYN segments with guessed numbers end no exchange: a request of 3 s has its two spans of 3 s", blindReset},
	{"clsact-left", "the filters that a killed agent left do not run beside a new one: a request has two spans", clsactLeft},
	{"cpu-limit", "a flood of sampled requests makes an agent with --cpu-limit leave new ones out and take less than its limit; no request fails, and all is captured again after it", cpuLimit},
	{"terminal", "what a trace store responds does not control the terminal", terminal},
	{"explain-nested", "explain reports a trace of 8,000 nested requests with 10 s of CPU time and 512 MiB at most", explainNested},
	{"endless-store", "explain reads 256 MiB of a response without end, with 30 s of CPU time and 1 GiB at most, and reports it", endlessStore},
	{"series", "of 5,000 services the metrics have 4,096 series of layers and 2,048 of hops at most, a scrape takes 10 s at most, and the rest is counted", series},
	{"retry-after", "a receiver that asks for a pause of an hour loses no span: all are delivered within a minute", retryAfter},
	{"retry-info", "the same over gRPC", retryInfo},
	{"partial-success", "of spans that a receiver rejects in part, only those are counted as lost, and the log has the reason", partialSuccess},
	{"endless-response", "a receiver that responds without end costs 32 MiB at most, and the agent exports on", endlessResponse},
	{"slow-receiver", "with a receiver that does not respond the agent ends within --shutdown-timeout and 3 s, reports its progress, and counts what it lost", slowReceiver},
	{"sweep", "4,000 exchanges that end at once do not overrun a ring for 140: none is lost", sweepAtOnce},
	{luaCase, "of 2,500 header names of 58,000 bytes, Envoy with the Lua filter keeps 16 MiB at most", luaNames},
	{"memory-budget", "an agent with layers takes 128 MiB at most, BPF maps included, at 10,000 requests/s of which 1 % are sampled", memoryBudget},
}

const luaCase = "lua-names"

// NeedsEnvoy reports whether a case needs Options.Envoy.
func NeedsEnvoy(name string) bool { return name == luaCase }

// caseTimeout is for one case, the testbed included.
const caseTimeout = 3 * time.Minute

// Run runs the cases one after the other, each on a testbed of its own. One that does not
// get to its end has failed, and the others go on.
func Run(ctx context.Context, o Options) (results []Result, err error) {
	known := false
	for _, c := range Cases {
		if o.Only != "" && o.Only != c.Name {
			continue
		}
		known = true
		o.Progress("%s", c.Name)
		r, err := run(ctx, o, c)
		if ctx.Err() != nil {
			return results, fmt.Errorf("run %s: %w", c.Name, err)
		}
		if err != nil {
			r = Result{Name: c.Name, Bound: c.Bound, Measured: "not to its end: " + err.Error()}
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
	t, err := newTestbed(o.Program, o.Envoy, dir)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	r = Result{Name: c.Name, Bound: c.Bound}
	r.Measured, r.Pass, err = c.Run(ctx, t)
	if err == nil && t.limit != nil {
		err = r.addMemory(t)
	}
	return r, err
}

// addMemory adds what the agent took of its memory limit. In every case the kernel must not
// have killed it.
func (r *Result) addMemory(t *Testbed) error {
	peak, kills, err := t.AgentMemory()
	if err != nil {
		return err
	}
	r.Measured += fmt.Sprintf("; the agent took %d of %d MiB at most, killed %d times", peak>>20, t.Memory>>20, kills)
	r.Pass = r.Pass && kills == 0
	return nil
}
