// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// One response holds all others for 200 ms. A client that waits for it would measure one
// slow request; one that sends at its rate measures all that came meanwhile.
func TestOpenLoopMeasuresEveryRequestThatAStallDelays(t *testing.T) {
	const stall, rate = 200 * time.Millisecond, 100
	var mu sync.Mutex
	var arrived atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		first := arrived.Add(1) == 11
		mu.Lock()
		defer mu.Unlock()
		if first {
			time.Sleep(stall) // the stall itself
		}
	}))
	defer server.Close()
	result, err := SendOpenLoop(context.Background(), OpenLoop{URL: server.URL, Requests: 60, Rate: rate})
	if err != nil {
		t.Fatal(err)
	}
	if arrived.Load() != 60 {
		t.Fatalf("%d requests arrived, want 60", arrived.Load())
	}
	// Request 10 is stalled for 200 ms; those due every 10 ms after it by 10 ms less
	// each.
	slow := 0
	for _, latency := range result.Latencies {
		if latency >= stall/2 {
			slow++
		}
	}
	if slow < 10 {
		t.Errorf("%d requests took %v or more, want at least the 10 that were due in its first half", slow, stall/2)
	}
	for i, late := range result.Late {
		if late < 0 || late > result.Latencies[i] {
			t.Errorf("request %d was sent %v late, its latency is %v", i, late, result.Latencies[i])
		}
	}
}

func TestOpenLoopKeepsTheRate(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	start := time.Now()
	if _, err := SendOpenLoop(context.Background(), OpenLoop{URL: server.URL, Requests: 31, Rate: 100}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 300*time.Millisecond {
		t.Errorf("31 requests, 10 ms apart, took %v", took)
	}
}

func TestOpenLoopReportsWhatWentWrong(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	if _, err := SendOpenLoop(context.Background(), OpenLoop{URL: server.URL, Requests: 5, Rate: 1000}); err == nil {
		t.Error("no error for status 404")
	}
	if _, err := SendOpenLoop(context.Background(), OpenLoop{URL: server.URL, Requests: 5}); err == nil {
		t.Error("no error without a rate")
	}
	ended, end := context.WithCancel(context.Background())
	end()
	if _, err := SendOpenLoop(ended, OpenLoop{URL: server.URL, Requests: 5, Rate: 1000}); err == nil {
		t.Error("no error after the end of the context")
	}
}
