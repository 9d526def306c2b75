// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
	"github.com/vishvananda/netlink"
)

// insideEnv tells the test that it runs in its own network namespace.
const insideEnv = "LAYERTRACE_TEST_INSIDE_NETNS"

// TestRealCapture captures the traffic of Go's HTTP client and server on the
// loopback of a new network namespace with tcpdump, and compares the decoded
// exchanges with the logs of both ends.
func TestRealCapture(t *testing.T) {
	if os.Getenv(insideEnv) == "" {
		runInNamespace(t)
		return
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	file, stop := startTCPDump(t)
	calls := makeCalls(t)

	want := map[bool]int{}
	for _, c := range calls {
		if c.sampled {
			want[true]++
			if !c.deepOnly {
				want[false]++
			}
		}
	}
	// tcpdump lags: wait for the last response before stopping it.
	deadline := time.Now().Add(20 * time.Second)
	for !hasResponse(decodeCapture(t, file, true), calls[len(calls)-1]) && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond) // the pause of a poll
	}
	stop()
	for _, deep := range []bool{false, true} {
		got := decodeCapture(t, file, deep)
		if len(got) != want[deep] || want[deep] == 0 {
			t.Errorf("deep %v: %d exchanges, want %d", deep, len(got), want[deep])
		}
		compare(t, calls, got, deep)
	}
	t.Logf("%d calls, %d found in the first segment, %d in deep mode", len(calls), want[false], want[true])
}

// runInNamespace runs this test again in a new network namespace.
func runInNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a network namespace and to capture")
	}
	if _, err := exec.LookPath("tcpdump"); err != nil {
		t.Skip("tcpdump is not installed")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestRealCapture$", "-test.v")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("in the namespace:\n%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: TestRealCapture") {
		t.Errorf("the test failed in its namespace: %v", err)
	}
}

// startTCPDump captures on the loopback until stop is called. Its buffer of 64
// MiB holds all traffic of makeCalls, even if tcpdump reads late.
func startTCPDump(t *testing.T) (file string, stop func()) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "lo.pcap")
	cmd := exec.Command("tcpdump", "-i", "lo", "-s", "0", "-B", "65536", "-U",
		"--time-stamp-precision=nano", "-Z", "root", "-w", file, "tcp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() && !strings.Contains(lines.Text(), "listening on") {
	}
	return file, func() {
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Error(err)
		}
		for lines.Scan() {
			if strings.Contains(lines.Text(), "dropped by kernel") && !strings.HasPrefix(lines.Text(), "0 ") {
				t.Errorf("tcpdump: %s", lines.Text())
			}
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("tcpdump: %v", err)
		}
	}
}

// makeCalls makes calls on several connections at once, over IPv4 and IPv6.
func makeCalls(t *testing.T) []call {
	var lock sync.Mutex
	served := map[string]time.Time{}
	log := func(name string, at time.Time) {
		lock.Lock()
		defer lock.Unlock()
		served[name] = at
	}
	servers := []string{serve(t, "127.0.0.1:0", log), serve(t, "[::1]:0", log)}
	var calls []call
	var group sync.WaitGroup
	for connection := range 6 {
		group.Go(func() {
			done := talkHTTP(t, servers[connection%2], connection, 40)
			lock.Lock()
			defer lock.Unlock()
			calls = append(calls, done...)
		})
	}
	group.Wait()
	calls = append(calls, talkHTTP(t, servers[0], 6, 1)...) // after all others
	for i := range calls {
		calls[i].served = served[calls[i].name]
	}
	return calls
}

func hasResponse(got []observe.Observation, last call) bool {
	return slices.ContainsFunc(got, func(x observe.Observation) bool {
		return x.Context.SpanID.String() == last.span && x.Response.Bytes == uint64(last.received)
	})
}

func decodeCapture(t *testing.T, file string, deep bool) (got []observe.Observation) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	opts := Options{PrefixWindow: tracecontext.DefaultPrefixWindow}
	if deep {
		opts = Options{}
	}
	d := New(opts, func(x observe.Observation) { got = append(got, x) })
	// The file's last packet may be half written while tcpdump runs.
	if err := ReadFile(f, d.Packet); err != nil {
		t.Logf("while reading: %v", err)
	}
	d.Flush()
	return got
}

// lenContinue is the size of the interim response of Go's server.
const lenContinue = int64(len("HTTP/1.1 100 Continue\r\n\r\n"))

// compare checks each exchange against the logs of both ends.
func compare(t *testing.T, calls []call, got []observe.Observation, deep bool) {
	t.Helper()
	bySpan := map[string]call{}
	for _, c := range calls {
		bySpan[c.span] = c
	}
	for _, x := range got {
		c, ok := bySpan[x.Context.SpanID.String()]
		if !ok {
			t.Errorf("span %s was never sent, or decoded twice", x.Context.SpanID)
			continue
		}
		delete(bySpan, x.Context.SpanID.String())
		compareOne(t, c, x)
	}
	for _, c := range bySpan {
		if c.sampled && (deep || !c.deepOnly) {
			t.Errorf("call %s was not seen", c.name)
		}
	}
}

func compareOne(t *testing.T, c call, x observe.Observation) {
	t.Helper()
	received := c.received
	var flags observe.Flags
	if c.interim {
		received -= lenContinue
		flags |= observe.FlagInterim
	}
	if c.deepOnly {
		flags |= observe.FlagMultiSegment | observe.FlagOutsideWindow
	}
	if x.Context.TraceID.String() != c.trace || x.Client.String() != c.client || x.Status != c.status ||
		x.Request.Bytes != uint64(c.sent) || x.Response.Bytes != uint64(received) || x.Flags != flags {
		t.Errorf("call %+v\nwas decoded as %+v, flags %v", c, x, x.Flags.Names())
	}
	at := func(ns uint64) time.Time { return time.Unix(0, int64(ns)) }
	times := []time.Time{c.started, at(x.Request.First), c.served, at(x.Response.First), at(x.Response.Last), c.over}
	for i := range times[1:] {
		if times[i+1].Before(times[i]) {
			t.Errorf("call %s: times %v are not in order", c.name, times)
			break
		}
	}
}

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

// byteCount counts the bytes of all connections of a client.
type byteCount struct{ read, written atomic.Int64 }

// countingConn counts the bytes of a connection. A write counts before the
// response to it can arrive, not when the writer is scheduled again.
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

// serve serves on the address until the test ends: it reads the body and
// responds with the status and size from the query. served gets the time of each
// call by its name.
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
			t.Errorf("write the response to %s: %v", r.URL, err)
		}
	})}
	go func() { _ = server.Serve(listener) }() // until the test closes it
	t.Cleanup(func() { _ = server.Close() })
	return listener.Addr().String()
}

// talkHTTP makes calls one after the other, usually on one connection: the client
// opens another if its writer is not scheduled for 50 ms
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
			t.Errorf("response to call %s: %v", c.name, err)
		}
		_ = response.Body.Close()
		c.over = time.Now()
		c.sent, c.received = count.written.Load()-written, count.read.Load()-read
		c.client = client
		log = append(log, c)
	}
	return log
}

// newCall returns the n-th call of a connection.
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
		body = io.MultiReader(body) // unknown length: chunked
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
		c.deepOnly = n%5 != 2 // Go sorts by name: "B3" before "Cookie"
		request.Header.Set("Cookie", strings.Repeat("c", 16<<10))
	}
	return c, request
}
