// SPDX-License-Identifier: Apache-2.0

package mtls

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/lab/app"
	"github.com/layertrace/layertrace/e2e/measure"
	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/testrun"
)

var interrupted context.Context // ends on Ctrl-C

var theLab *lab.Lab

func TestMain(m *testing.M) {
	testrun.Main(m, &interrupted, func() error {
		if theLab == nil {
			return nil
		}
		return theLab.Down()
	})
}

func sharedLab(t *testing.T) *lab.Lab {
	t.Helper()
	testrun.Needs(t, "the lab")
	if theLab == nil {
		tools, err := provision.Tools(interrupted, testrun.Report)
		if err != nil {
			t.Fatal(err)
		}
		theLab, err = lab.Up(interrupted, lab.Options{Name: "mtlstest", Dir: testrun.Out(t, "mtls-test-lab"), Tools: tools, Progress: testrun.Report})
		if err != nil {
			t.Fatal(err)
		}
	}
	return theLab
}

// What tshark decrypts is what the applications received: the same number of requests for
// each service and trace, and the same spans where the receiving Envoy leaves them alone.
func TestTruthIsWhatApplicationsReceived(t *testing.T) {
	l := sharedLab(t)
	for _, test := range []struct {
		name   string
		tracer lab.Tracer
		tls    lab.TLS
		rough  bool
	}{
		{"truth13", lab.Zipkin, lab.TLS{Version: lab.TLS13}, false},
		{"truth12chain", lab.OpenTelemetry, lab.TLS{Version: lab.TLS12, Chain: true}, true},
	} {
		setup := lab.Setup{Name: test.name, Tracer: test.tracer, TLS: &test.tls, Rough: test.rough, NoAgents: true}
		run, err := l.Start(interrupted, setup)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(testrun.Out(t, "mtls-test-lab"), test.name)
		captures, err := Capture(interrupted, l, func(name string) string { return dir + "-" + name })
		if err != nil {
			t.Fatal(err)
		}
		if test.rough {
			result, err := Rough{Requests: 300, Parallel: 16, Seed: 1}.Send(interrupted, l)
			t.Logf("rough: %+v", result)
			if err != nil {
				t.Fatal(err)
			}
		} else if _, err := l.Send(interrupted, lab.Load{Requests: 100, Connections: 16}); err != nil {
			t.Fatal(err)
		}
		if err := run.Drain(interrupted); err != nil {
			t.Error(err)
		}
		if err := captures.Stop(interrupted); err != nil {
			t.Fatal(err)
		}
		if err := run.Stop(); err != nil {
			t.Fatal(err)
		}
		truth, err := captures.Truth(interrupted, run)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d attempts, %d records not decrypted", test.name, len(truth.Attempts), truth.Unread)
		sent := map[string]int{}
		for i := range truth.Attempts {
			a := &truth.Attempts[i]
			sent[key(a.To.Name, a.TraceID, a.SpanID, test.tracer)]++
			for _, point := range lab.Path(a.From, a.To) {
				at := truth.At(a, point)
				if at.RequestFirst == 0 || at.RequestLast < at.RequestFirst || a.Status == 200 && (at.ResponseFirst <= at.RequestFirst || at.ResponseLast < at.ResponseFirst) {
					t.Errorf("%s of %+v at %s: times %+v", test.name, a, point.Name, at)
				}
			}
		}
		received := 0
		for _, pod := range l.Pods() {
			if pod.Gateway {
				continue
			}
			requests, err := app.ReadRequests(run.RequestLog(pod.Name))
			if err != nil {
				t.Fatal(err)
			}
			received += len(requests)
			for _, r := range requests {
				sent[key(pod.Name, r.TraceID, r.SpanID, test.tracer)]--
			}
		}
		if received != len(truth.Attempts) {
			t.Errorf("%s: %d requests received, %d in the truth", test.name, received, len(truth.Attempts))
		}
		for k, n := range sent {
			if n != 0 {
				t.Errorf("%s: %s: %+d in the truth", test.name, k, n)
			}
		}
		if !test.rough {
			if hops, err := measure.Hops(run); err != nil || len(hops) != len(truth.Attempts) {
				t.Errorf("%s: %d requests in access logs, %d in the truth, %v", test.name, len(hops), len(truth.Attempts), err)
			}
		}
	}
}

func key(pod, trace, span string, tracer lab.Tracer) string {
	if tracer != lab.Zipkin {
		span = ""
	}
	return strings.Join([]string{pod, trace, span}, " ")
}

// A short form of `make mtls`: nothing wrong, and nearly all attempts joined at all points,
// with a lower bar for the rough mix. Without records, those that the plain text in the pods
// leads to are marked, and no verdict on them has high confidence.
func TestEncryptedAttemptsAreJoined(t *testing.T) {
	l := sharedLab(t)
	for _, c := range Cases(150, 150, 1) {
		switch c.Name {
		case "front-page-tls13", "rough-tls12":
			c.Parallel = 16
			c.Joined = 0.99 // so few attempts can miss 0.999 by chance
			if c.Rough {
				c.Joined = 0.97
			}
		case "inferred":
			c.Parallel, c.Joined = 2, 0.2
		default:
			continue
		}
		r, err := Run(interrupted, l, c, testrun.Out(t, "mtls-test-lab"), testrun.Report)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Check(&r); err != nil {
			t.Error(err)
		}
		t.Logf("%s: %d attempts, %d exact, %d by time, %d inferred, %d missing; %v; %+v", c.Name, r.Decrypted, r.Exact, r.Time, r.Inferred, r.Missing, r.Reasons, r.Explained)
	}
}
