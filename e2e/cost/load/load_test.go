// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// serve serves with a handler and returns its address.
func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func closeAll(t *testing.T, c *client) {
	t.Helper()
	if err := c.close(); err != nil {
		t.Error(err)
	}
}

func sendTo(t *testing.T, p plan) (*client, result) {
	t.Helper()
	c, err := connect(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(t, c) })
	done := make(chan error)
	go func() { done <- c.run() }() // it locks its thread
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	r, err := c.result()
	if err != nil {
		t.Fatal(err)
	}
	return c, r
}

// A stall of the server shows in each request that was due during it, not only in the one
// that it held.
func TestLatencyCountsFromWhenARequestWasDue(t *testing.T) {
	const stall = 400 * time.Millisecond
	var requests atomic.Int64
	address := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1) == 10 {
			time.Sleep(stall) // the fault
		}
		fmt.Fprint(w, "hello")
	})
	c, r := sendTo(t, plan{server: address, connections: 1, rate: 100, duration: time.Second, sampled: 100, perTrace: 1})
	if r.Requests != 101 || len(c.latencies) != 100 {
		t.Errorf("%d requests, %d latencies, want 101 with the first one of the connection, and 100", r.Requests, len(c.latencies))
	}
	held := 0
	for _, latency := range c.latencies {
		if time.Duration(latency) > stall/2 {
			held++
		}
	}
	// Those due in the first half of the stall waited for more than half of it.
	if held < 20 {
		t.Errorf("%d requests waited for more than %v, want at least the 20 that were due in the first %v of the stall", held, stall/2, stall/2)
	}
}

func TestContexts(t *testing.T) {
	form := regexp.MustCompile(`^00-([0-9a-f]{32})-([0-9a-f]{16})-0([01])$`)
	var mu sync.Mutex
	traces, spans, sampled := map[string]int{}, map[string]bool{}, 0
	address := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		match := form.FindStringSubmatch(r.Header.Get("traceparent"))
		if match == nil {
			t.Errorf("traceparent %q", r.Header.Get("traceparent"))
			return
		}
		if match[3] == "1" {
			sampled++
		}
		traces[match[1]]++
		spans[match[2]] = true
	})
	_, r := sendTo(t, plan{server: address, connections: 4, rate: 400, duration: time.Second, sampled: 25, perTrace: 10})
	// 400 and the first request of each connection.
	if r.Requests != 404 || r.Sampled != 100 || sampled != 100 || len(spans) != 404 {
		t.Errorf("%d requests with %d span IDs, %d sampled, the server saw %d sampled; want 404, 404, 100, 100", r.Requests, len(spans), r.Sampled, sampled)
	}
	tens := 0
	for _, n := range traces {
		if n == 10 {
			tens++
		}
	}
	if tens < 39 { // the first one also has the requests of other connections
		t.Errorf("%d traces with 10 requests, want 40 or 39", tens)
	}
}

func TestWrongResponsesAreErrors(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"status": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
		"chunks": func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush() },
	} {
		if _, err := connect(plan{server: serve(t, handler), connections: 1, perTrace: 1}); err == nil || !strings.Contains(err.Error(), "want 200 and a length") {
			t.Errorf("%s: %v", name, err)
		}
	}
	var requests atomic.Int64
	later := func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1) > 1 {
			w.WriteHeader(http.StatusTeapot)
		}
	}
	c, err := connect(plan{server: serve(t, later), connections: 1, rate: 1000, duration: time.Second, sampled: 100, perTrace: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(t, c)
	if err := c.run(); err == nil || !strings.Contains(err.Error(), "a response begins with") {
		t.Errorf("%v", err)
	}
}

func TestSinkCountsSpans(t *testing.T) {
	request := &coltracepb.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{
		{ScopeSpans: []*tracepb.ScopeSpans{{Spans: make([]*tracepb.Span, 3), SchemaUrl: "x"}, {}}},
		{SchemaUrl: "y"},
		{ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{{Name: "a", Links: []*tracepb.Span_Link{{TraceId: []byte("12")}}}}}}},
	}}
	for i := range request.ResourceSpans[0].ScopeSpans[0].Spans {
		request.ResourceSpans[0].ScopeSpans[0].Spans[i] = &tracepb.Span{Name: "span", TraceId: bytes.Repeat([]byte{7}, 16)}
	}
	body, err := proto.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := countSpans(body); n != 4 || err != nil {
		t.Errorf("%d spans (%v), want 4", n, err)
	}
	if _, err := countSpans(body[:len(body)-1]); err == nil {
		t.Error("a cut request is no error")
	}
}

func TestSinkOverHTTP(t *testing.T) {
	free := func() string {
		listener, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		return listener.Addr().String()
	}
	address := free()
	go func() { t.Error(sink(free(), address)) }() // it only ends by an error
	body, err := proto.Marshal(&coltracepb.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{
		{ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{{Name: "a"}, {Name: "b"}}}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		response, err := http.Post("http://"+address+"/v1/traces", "application/x-protobuf", bytes.NewReader(body))
		if err == nil {
			response.Body.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond) // until it listens
	}
	response, err := http.Get("http://" + address + "/count")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || !strings.Contains(string(text), `"spans":2`) {
		t.Errorf("%s (%v), want 2 spans", text, err)
	}
}

// A run of the control takes the CPU time that it is to take, as the kernel counts it.
func TestCompute(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	const length = 20 * time.Millisecond
	before := used()
	if err := compute(length); err != nil {
		t.Fatal(err)
	}
	if got := used() - before; got < length-time.Millisecond {
		t.Errorf("a run of %v took %v of CPU time", length, got)
	}
}
