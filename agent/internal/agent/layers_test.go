// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/layertrace/layertrace/agent/internal/breakdown/breakdowntest"
	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/agent/internal/status"
	"github.com/layertrace/layertrace/internal/observe"
)

// split returns how long the layers' spans of a page are that an agent makes.
func split(t *testing.T, shortest time.Duration) (took []time.Duration, brief float64) {
	t.Helper()
	recorder := tracetest.NewSpanRecorder()
	emitter := span.NewEmitter(span.Options{Processor: recorder, Offset: func() span.ClockOffset { return 0 }, Version: "v1"})
	world := breakdowntest.New()
	world.FrontPage()
	node := world.All[0].Point.Node
	l := newLayers(&config.Config{LayerMinDuration: shortest}, naming{node: node}, emitter, status.NewLayerTimes())
	var own []observe.Observation
	for _, s := range world.All {
		if s.Point.Node == node {
			own = append(own, s)
		}
	}
	l.split(own)
	for _, s := range recorder.Ended() {
		took = append(took, s.EndTime().Sub(s.StartTime()))
	}
	samples, err := l.samples()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range samples {
		if s.Name == "layer_spans_below_minimum" {
			brief = s.Value
		}
	}
	return took, brief
}

func TestLayerMinDuration(t *testing.T) {
	all, brief := split(t, 0)
	if len(all) == 0 || brief != 0 {
		t.Fatalf("%d spans and %v brief without a limit", len(all), brief)
	}
	shortest := slices.Max(all)
	var want int
	for _, took := range all {
		if took >= shortest {
			want++
		}
	}
	got, brief := split(t, shortest)
	if len(got) != want || want == len(all) || want == 0 || brief != float64(len(all)-want) {
		t.Errorf("%v: %d spans and %v brief of %v, want %d spans", shortest, len(got), brief, all, want)
	}
	for _, took := range got {
		if took < shortest {
			t.Errorf("a span of %v", took)
		}
	}
}
