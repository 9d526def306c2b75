// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"slices"
	"testing"
	"time"

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
	short := slices.DeleteFunc(slices.Clone(Cases), func(c Case) bool {
		return c.Outage > 0 || c.ReadAfter > time.Second || c.Name == "4 events, each after 2.5 s"
	})
	results, err := up(t, Options{ClientAddresses: 1, Export: "otlp-grpc"}).Check(interrupted, short)
	if err != nil {
		t.Fatal(err)
	}
	if len(short) != 3 || len(results) != len(short) {
		t.Errorf("%d results of %d cases", len(results), len(short))
	}
	for _, r := range results {
		for _, problem := range r.Problems {
			t.Errorf("%s: %s, with confidence %s, %v by the client's clock\n%s", r.Name, problem, r.Verdict.Confidence, r.Client, r.Text)
		}
	}
}

func TestJudge(t *testing.T) {
	r := Result{Case: reader("", 1, time.Second), Client: time.Second, Total: 980 * time.Millisecond}
	r.Verdict.Layer, r.Verdict.Location = observe.ProtocolStack, "client"
	if r.judge(); len(r.Problems) > 0 {
		t.Errorf("%v", r.Problems)
	}
	r.Total, r.Verdict.Location = 979*time.Millisecond, "server"
	if r.judge(); len(r.Problems) != 2 {
		t.Errorf("%v", r.Problems)
	}
}
