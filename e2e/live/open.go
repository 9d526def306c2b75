// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/peer/ask"
	"github.com/layertrace/layertrace/e2e/sandbox"
	"github.com/layertrace/layertrace/internal/observe"
)

// OpenOptions configure a run with responses that never end.
type OpenOptions struct {
	// Connections is the number of such responses, each on a connection of its own,
	// Rate how many begin per second.
	Connections, Rate int
	// Duration is how long all of them stay open.
	Duration time.Duration
}

// perProcess is how many connections a peer keeps: a process may have 20,000 open files.
const perProcess = 15_000

// Ordinary requests are sent beside the open ones, one every ordinaryEvery. The server
// takes ordinaryWork for each.
const (
	ordinaryEvery = 50 * time.Millisecond
	ordinaryWork  = 20 * time.Millisecond
)

// evictedMetric counts the exchanges that the agent gave up to make room for others.
const evictedMetric = "layertrace_exchanges_evicted_total"

// reported is after how long an agent has reported open exchanges: --open-span-after is
// 30 s by default.
const reported = time.Minute

// OpenReport is the result of a run with responses that never end.
type OpenReport struct {
	Connections int `json:"connections"`
	// Duration is how long all of them stayed open.
	Duration time.Duration `json:"duration_ns"`
	// OpenedIn is how long it took to open them.
	OpenedIn time.Duration `json:"opened_in_ns"`
	// Resident is the agent's memory in bytes: when it was ready, when all responses
	// were open, at the end, and the peak. BPF is the memory of its maps and programs
	// when it was ready, and at the end.
	Resident struct {
		Ready uint64 `json:"ready"`
		Open  uint64 `json:"open"`
		End   uint64 `json:"end"`
		Peak  uint64 `json:"peak"`
	} `json:"resident"`
	BPF struct {
		Ready uint64 `json:"ready"`
		End   uint64 `json:"end"`
	} `json:"bpf"`
	// AgentCPU is the agent's CPU time.
	AgentCPU time.Duration `json:"agent_cpu_ns"`
	// EvictedCounted is by the agent's metric, EvictedRecords by its records.
	EvictedCounted int `json:"evicted_counted"`
	EvictedRecords int `json:"evicted_records"`
	// StillOpenTraces is the number of open responses with a record that is flagged
	// still_open. Refused is how many requests the agent could not store.
	StillOpenTraces int `json:"still_open_traces"`
	Refused         int `json:"refused"`
	// Lost is how many records the agent counted as lost on the way to user space or to
	// standard output: on a busy machine it may not read them in time.
	Lost int `json:"lost"`
	// Unseen is the number of open responses of which there is no record at all.
	Unseen int `json:"unseen"`
	// Ordinary is the number of ordinary requests, OrdinaryMissing how many of their
	// records at the two interfaces are missing, OrdinaryWrong how many have other
	// times than client and server, or a flag of an exchange that was cut.
	Ordinary        int      `json:"ordinary"`
	OrdinaryMissing int      `json:"ordinary_missing"`
	OrdinaryWrong   int      `json:"ordinary_wrong"`
	Examples        []string `json:"examples,omitempty"`
}

// Problems lists what is wrong; none if all is right.
func (r OpenReport) Problems() (problems []string) {
	check := func(wrong bool, format string, args ...any) {
		if wrong {
			problems = append(problems, fmt.Sprintf(format, args...))
		}
	}
	missing := r.EvictedCounted - r.EvictedRecords
	check(missing < 0 || missing > r.Lost, "%d evictions counted, %d records marked evicted, %d records counted as lost", r.EvictedCounted, r.EvictedRecords, r.Lost)
	check(r.Unseen > 0 && r.Refused+r.Lost == 0, "%d open responses without a record, and none counted as refused or lost", r.Unseen)
	check(r.Duration >= reported && r.StillOpenTraces == 0, "no open response was reported as still open in %v", r.Duration)
	check(r.Ordinary == 0, "no ordinary request")
	check(r.OrdinaryMissing > r.Lost, "%d records of ordinary requests are missing, %d records counted as lost", r.OrdinaryMissing, r.Lost)
	check(r.OrdinaryWrong > 0, "%d records of ordinary requests are wrong", r.OrdinaryWrong)
	check(r.BPF.End > r.BPF.Ready+r.BPF.Ready/10, "the BPF maps grew from %d to %d bytes", r.BPF.Ready, r.BPF.End)
	return problems
}

