// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/peer/ask"
	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/testrun"
	"github.com/layertrace/layertrace/internal/observe"
)

var interrupted context.Context // ends on Ctrl-C

func TestMain(m *testing.M) {
	testrun.Main(m, &interrupted, func() error { return nil })
}

// up returns a testbed that is taken down after the test.
func up(t *testing.T, options Options) *Testbed {
	t.Helper()
	testrun.Needs(t, "the testbed")
	tools, err := provision.Tools(interrupted, testrun.Report)
	if err != nil {
		t.Fatal(err)
	}
	options.Name, options.Dir = "testlive", testrun.Out(t, "test-live")
	options.Tools, options.Progress = tools, testrun.Report
	testbed, err := Up(interrupted, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := testbed.Down(); err != nil {
			t.Error(err)
		}
	})
	return testbed
}

// The cases of no more than three seconds. All of them are `make live-cases`.
func TestExplainAgreesWithTheClient(t *testing.T) {
	checkCases(t, up(t, Options{ClientAddresses: 1, Export: "otlp-grpc"}), 3, slices.DeleteFunc(Cases(false), func(c Case) bool {
		return c.Outage > 0 || c.ReadAfter > time.Second || c.Name == "4 events, each after 2.5 s"
	}))
}

// A response that pauses, and readers, over sidecars with mutual TLS. All of the cases are
// `make live-cases VARIANT=mtls`.
func TestExplainAgreesWithTheClientOverTLS(t *testing.T) {
	testbed := up(t, Options{ClientAddresses: 1, Export: "otlp-grpc", TLS: &lab.TLS{Version: lab.TLS13}})
	checkCases(t, testbed, 3, slices.DeleteFunc(Cases(true), func(c Case) bool {
		return c.Outage > 0 || c.Body > 0 || c.ReadAfter > 0 && c.ReadAfter != time.Second || c.Name == "4 events, each after 2.5 s"
	}))
}

func checkCases(t *testing.T, testbed *Testbed, want int, short []Case) {
	t.Helper()
	results, err := testbed.Check(interrupted, short)
	if err != nil {
		t.Fatal(err)
	}
	if len(short) != want || len(results) != len(short) {
		t.Errorf("%d results of %d cases, want %d", len(results), len(short), want)
	}
	known := 0
	for _, r := range results {
		if !r.NotKnown {
			known++
		}
		for _, problem := range r.Problems {
			t.Errorf("%s: %s, with confidence %s, %v by the client's clock\n%s", r.Name, problem, r.Verdict.Confidence, r.Client, r.Text)
		}
	}
	if known == 0 {
		t.Error("no verdict is known")
	}
}

// Responses that never end, more than the agent has room for: each that it gives up is
// counted and marked, and requests beside them are seen as ever. An exchange has four
// capture points here, two of them sockets. `make open-exchanges` has 100,000 responses
// and ten minutes.
func TestOpenExchanges(t *testing.T) {
	testbed := up(t, Options{ClientAddresses: 2, Export: "stdout", AgentFlags: []string{"--max-connections=8192"}})
	r, err := testbed.Open(interrupted, OpenOptions{Connections: 5000, Rate: 400, Duration: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	r.Write(os.Stderr)
	for _, problem := range r.Problems() {
		t.Error(problem)
	}
	if r.EvictedCounted == 0 {
		t.Error("nothing was evicted")
	}
}

func TestCountRecords(t *testing.T) {
	const records = `{"trace_id":"a","request":{"first_ns":1000000},"response":{"last_ns":22000000,"status":200},"flags":[],"interface_name":"vethclient"}
{"trace_id":"a","request":{"first_ns":1100000},"response":{"last_ns":21900000,"status":200},"flags":["idle"],"interface_name":"vethserver"}
{"trace_id":"a","request":{"first_ns":1200000},"response":{"last_ns":21800000,"status":200},"flags":[],"interface_name":""}
{"trace_id":"b","request":{"first_ns":1000000},"response":{"last_ns":24000000,"status":200},"flags":[],"interface_name":"vethclient"}
{"trace_id":"c","request":{"first_ns":1000000},"response":{"last_ns":2000000,"status":200},"flags":["evicted"],"interface_name":"vethclient"}
{"trace_id":"d","request":{"first_ns":1000000},"response":{"last_ns":2000000,"status":200},"flags":["still_open"],"interface_name":"vethclient"}
`
	r := OpenReport{Connections: 4}
	err := r.count(strings.NewReader(records), []ask.Event{
		{TraceID: "a"}, {TraceID: "a", Took: 22 * time.Millisecond}, {TraceID: "b", Took: 22 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	// Right: a at vethclient. Wrong: a at vethserver (idle) and b at vethclient (longer
	// than by the client's clock). Missing: b at vethserver. No record: two of four.
	if r.Ordinary != 2 || r.OrdinaryWrong != 2 || r.OrdinaryMissing != 1 || r.EvictedRecords != 1 || r.StillOpenTraces != 1 || r.Unseen != 2 {
		t.Errorf("%+v", r)
	}
}

// A record may be missing if the agent says so.
func TestProblemsOfLostRecords(t *testing.T) {
	for lost, problems := range []int{2, 1, 0} {
		r := OpenReport{EvictedCounted: 10, EvictedRecords: 8, Ordinary: 1, OrdinaryMissing: 1, Lost: lost}
		if got := r.Problems(); len(got) != problems {
			t.Errorf("%d lost: %q, want %d problems", lost, got, problems)
		}
	}
}

func TestJudge(t *testing.T) {
	r := Result{Case: reader("", 1, time.Second, bulkPath), Client: time.Second, Total: 980 * time.Millisecond}
	r.Verdict.Layer, r.Verdict.Location = observe.ProtocolStack, "client"
	if r.judge(); len(r.Problems) > 0 {
		t.Errorf("%v", r.Problems)
	}
	r.Total, r.Verdict.Location = 979*time.Millisecond, "server"
	if r.judge(); len(r.Problems) != 2 {
		t.Errorf("%v", r.Problems)
	}
	for confidence, problems := range map[string]int{"low": 0, "medium": 1, "high": 1} {
		r := Result{Case: r.Case, Client: time.Second, Total: time.Second}
		r.MayBeUnknown = true
		r.Verdict.Layer, r.Verdict.Location, r.Verdict.Confidence = observe.RelayNetwork, "a-b", confidence
		if r.judge(); len(r.Problems) != problems || r.NotKnown != (problems == 0) {
			t.Errorf("%s: %v, not known: %v", confidence, r.Problems, r.NotKnown)
		}
	}
}
