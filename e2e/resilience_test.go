// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/measure"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

const victim = 3 // the node whose agent is killed

// A killed agent harms no request. A new one acquires every context again, including
// on existing connections, reports nothing twice, and leaves nothing in the kernel.
func TestKilledAgentIsReplaced(t *testing.T) {
	l := theLab(t)
	setup := measure.Reordered(lab.Zipkin)
	setup.Name = "agent-killed"
	run := start(t, l, setup)

	const before, after = 400, 200
	kill := sync.OnceValue(func() error { return run.KillAgent(victim) })
	send(t, l, lab.Load{Requests: before, Rate: 100, Progress: func(done int) {
		if done > before/4 {
			if err := kill(); err != nil {
				t.Error(err)
			}
		}
	}})
	if err := kill(); err != nil {
		t.Fatal(err)
	}
	if n := attached(t, l, victim); n != 0 {
		t.Errorf("%d programs at %s of a killed agent", n, lab.PNIC)
	}
	if err := run.StartAgent(interrupted, victim); err != nil {
		t.Fatal(err)
	}
	if n := attached(t, l, victim); n != 2 {
		t.Errorf("%d programs at %s of the new agent, want one for each direction", n, lab.PNIC)
	}
	send(t, l, lab.Load{Requests: after})
	hops := stop(t, run)
	if n := attached(t, l, victim); n != 0 {
		t.Errorf("%d programs at %s of a stopped agent", n, lab.PNIC)
	}

	all, err := measure.Compare(l, run, hops)
	if err != nil {
		t.Fatal(err)
	}
	for _, point := range all {
		if point.Node != lab.NodeName(victim) {
			if err := point.Exact(); err != nil {
				t.Error(err)
			}
		} else if point.Doubled+point.Unknown+point.WrongEnds > 0 {
			t.Error(point.Exact())
		}
	}
	later, err := measure.Compare(l, run, since(t, hops, before))
	if err != nil {
		t.Fatal(err)
	}
	for _, point := range later {
		t.Logf("%-40s %6d of %6d since the new agent", point.Name, point.Acquired, point.Passed)
		if point.Acquired != point.Passed || point.Passed == 0 {
			t.Errorf("%s: %d of %d acquired by the new agent", point.Name, point.Acquired, point.Passed)
		}
	}
}

// While Jaeger is down the agents keep running, and deliver the buffered spans when it
// is back.
func TestAgentsOutliveJaeger(t *testing.T) {
	l := theLab(t)
	setup := measure.Reordered(lab.OpenTelemetry)
	setup.Name = "jaeger-down"
	run := start(t, l, setup)

	const before, during, after = 60, 90, 60
	send(t, l, lab.Load{Requests: before})
	if err := l.StopJaeger(); err != nil {
		t.Fatal(err)
	}
	send(t, l, lab.Load{Requests: during})
	if err := l.StartJaeger(interrupted); err != nil {
		t.Fatal(err)
	}
	send(t, l, lab.Load{Requests: after})
	hops := stop(t, run)

	points, err := measure.Compare(l, run, hops)
	if err != nil {
		t.Fatal(err)
	}
	exact(t, points)
	for _, skip := range []int{before, before + during} {
		trace := measure.TraceOf(hops, since(t, hops, skip)[0].TraceID)
		// Envoys drop spans that they cannot deliver; agents do not.
		want := 0
		for _, n := range trace.InterfaceSpans() {
			want += n
		}
		if _, err := l.Jaeger.CompleteTrace(interrupted, trace.ID(), want, 30*time.Second); err != nil {
			t.Error(err)
		}
	}
}