// Write writes the report as text.
func (r OpenReport) Write(out io.Writer) {
	const mib = 1 << 20
	fmt.Fprintf(out, `%d responses open after %.0f s.
Agent: %d MiB when ready, %d when all were open, %d at the end, %d at most; %.1f s of CPU.
BPF maps and programs: %d MiB when ready, %d at the end.
Evicted: %d counted, %d records. Refused: %d. Lost: %d. Still open: %d traces. No record: %d.
Ordinary requests: %d; of their records at two interfaces %d missing, %d wrong.
`, r.Connections, r.OpenedIn.Seconds(), r.Resident.Ready/mib, r.Resident.Open/mib, r.Resident.End/mib, r.Resident.Peak/mib, r.AgentCPU.Seconds(),
		r.BPF.Ready/mib, r.BPF.End/mib, r.EvictedCounted, r.EvictedRecords, r.Refused, r.Lost, r.StillOpenTraces, r.Unseen,
		r.Ordinary, r.OrdinaryMissing, r.OrdinaryWrong)
	for _, example := range r.Examples {
		fmt.Fprintln(out, "  "+example)
	}
}

// Open opens very many responses that never end, and sends ordinary requests meanwhile.
// The testbed's agent must export to standard output; it is stopped at the end.
func (t *Testbed) Open(ctx context.Context, o OpenOptions) (r OpenReport, err error) {
	r.Connections, r.Duration = o.Connections, o.Duration
	if r.Resident.Ready, r.BPF.Ready, err = t.memory(); err != nil {
		return r, err
	}
	ordinary, err := t.startOrdinary()
	if err != nil {
		return r, err
	}
	start := time.Now()
	if err := t.openAll(ctx, o); err != nil {
		return r, err
	}
	r.OpenedIn = time.Since(start)
	if r.Resident.Open, _, err = t.memory(); err != nil {
		return r, err
	}
	t.options.Progress("%d responses open after %.0f s, agent %d MiB", o.Connections, r.OpenedIn.Seconds(), r.Resident.Open>>20)
	if err := t.watch(ctx, o.Duration); err != nil {
		return r, err
	}
	if err := ordinary.Stop(10 * time.Second); err != nil {
		return r, err
	}
	if err := t.settle(ctx, &r); err != nil {
		return r, err
	}
	events, err := ask.ReadEvents(t.output(ordinary.Name()))
	if err != nil {
		return r, err
	}
	file, err := os.Open(t.output(t.agent.Name()))
	if err != nil {
		return r, err
	}
	defer file.Close()
	return r, r.count(file, events)
}

func (t *Testbed) startOrdinary() (*sandbox.Process, error) {
	plan, err := json.Marshal([]ask.Request{{Path: fmt.Sprintf("%s?wait_ms=%d", ask.Quick, ordinaryWork.Milliseconds())}})
	if err != nil {
		return nil, err
	}
	return t.start("ordinary", t.options.Tools.Peer, t.client, t.inner,
		"ask", "--server", serverAddr, "--plan", string(plan), "--every", ordinaryEvery.String())
}

