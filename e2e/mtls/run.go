// SPDX-License-Identifier: Apache-2.0

// Package mtls checks in the lab what agents make of encrypted connections between pods. The
// truth is which trace context passed where and when: a capture of all capture points, which
// tshark decrypts with the secrets that Envoys log for the lab. Neither the access logs that
// the agents read nor the agents contribute to it.
package mtls

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/layertrace/layertrace/e2e/faults/matrix"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/lab/app"
)

// Case is a load and what happens meanwhile.
type Case struct {
	Name, What string
	TLS        lab.TLS
	// Requests for the front page, or with Rough of the rough mix, Parallel at a time.
	Requests, Parallel int
	Rough              bool
	Seed               uint64
	// Trouble is what happens to the records. A Step is made after a third of the requests,
	// and undone after another.
	Trouble Trouble
	// Late starts the agents after half of the requests.
	Late bool
	// Sampling is the share of the requests that are sampled, in percent; 0 for all.
	Sampling float64
	// Inferred: agents get no records, and infer by the plain text inside of the pods. Wrong is
	// the share of the observations that may be.
	Inferred bool
	// Joined is the share of the attempts that have to be joined at all points.
	Joined, Wrong float64
}

// Result is the result of a case.
type Result struct {
	Case string `json:"case"`
	What string `json:"what"`
	// Attempts are the requests between pods that the applications logged, of which
	// Decrypted are in the truth. Sampled are those of the truth that were sampled: the
	// others have no record.
	Attempts  int `json:"attempts"`
	Decrypted int `json:"decrypted"`
	Sampled   int `json:"sampled"`
	Seen
	// Ambiguous and Unmatched are records, by the agents' counters, of Records.
	Ambiguous int `json:"ambiguous"`
	Unmatched int `json:"unmatched"`
	Records   int `json:"records"`
	// Written are the records that Envoys wrote.
	Written int `json:"records_written"`
	// Reasons are records by side, state and reason, Refused those that were not accepted.
	Reasons map[string]int `json:"records_by_outcome"`
	Refused map[string]int `json:"refused,omitempty"`
	Relay   map[string]int `json:"relay,omitempty"`
	// NotInferred are plain exchanges at proxies' sockets without an encrypted one.
	NotInferred int `json:"not_inferred,omitempty"`
	// Explained is what explain makes of traces with inferred exchanges.
	Explained *Explained `json:"explained,omitempty"`
	// Agents is the memory of the agents after the load, by node.
	Agents  map[string]lab.Memory `json:"agents"`
	Load    *RoughResult          `json:"load,omitempty"`
	Seconds float64               `json:"seconds"`
}

// Run runs a case in a lab.
func Run(ctx context.Context, l *lab.Lab, c Case, dir string, progress func(string, ...any)) (result Result, err error) {
	start := time.Now()
	result = Result{Case: c.Name, What: c.What, Reasons: map[string]int{}}
	setup := lab.Setup{
		Name: c.Name, Tracer: lab.OpenTelemetry, TLS: &c.TLS, Rough: c.Rough, NoAgents: c.Late, Sampling: c.Sampling,
		Export: "stdout",
	}
	if c.Inferred {
		setup.Export = "" // to Jaeger too, for layertrace explain
		matrix.EnableLayers(l, &setup)
		setup.AgentFlags = append(setup.AgentFlags, "--mtls-infer", "--access-log-address=")
	}
	relay, err := StartRelay(l, c.Trouble)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, relay.Close()) }()
	c.TLS.RecordPort = relay.Port
	progress("%s: starting applications, Envoys and agents", c.Name)
	run, err := l.Start(ctx, setup)
	if err != nil {
		return result, err
	}
	captures, err := Capture(ctx, l, func(name string) string { return filepath.Join(dir, c.Name+"-"+name) })
	if err != nil {
		return result, errors.Join(err, run.Stop())
	}
	from, err := c.send(ctx, l, run, relay, &result, progress)
	if err == nil {
		progress("%s: waiting for the last records", c.Name)
		err = result.drain(ctx, l, relay)
	}
	if err == nil && c.Inferred {
		progress("%s: waiting for the last that is inferred", c.Name)
		result.NotInferred, err = inferred(ctx, l)
	}
	if err == nil {
		result.Agents, err = run.AgentsMemory()
	}
	if err := errors.Join(err, run.StopAgents(), captures.Stop(ctx), run.Stop()); err != nil {
		return result, err
	}
	progress("%s: decrypting and comparing", c.Name)
	truth, err := captures.Truth(ctx, run)
	if err != nil {
		return result, err
	}
	if result.Attempts, err = received(l, run); err != nil {
		return result, err
	}
	result.Decrypted = len(truth.Attempts)
	for _, a := range truth.Attempts {
		if a.Sampled {
			result.Sampled++
		}
	}
	excuses := Excuses{Lost: relay.Lost(), From: from, OwnSpans: c.TLS.Telemetry, Inferred: c.Inferred}
	if c.Inferred {
		excuses.Lost = nil // no record is needed
	}
	seen, err := truth.Compare(l, run, excuses)
	if err != nil {
		return result, err
	}
	if c.Inferred {
		if result.Explained, err = explainInferred(ctx, l, run); err != nil {
			return result, err
		}
	}
	result.Seen, result.Seconds = *seen, math.Round(time.Since(start).Seconds())
	return result, nil
}

