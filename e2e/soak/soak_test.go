// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"strings"
	"testing"
	"time"
)

// A leak is found in noise; noise, what fills up at the beginning, and a few more of something
// are none.
func TestFiguresFindLeaks(t *testing.T) {
	const n, mib = 600, 1 << 20
	var samples []sample
	for i := range n {
		noise := float64(i*7919%101) / 100
		filled := min(float64(i)/(0.1*n), 1)
		samples = append(samples, sample{at: float64(i), values: map[string]float64{
			"RSS bytes": (60 + 20*filled + noise) * mib, "file descriptors": 40 + noise, "goroutines": 20 + 3*float64(i)/n,
			"leaked bytes": (60+30*float64(i)/n)*mib + noise*mib, "entries of leak": 100 + float64(i), "spans exported": float64(i),
		}})
	}
	grows := map[string]bool{"RSS bytes": false, "file descriptors": false, "goroutines": false, "leaked bytes": true, "entries of leak": true}
	report := Report{Requests: 1, Spans: 1, Figures: figures(samples)}
	if len(report.Figures) != len(grows) {
		t.Errorf("%d figures, want %d", len(report.Figures), len(grows))
	}
	for _, f := range report.Figures {
		if want, known := grows[f.Name]; !known || f.Grows != want {
			t.Errorf("%+v, want grows %t", f, want)
		}
		if f.Name == "entries of leak" && (f.Low > 3600 || f.High < 3600 || f.Last < f.First+400) {
			t.Errorf("%+v, want 3600 an hour", f)
		}
	}
	err := report.Healthy()
	if err == nil || strings.Count(err.Error(), "grows by") != 2 {
		t.Errorf("%v, want the two that grow", err)
	}
}

func TestReportOfFailures(t *testing.T) {
	for _, r := range []Report{{Requests: 10, Spans: 1, Failed: 1}, {Requests: 10}} {
		if r.Healthy() == nil {
			t.Errorf("%+v is healthy", r)
		}
	}
	if err := (&Report{Requests: 10, Spans: 1}).Healthy(); err != nil {
		t.Error(err)
	}
}

// Jaeger and the API server are never away at the same time, and both come back in time.
func TestOutages(t *testing.T) {
	for _, d := range []time.Duration{time.Minute, 4 * time.Minute, 2 * time.Hour} {
		every, away := (&Options{For: d}).outages()
		if every/2 <= away || every > d {
			t.Errorf("%v: %v away every %v", d, away, every)
		}
	}
}
