// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"net/http"
	"slices"
	"testing"
	"time"
)

func TestSound(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		injected, client time.Duration // the baseline is 5 ms
		sound            bool
	}{
		{0, 5 * ms, true},
		{0, 3 * ms, true},
		{0, 7 * ms, false},
		{20 * ms, 29 * ms, true},
		{20 * ms, 31 * ms, false},
		{20 * ms, 21 * ms, true},
		{20 * ms, 19 * ms, false}, // less than the fault
	} {
		m := Injection{Injected: test.injected, Client: test.client, Baseline: 5 * ms}
		if m.Sound() != test.sound {
			t.Errorf("%v of %v: %v", test.injected, test.client, m.Sound())
		}
	}
}

func TestBaselineIsTheMedianOfTheLatest(t *testing.T) {
	var latest baseline
	if got := latest.median("a"); got != 0 {
		t.Errorf("%v of nothing", got)
	}
	for range 100 {
		latest.add("a", time.Hour)
	}
	latest.add("b", time.Minute)
	for i := range baselineSize {
		latest.add("a", time.Duration(i)*time.Second)
	}
	if got := latest.median("a"); got != baselineSize/2*time.Second {
		t.Errorf("%v", got)
	}
}

// answers is a transport that answers with these statuses in turn, then with 200.
type answers []int

func (a *answers) RoundTrip(*http.Request) (*http.Response, error) {
	status := http.StatusOK
	if len(*a) > 0 {
		status, *a = (*a)[0], (*a)[1:]
	}
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Body: http.NoBody}, nil
}

func TestPlainRepeatsRequestsThatFail(t *testing.T) {
	for _, row := range []struct {
		answers answers
		failed  int
		useless bool
	}{
		{answers: answers{}, failed: 0},
		{answers: answers{503, 200, 502, 504}, failed: 3},
		{answers: slices.Repeat(answers{502}, Attempts), failed: Attempts, useless: true},
	} {
		left := row.answers
		s := &Session{Load: &Load{}, Client: &Client{http: &http.Client{Transport: &left}}}
		err := s.Plain(t.Context(), Traffic{}, 2)
		if (err != nil) != row.useless || Useless(err) != row.useless || s.Failed != row.failed {
			t.Errorf("%v: %d requests failed, error %v", row.answers, s.Failed, err)
		}
	}
}
