// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// application starts a server like the lab's applications. The path is the trace
// ID.
func application(t *testing.T) (*httptest.Server, *Client) {
	t.Helper()
	state := &State{}
	socket, err := ListenUnix(filepath.Join(t.TempDir(), "control"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- state.Serve(socket) }()
	client := NewClient(socket.Addr().String())
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		trace := strings.TrimPrefix(r.URL.Path, "/")
		fault := state.Begin(trace, r.RemoteAddr)
		state.Slept(trace, fault.Sleep)
		fmt.Fprint(w, fault.PadResponse, fault.PadRequests["ratings"])
	}))
	server.Listener = state.Listen(server.Listener)
	server.Start()
	t.Cleanup(func() {
		server.Close()
		client.Close()
		socket.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return server, client
}

func ask(t *testing.T, url string) (string, time.Duration) {
	t.Helper()
	start := time.Now()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body), time.Since(start)
}

func TestOnlyTheTraceIsTouched(t *testing.T) {
	server, client := application(t)
	ctx := context.Background()
	fault := Fault{TraceID: "a", Sleep: time.Second, PadResponse: 7, PadRequests: map[string]int{"ratings": 9}}
	if err := client.Arm(ctx, fault); err != nil {
		t.Fatal(err)
	}
	if body, _ := ask(t, server.URL+"/b"); body != "0 0" {
		t.Errorf("another trace: %q", body)
	}
	if body, _ := ask(t, server.URL+"/a"); body != "7 9" {
		t.Errorf("the trace: %q", body)
	}
	if report, err := client.Disarm(ctx, "a"); err != nil || report != (Report{Requests: 1, Slept: time.Second}) {
		t.Errorf("%+v, %v", report, err)
	}
	if body, _ := ask(t, server.URL+"/a"); body != "0 0" {
		t.Errorf("after disarming: %q", body)
	}
}

// The reported hold is the client's additional wait, on a new connection and on
// one that is kept alive.
func TestBytesAreHeldInTheQueue(t *testing.T) {
	server, client := application(t)
	ctx := context.Background()
	const hold = 60 * time.Millisecond
	for range 3 {
		if err := client.Arm(ctx, Fault{TraceID: "a", Hold: hold}); err != nil {
			t.Fatal(err)
		}
		_, took := ask(t, server.URL+"/a")
		report, err := client.Disarm(ctx, "a")
		if err != nil || report.Held < hold || report.Held > took || report.Requests != 1 {
			t.Errorf("held %v of %v in %d requests, %v", report.Held, took, report.Requests, err)
		}
		if _, took := ask(t, server.URL+"/a"); took >= hold {
			t.Errorf("%v after disarming", took)
		}
	}
}

// A long response arrives in one piece.
func TestWhole(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const size = 12_000
	server := &http.Server{ConnContext: ConnContext, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(size))
		if err := Whole(w, r, make([]byte, size)); err != nil {
			t.Error(err)
		}
	})}
	go func() { _ = server.Serve((&State{}).Listen(inner)) }()
	defer server.Close()
	conn, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 20 {
		if _, err := fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 2*size)); n < size || err != nil {
			t.Fatalf("%d bytes arrived at once, %v", n, err)
		}
	}
}

// Held bytes stay in the queue.
func TestHeldBytesStayInTheQueue(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	state := &State{}
	state.Arm(Fault{TraceID: "a", Hold: 50 * time.Millisecond})
	client, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := state.Listen(inner).Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := client.Write([]byte("12345")); err != nil {
		t.Fatal(err)
	}
	read := make(chan int, 1)
	go func() {
		n, _ := conn.Read(make([]byte, 10))
		read <- n
	}()
	most := 0
	for {
		select {
		case n := <-read:
			if n != 5 || most != 5 {
				t.Errorf("%d bytes read, %d seen unread", n, most)
			}
			return
		default:
			err := conn.(*held).raw.Control(func(fd uintptr) { most = max(most, unread(int(fd))) })
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestBadFaultIsRefused(t *testing.T) {
	_, client := application(t)
	if err := client.Arm(context.Background(), Fault{}); err == nil || !strings.Contains(err.Error(), "trace_id") {
		t.Errorf("%v", err)
	}
}

// Faults of several traces are armed at the same time, each with its own report.
func TestFaultsOfSeveralTraces(t *testing.T) {
	var s State
	s.Arm(Fault{TraceID: "a", Pause: time.Second})
	s.Arm(Fault{TraceID: "b", ReadBodyAfter: time.Minute})
	if a, b := s.Begin("a", "1"), s.Begin("b", "2"); a.Pause != time.Second || b.ReadBodyAfter != time.Minute || b.Pause != 0 {
		t.Errorf("%+v, %+v", a, b)
	}
	s.Paused("a", 2*time.Second)
	s.Unread("b", 3*time.Second)
	if r := s.Disarm("a"); r != (Report{Requests: 1, Paused: 2 * time.Second}) {
		t.Errorf("a: %+v", r)
	}
	if r := s.Disarm("a"); r != (Report{}) {
		t.Errorf("a again: %+v", r)
	}
	if r := s.Disarm("b"); r != (Report{Requests: 1, Unread: 3 * time.Second}) {
		t.Errorf("b: %+v", r)
	}
}
