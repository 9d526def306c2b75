// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/tracestore"
)

// oddValues are what spoiled stores, other senders and clocks off by hours make of an
// attribute.
var oddValues = []any{
	0, -1, 1, 1e9, 3.6e12, -3.6e12, 1 << 53, -(1 << 53), 1e30, "", "0", "-1", "NaN", "18446744073709551615", "9223372036854775807",
	"-9223372036854775808", "00000000000000000000000000000000", "a\x1b[31m\n", strings.Repeat("9", 400), nil, true, []any{},
}

// spoilJSON replaces, removes or repeats a few values anywhere below the spans.
func spoilJSON(r *rand.Rand, spans []any) []any {
	for range 1 + r.IntN(4) {
		i := r.IntN(len(spans))
		s := spans[i].(map[string]any)
		tags, _ := s["tags"].([]any)
		switch r.IntN(6) {
		case 0:
			spans = append(spans, s)
		case 1:
			if len(spans) > 1 {
				spans = append(spans[:i:i], spans[i+1:]...)
			}
		case 2:
			key := []string{"startTime", "duration", "operationName", "processID", "spanID", "references"}[r.IntN(6)]
			s[key] = oddValues[r.IntN(len(oddValues))]
		default:
			if len(tags) > 0 {
				tag := tags[r.IntN(len(tags))].(map[string]any)
				if value, ok := tag["value"].(float64); ok && r.IntN(2) == 0 {
					tag["value"] = value + []float64{3.6e12, -3.6e12, 1e6, -1e6, 1}[r.IntN(5)]
				} else {
					tag["value"] = oddValues[r.IntN(len(oddValues))]
				}
			}
		}
	}
	return spans
}

// Whatever is stored, the numbers of a report belong together in all its forms.
func TestAnyStoredTrace(t *testing.T) {
	content, err := os.ReadFile("testdata/envoy-relay-delay.json")
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(16, 16))
	whole := envoyTrace(t)
	var baseline []tracestore.Trace
	for id := range byte(12) {
		copied := whole
		copied.ID = trace.TraceID{0xb0, id}
		baseline = append(baseline, copied)
	}
	times := timesOf(baseline, newMeasuredTrace)
	const rounds = 120
	explained := 0
	for range rounds {
		var file map[string]any
		if err := json.Unmarshal(content, &file); err != nil {
			t.Fatal(err)
		}
		data := file["data"].([]any)[0].(map[string]any)
		data["spans"] = spoilJSON(r, data["spans"].([]any))
		spoiled, err := json.Marshal(file)
		if err != nil {
			t.Fatal(err)
		}
		one, err := tracestore.NewReader("spoiled", bytes.NewReader(spoiled)).Trace(context.Background(), whole.ID)
		if err != nil {
			continue
		}
		explained++
		report := times.explain(one)
		checkReport(t, &report)
		if v := report.Verdict; v.Excess > report.Total-min(report.Unattributed, 0) || v.Share < 0 || v.Share > 1 || report.Total < 0 {
			t.Errorf("excess %d, share %v of %d ns", v.Excess, v.Share, report.Total)
		}
		group := compareAnew([]tracestore.Trace{one}, baseline)
		if group.Verdict.Text != report.Verdict.Text || group.Verdict.Confidence != report.Verdict.Confidence || group.Unattributed != report.Unattributed {
			t.Errorf("the group of one: %s %s %d; the one: %s %s %d", group.Verdict.Confidence, group.Verdict.Text, group.Unattributed,
				report.Verdict.Confidence, report.Verdict.Text, report.Unattributed)
		}
		f := formsOfReport(t, &report)
		if report.Total > 0 && report.Total < 1e12 {
			f.check(t)
		}
		if t.Failed() {
			t.Logf("%s", f.text)
			t.Logf("%s", spoiled)
			t.FailNow()
		}
	}
	if explained < rounds/2 {
		t.Errorf("only %d traces could be read", explained)
	}
}