// An unresponsive Jaeger fills the queue. The agents count the spans that do not fit,
// and capture and traffic continue.
func TestSlowJaeger(t *testing.T) {
	l := theLab(t)
	setup := measure.Reordered(lab.OpenTelemetry)
	setup.Name = "jaeger-slow"
	setup.AgentFlags = append(setup.AgentFlags, "--queue-size=64")
	run := start(t, l, setup)

	if err := l.PauseJaeger(); err != nil {
		t.Fatal(err)
	}
	resumed := false
	resume := func() {
		if resumed {
			return
		}
		resumed = true
		if err := l.ResumeJaeger(); err != nil {
			t.Error(err)
		}
	}
	defer resume()
	const slow, after = 150, 30
	send(t, l, lab.Load{Requests: slow})
	err := sandbox.Await(interrupted, "the agent's drops", 30*time.Second, 200*time.Millisecond, func(ctx context.Context) error {
		return accounted(ctx, l, 4)
	})
	if err != nil {
		t.Error(err)
	}
	resume()
	send(t, l, lab.Load{Requests: after})
	points, err := measure.Compare(l, run, stop(t, run))
	if err != nil {
		t.Fatal(err)
	}
	exact(t, points)
}

// accounted returns nil when a node's agent has dropped spans, has no more queued than
// the queue holds, and has lost none uncounted.
func accounted(ctx context.Context, l *lab.Lab, node int) error {
	m, err := l.AgentMetrics(ctx, node)
	if err != nil {
		return err
	}
	accepted, queued, dropped := m["layertrace_spans_accepted_total"], m["layertrace_spans_queued"], 0.0
	for name, value := range m {
		if strings.HasPrefix(name, "layertrace_spans_dropped_total{") {
			dropped += value
		}
	}
	gone := m["layertrace_spans_exported_total"] + m["layertrace_spans_failed_total"] + dropped
	switch {
	case dropped == 0:
		return fmt.Errorf("nothing dropped yet of %v spans", accepted)
	case queued > 64:
		return fmt.Errorf("%v spans queued, the queue holds 64", queued)
	case accepted != gone+queued:
		return fmt.Errorf("%v spans accepted, but %v sent or dropped and %v queued", accepted, gone, queued)
	}
	return nil
}

// start starts the mesh, which the end of the test stops at the latest.
func start(t *testing.T, l *lab.Lab, setup lab.Setup) *lab.Run {
	t.Helper()
	run, err := l.Start(interrupted, setup)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := run.Stop(); err != nil {
			t.Error(err)
		}
	})
	return run
}

// stop stops the mesh and returns its hops.
func stop(t *testing.T, run *lab.Run) []measure.Hop {
	t.Helper()
	if err := run.Stop(); err != nil {
		t.Fatal(err)
	}
	hops, err := measure.Hops(run)
	if err != nil {
		t.Fatal(err)
	}
	return hops
}

func send(t *testing.T, l *lab.Lab, load lab.Load) {
	t.Helper()
	if _, err := l.Send(interrupted, load); err != nil {
		t.Fatal(err)
	}
}

// since returns the hops of all traces except those of the first skip requests at the
// gateway.
func since(t *testing.T, hops []measure.Hop, skip int) []measure.Hop {
	t.Helper()
	early := map[string]bool{}
	for _, hop := range hops {
		if hop.From.Gateway && len(early) < skip {
			early[hop.TraceID] = true
		}
	}
	var late []measure.Hop
	for _, hop := range hops {
		if !early[hop.TraceID] {
			late = append(late, hop)
		}
	}
	if len(late) == 0 {
		t.Fatalf("no request after the first %d", skip)
	}
	return late
}

// attached counts the TCX programs at a node's physical interface.
func attached(t *testing.T, l *lab.Lab, node int) (count int) {
	t.Helper()
	err := l.NodeNamespace(node).Do(func() error {
		nic, err := netlink.LinkByName(lab.PNIC)
		if err != nil {
			return err
		}
		for _, direction := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			result, err := link.QueryPrograms(link.QueryOptions{Target: nic.Attrs().Index, Attach: direction})
			if err != nil {
				return err
			}
			count += len(result.Programs)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return count
}