// openAll opens the responses, with as many peers as that takes.
func (t *Testbed) openAll(ctx context.Context, o OpenOptions) error {
	var from []string
	for n := range t.options.ClientAddresses {
		from = append(from, clientAddress(n))
	}
	processes := (o.Connections + perProcess - 1) / perProcess
	var clients []*sandbox.Process
	for n, left := 0, o.Connections; left > 0; n, left = n+1, left-perProcess {
		address := fmt.Sprintf("%s:%d", serverIP, 9000+n)
		if err := t.startServer(ctx, fmt.Sprintf("endless-server-%d", n), address); err != nil {
			return err
		}
		client, err := t.start(fmt.Sprintf("endless-client-%d", n), t.options.Tools.Peer, t.client, t.inner,
			"hold", "--server", address, "--from", strings.Join(from, ","),
			"--connections", fmt.Sprint(min(left, perProcess)), "--rate", fmt.Sprint(max(o.Rate/processes, 1)))
		if err != nil {
			return err
		}
		clients = append(clients, client)
	}
	limit := time.Minute + 3*time.Duration(o.Connections)*time.Second/time.Duration(o.Rate)
	for _, c := range clients {
		err := sandbox.AwaitReady(ctx, c, limit, 50*time.Millisecond, func(context.Context) error {
			events, err := ask.ReadEvents(t.output(c.Name()))
			if err == nil && len(events) == 0 {
				err = errors.New("not all are open")
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// watch waits for the duration, and reports the agent's memory every half a minute.
func (t *Testbed) watch(ctx context.Context, duration time.Duration) error {
	end := time.NewTimer(duration)
	defer end.Stop()
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end.C:
			return t.agent.Running()
		case <-tick.C:
			resident, _, err := t.memory()
			if err != nil {
				return err
			}
			t.options.Progress("agent %d MiB", resident>>20)
		}
	}
}

// memory reads the agent's resident memory and that of its BPF maps.
func (t *Testbed) memory() (resident, bpf uint64, err error) {
	m, err := sandbox.ReadMemory(t.agent.PID())
	if err != nil {
		return 0, 0, err
	}
	bpf, err = sandbox.ReadBPFMemory(t.agent.PID())
	return m.Resident, bpf, err
}

// settle waits until the agent has counted as many evictions twice in a row, and has
// reported the last ordinary requests. It reads memory and metrics, and stops the agent.
func (t *Testbed) settle(ctx context.Context, r *OpenReport) error {
	const reportAfter = 4 * time.Second // the idle timeout of 2 s, and the sweep's interval twice
	last, since := -1, time.Now()
	err := sandbox.Await(ctx, "the agent to report what has ended", time.Minute, 200*time.Millisecond, func(ctx context.Context) error {
		metrics, err := t.Metrics(ctx)
		if err != nil {
			return err
		}
		r.EvictedCounted = int(sum(metrics, evictedMetric))
		r.Refused = int(sum(metrics, "layertrace_connections_map_full_total"))
		r.Lost = int(sum(metrics, "layertrace_exchanges_ring_full_total") + sum(metrics, "layertrace_spans_dropped_total"))
		if r.EvictedCounted != last {
			last, since = r.EvictedCounted, time.Now()
		}
		if time.Since(since) < reportAfter {
			return fmt.Errorf("%d evictions, and more may come", last)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if r.Resident.End, r.BPF.End, err = t.memory(); err != nil {
		return err
	}
	m, err := sandbox.ReadMemory(t.agent.PID())
	if err != nil {
		return err
	}
	r.Resident.Peak = m.Peak
	if r.AgentCPU, err = sandbox.ProcessCPU(t.agent.PID()); err != nil {
		return err
	}
	return t.agent.Stop(time.Minute)
}

// record is what is read of a record of the agent: a JSON line.
type record struct {
	TraceID string `json:"trace_id"`
	Request struct {
		First uint64 `json:"first_ns"`
	} `json:"request"`
	Response struct {
		Last   uint64 `json:"last_ns"`
		Status int    `json:"status"`
	} `json:"response"`
	Flags     []string `json:"flags"`
	Interface string   `json:"interface_name"`
}

// has reports whether the record has one of some flags.
func (r record) has(flags observe.Flags) bool {
	return slices.ContainsFunc(flags.Names(), func(name string) bool { return slices.Contains(r.Flags, name) })
}

// count reads the agent's records, and compares those of ordinary requests with what
// the client measured.
func (r *OpenReport) count(records io.Reader, events []ask.Event) error {
	took := map[string]time.Duration{}
	for _, e := range events {
		if e.Took > 0 {
			took[e.TraceID] = e.Took
		}
	}
	r.Ordinary = len(took)
	type place struct{ trace, point string }
	right := map[place]bool{}
	openTraces, stillOpen := map[string]bool{}, map[string]bool{}
	lines := bufio.NewScanner(records)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var x record
		if err := json.Unmarshal(lines.Bytes(), &x); err != nil {
			return fmt.Errorf("read a record of the agent: %w", err)
		}
		if x.has(observe.FlagEvicted) {
			r.EvictedRecords++
		}
		client, isOrdinary := took[x.TraceID]
		if !isOrdinary {
			openTraces[x.TraceID] = true
			if x.has(observe.FlagStillOpen) {
				stillOpen[x.TraceID] = true
			}
			continue
		}
		if !strings.HasPrefix(x.Interface, "veth") {
			continue // a socket, whose times are those inside of the interfaces'
		}
		duration := time.Duration(x.Response.Last - x.Request.First)
		if x.Response.Status != 200 || x.has(observe.Cut) || duration < ordinaryWork || duration > client {
			r.OrdinaryWrong++
			if len(r.Examples) < 5 {
				r.Examples = append(r.Examples, fmt.Sprintf("%s at %s: %v, client %v, status %d, flags %v",
					x.TraceID, x.Interface, duration, client, x.Response.Status, x.Flags))
			}
			continue
		}
		right[place{x.TraceID, x.Interface}] = true
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the records of the agent: %w", err)
	}
	r.StillOpenTraces = len(stillOpen)
	r.Unseen = max(r.Connections-len(openTraces), 0)
	r.OrdinaryMissing = max(2*r.Ordinary-len(right)-r.OrdinaryWrong, 0)
	return nil
}
