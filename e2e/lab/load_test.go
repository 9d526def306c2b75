// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

func TestSendSendsEachRequestOnceOverFewConnections(t *testing.T) {
	var requests, connections atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	result, err := SendLoad(context.Background(), Load{URL: server.URL, Requests: 500, Connections: 3})
	if err != nil {
		t.Fatal(err)
	}
	if requests.Load() != 500 || len(result.Latencies) != 500 {
		t.Errorf("%d requests arrived, %d latencies; want 500", requests.Load(), len(result.Latencies))
	}
	if connections.Load() > 3 {
		t.Errorf("%d connections, want at most 3", connections.Load())
	}
	if result.Quantile(0.5) > result.Quantile(0.99) || result.Quantile(1) != result.Latencies[499] {
		t.Error("quantiles are not in order")
	}
}

func TestSendKeepsTheRate(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
	}))
	defer server.Close()
	result, err := SendLoad(context.Background(), Load{URL: server.URL, Requests: 51, Rate: 100})
	if err != nil {
		t.Fatal(err)
	}
	// 51 requests, 10 ms apart, begin within 500 ms; a slow machine is later.
	if result.Elapsed < 500*time.Millisecond {
		t.Errorf("took %v: faster than the rate", result.Elapsed)
	}
}

func TestSendReportsAFailure(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	if _, err := SendLoad(context.Background(), Load{URL: server.URL, Requests: 5}); err == nil {
		t.Error("no error for status 404")
	}
}
