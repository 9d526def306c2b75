// SPDX-License-Identifier: Apache-2.0

package logcost

import (
	"math"
	"slices"
	"testing"
)

// The manifests have the parts that are measured, and both forms have a record at each
// side of a request.
func TestVariants(t *testing.T) {
	all, err := variants()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range all {
		if slices.Contains(names, v.Name) {
			t.Errorf("two variants are named %s", v.Name)
		}
		names = append(names, v.Name)
		client, server := len(v.Client.Logs)+len(v.Client.AttemptLogs), len(v.Server.Logs)
		if v.Records > client+server {
			t.Errorf("%s has %d records and %d logs", v.Name, v.Records, client+server)
		}
	}
	if want := []string{None, NoneAgain, EnvoyFilter, Telemetry}; !slices.Equal(names[:4], want) {
		t.Errorf("the variants begin with %q, want %q", names[:4], want)
	}
	filter := all[2]
	if len(filter.Server.Filters) != 1 || len(filter.Client.AttemptLogs) != 1 || filter.Records != 2 {
		t.Errorf("envoyfilter: %+v", filter)
	}
	bare := withoutFields(filter, "bare")
	if has := func(v Variant) bool { return v.Server.Logs[0]["typed_config"].(object)["attributes"] != nil }; has(bare) || !has(filter) {
		t.Error("a variant without attributes changed the one that it was made of, or has some")
	}
}

// Samples are compared with those of the same round: what both have in common is no
// difference.
func TestCompare(t *testing.T) {
	var none, more []sample
	for i := range 21 {
		drift := float64(i * i)
		none = append(none, sample{client: 100 + drift})
		more = append(more, sample{client: 105 + drift + float64(i%3-1)})
	}
	got := compare(more, none, func(s sample) float64 { return s.client })
	if got.More.Median != 5 || got.More.Low < 4 || got.More.High > 6 || got.More.Low > 5 || got.More.High < 5 {
		t.Errorf("5 more, ±1, is measured as %+v", got.More)
	}
	if got.Micros != 205 {
		t.Errorf("the median is %v, want that of the samples, 205", got.Micros)
	}
	if r := got.Ratio; r.Low > r.Median || r.High < r.Median || math.Abs(r.Median-1.025) > 0.02 {
		t.Errorf("ratio %+v", r)
	}
}
