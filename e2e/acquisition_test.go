// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"math"
	"testing"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/measure"
)

// acquire runs a setup under load and checks the ground truth against itself:
// every request was answered, and what the Envoys say they sent is what the
// applications say they got.
func acquire(t *testing.T, setup lab.Setup, requests int) measure.Outcome {
	t.Helper()
	out, err := measure.Acquisition(interrupted, theLab(t), setup, lab.Load{
		Requests: requests,
		Progress: func(done int) {
			if done%1000 < 300 {
				report("%s: %d of %d", setup.Name, done, requests)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	report("%s: %d front pages, %.0f per second", setup.Name, requests, out.Load.PerSecond())
	for _, hop := range out.Hops {
		if hop.Status != 200 {
			t.Fatalf("%s -> %s: status %d", hop.From.Name, hop.To.Name, hop.Status)
		}
	}
	// Gateway to productpage, productpage to details and to reviews; two of
	// three reviews ask ratings, which may not come out even.
	least := 3*requests + requests*2/3
	if len(out.Hops) < least || len(out.Hops) > least+1 {
		t.Errorf("%d requests between pods, want %d or one more", len(out.Hops), least)
	}
	if err := measure.CheckReceived(out.Run, setup.Tracer, out.Hops); err != nil {
		t.Error(err)
	}
	return out
}

func exact(t *testing.T, points []measure.Acquired) {
	t.Helper()
	if len(points) != 10 {
		t.Fatalf("%d capture points, want 10", len(points))
	}
	for _, point := range points {
		t.Logf("%-40s %6d of %6d", point.Name, point.Acquired, point.Passed)
		if err := point.Exact(); err != nil {
			t.Error(err)
		}
	}
}

// With the trace headers in front every context is acquired at all ten capture
// points, each exchange once.
func TestReorderedAcquiresEveryContext(t *testing.T) {
	out := acquire(t, measure.Reordered(lab.Zipkin), *frontPages)
	exact(t, out.Points)
	inJaeger(t, out.Hops, lab.Zipkin)
}

// Stock order and the first 1,024 bytes: the paper's Fig. 4.
func TestStockOrderMissesWhatTheGatewaySends(t *testing.T) {
	want := map[string]float64{
		"istio-ingressgateway_vethgateway": 0,
		"node2_eth0":                       0.4,
		"node4_eth0":                       2.0 / 3,
		"productpage_vethproductpage":      2.0 / 3,
	}
	out := acquire(t, measure.Stock(lab.Zipkin), 900)
	for _, point := range out.Points {
		rate, missing := want[point.Name]
		if !missing {
			rate = 1
		}
		t.Logf("%-40s %6.2f %%, paper %6.2f %%", point.Name, 100*point.Rate(), 100*rate)
		if math.Abs(point.Rate()-rate) > 0.01 {
			t.Errorf("%s: rate %.4f, want %.4f", point.Name, point.Rate(), rate)
		}
		if point.Doubled+point.Unknown+point.WrongEnds > 0 {
			t.Errorf("%s: %d doubled, %d unknown, %d with wrong ends",
				point.Name, point.Doubled, point.Unknown, point.WrongEnds)
		}
	}
}

// Stock order, but the agents search on: nothing is missed.
func TestStockOrderDeep(t *testing.T) {
	exact(t, acquire(t, measure.StockDeep(lab.Zipkin), 900).Points)
}

// The other tracer: traceparent in place of B3.
func TestReorderedOpenTelemetry(t *testing.T) {
	setup := measure.Reordered(lab.OpenTelemetry)
	setup.Name = "reordered-opentelemetry"
	out := acquire(t, setup, 900)
	exact(t, out.Points)
	inJaeger(t, out.Hops, lab.OpenTelemetry)
}