// send sends the load, in parts between which something happens. It returns since when, in
// Unix ns, agents watch, if they did not from the start.
func (c Case) send(ctx context.Context, l *lab.Lab, run *lab.Run, relay *LabRelay, result *Result, progress func(string, ...any)) (from int64, err error) {
	parts := 1
	switch {
	case c.Late:
		parts = 2
	case c.Trouble.Step != 0:
		parts = 3
	}
	for part := range parts {
		if part == 1 && c.Late {
			if err := run.StartAgents(ctx); err != nil {
				return 0, err
			}
			from = time.Now().UnixNano()
		}
		relay.Stepped.Store(part == 1)
		requests := c.Requests*(part+1)/parts - c.Requests*part/parts
		progress("%s: sending %d requests", c.Name, requests)
		if !c.Rough {
			if _, err := l.Send(ctx, lab.Load{Requests: requests, Connections: c.Parallel}); err != nil {
				return 0, err
			}
			continue
		}
		load, err := Rough{Requests: requests, Parallel: c.Parallel, Seed: c.Seed + uint64(part)}.Send(ctx, l)
		if err != nil {
			return 0, err
		}
		if result.Load == nil {
			result.Load = &RoughResult{}
		}
		result.Load.add(load)
	}
	return from, nil
}

// drain waits until agents have decided on all records, and notes what was counted.
func (r *Result) drain(ctx context.Context, l *lab.Lab, relay *LabRelay) error {
	relay.release()
	counted := &relay.Counted
	records, err := l.DrainRecords(ctx, func(written int) int {
		if counted.Received.Load() < int64(written) {
			return written // more is to come
		}
		return written + int(counted.Doubled.Load()-counted.Lost.Load()-counted.Unsent.Load())
	})
	r.Written, r.Records, r.Refused, r.Reasons = records.Written, records.Accepted, records.Refused, records.Outcomes
	for outcome, n := range records.Outcomes {
		switch strings.Fields(outcome)[1] {
		case "ambiguous":
			r.Ambiguous += n
		case "unmatched":
			r.Unmatched += n
		}
	}
	r.Relay = map[string]int{}
	for name, n := range map[string]*atomic.Int64{
		"lost": &counted.Lost, "doubled": &counted.Doubled, "late": &counted.Late, "reordered": &counted.Reordered,
		"stepped": &counted.Stepped, "paused": &counted.Paused, "unsent": &counted.Unsent,
	} {
		if n := n.Load(); n > 0 {
			r.Relay[name] = int(n)
		}
	}
	return err
}

// received returns how many requests the applications logged.
func received(l *lab.Lab, run *lab.Run) (total int, err error) {
	for _, pod := range l.Pods() {
		if pod.Gateway {
			continue
		}
		requests, err := app.ReadRequests(run.RequestLog(pod.Name))
		if err != nil {
			return 0, err
		}
		total += len(requests)
	}
	return total, nil
}
