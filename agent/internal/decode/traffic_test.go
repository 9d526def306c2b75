// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// call is a request as client and server logged it.
type call struct {
	name, client          string
	trace, span           string
	status                int
	sent, received        int64 // bytes on the client's connection
	started, served, over time.Time
	sampled, deepOnly     bool
	interim               bool
}

// byteCount is of all connections that a client makes.
type byteCount struct{ read, written atomic.Int64 }

// countingConn counts the bytes of a connection. What is written counts before
// it can be answered, not when the writer has its turn again.
type countingConn struct {
	net.Conn
	*byteCount
}

func (c countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

func (c countingConn) Write(p []byte) (int, error) {
	c.written.Add(int64(len(p)))
	return c.Conn.Write(p)
}

// serve answers on the address until the test ends: it reads the body, and
// answers with the status and size that the query asks for. served gets the
// time of each call by its name.
func serve(t *testing.T, address string, served func(name string, at time.Time)) string {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served(r.FormValue("name"), time.Now())
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Errorf("read the body of %s: %v", r.URL, err)
		}
		var status, size int
		if _, err := fmt.Sscan(r.FormValue("status"), &status); err != nil {
			t.Error(err)
		}
		if _, err := fmt.Sscan(r.FormValue("size"), &size); err != nil {
			t.Error(err)
		}
		w.WriteHeader(status)
		if _, err := io.WriteString(w, strings.Repeat("r", size)); err != nil {
			t.Errorf("write the answer to %s: %v", r.URL, err)
		}
	})}
	go func() { _ = server.Serve(listener) }() // until the test closes it
	t.Cleanup(func() { _ = server.Close() })
	return listener.Addr().String()
}

// talkHTTP makes calls one after the other, on one connection as a rule: the
// client makes another when its writer has no turn for 50 ms
// (maxWriteWaitBeforeConnReuse in net/http).
func talkHTTP(t *testing.T, server string, connection, calls int) []call {
	var client string
	var count byteCount
	transport := &http.Transport{MaxConnsPerHost: 1, ExpectContinueTimeout: time.Minute, DisableCompression: true}
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		client = c.LocalAddr().String()
		return countingConn{c, &count}, nil
	}
	defer transport.CloseIdleConnections()
	var log []call
	for n := range calls {
		c, request := newCall(t, server, connection, n)
		read, written := count.read.Load(), count.written.Load()
		c.started = time.Now()
		response, err := transport.RoundTrip(request)
		if err != nil {
			t.Errorf("call %s: %v", c.name, err)
			return log
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			t.Errorf("answer to call %s: %v", c.name, err)
		}
		_ = response.Body.Close()
		c.over = time.Now()
		c.sent, c.received = count.written.Load()-written, count.read.Load()-read
		c.client = client
		log = append(log, c)
	}
	return log
}

// newCall makes up the n-th call of a connection.
func newCall(t *testing.T, server string, connection, n int) (call, *http.Request) {
	statuses := []int{200, 404, 503, 200, 201}
	c := call{
		name:    fmt.Sprintf("%d.%d", connection, n),
		trace:   fmt.Sprintf("%016x%016x", connection+1, n+1),
		span:    fmt.Sprintf("%08x%08x", connection+1, n+1),
		status:  statuses[n%len(statuses)],
		sampled: n%4 != 1,
	}
	body := io.Reader(http.NoBody)
	if n%3 != 0 {
		body = strings.NewReader(strings.Repeat("q", n*1000))
	}
	if n%6 == 4 {
		body = io.MultiReader(body) // of unknown length: chunked
	}
	url := fmt.Sprintf("http://%s/?name=%s&status=%d&size=%d", server, c.name, c.status, (n%7)*6000)
	request, err := http.NewRequest(http.MethodPost, url, body)
	if err != nil {
		t.Fatal(err)
	}
	sampled := map[bool]string{true: "1", false: "0"}[c.sampled]
	switch n % 5 {
	case 0, 1:
		request.Header.Set("traceparent", "00-"+c.trace+"-"+c.span+"-0"+sampled)
	case 2:
		request.Header.Set("b3", c.trace+"-"+c.span+"-"+sampled)
	case 3:
		request.Header.Set("X-B3-TraceId", c.trace)
		request.Header.Set("X-B3-SpanId", c.span)
		request.Header.Set("X-B3-Sampled", sampled)
	case 4:
		request.Header.Set("uber-trace-id", c.trace+":"+c.span+":0:"+sampled)
	}
	if n%6 == 5 {
		c.interim = true
		request.Header.Set("Expect", "100-continue")
	}
	if n%8 == 7 {
		c.deepOnly = n%5 != 2 // Go sorts by name, and "B3" stands before "Cookie"
		request.Header.Set("Cookie", strings.Repeat("c", 16<<10))
	}
	return c, request
}
