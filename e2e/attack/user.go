// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// sampled returns the head of a request in a trace.
func sampled(traceID string, span int) string {
	return fmt.Sprintf("GET / HTTP/1.1\r\nhost: x\r\ntraceparent: 00-%s-%016x-01\r\n\r\n", traceID, span)
}

// ask sends n requests on one connection from pod 1 to pod 2, one after the other, with the
// trace ID that id returns for each.
func (t *Testbed) ask(ctx context.Context, n int, id func(int) (traceID string, span int)) error {
	c, err := t.Pods[0].DialContext(ctx, "tcp", PodAddress(2)+":80")
	if err != nil {
		return err
	}
	defer c.Close()
	in := bufio.NewReader(c)
	for i := range n {
		if err := exchange(c, in, sampled(id(i))); err != nil {
			return err
		}
	}
	return nil
}

// exchange sends a request and reads its response.
func exchange(c io.Writer, in *bufio.Reader, request string) error {
	if _, err := io.WriteString(c, request); err != nil {
		return err
	}
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	return errors.Join(err, response.Body.Close())
}

// traceFlood sends 30,000 requests with one trace ID, ordinary ones beside them, and ordinary
// ones when the agent splits the flood's trace.
func traceFlood(ctx context.Context, t *Testbed) (measured string, pass bool, err error) {
	const (
		flood, clients, ordinary = 30_000, 10, 300
		same                     = "77777777777777777777777777777777"
		limit                    = 10 * time.Second
	)
	id := func(i int) string { return fmt.Sprintf("1111111111111111%016x", i+1) }
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	if err := t.serve(t.Pods[1], PodAddress(2)+":80", handler); err != nil {
		return "", false, err
	}
	if err := t.StartAgent(ctx, "--spans", "layers", "--socket-cgroup", "none"); err != nil {
		return "", false, err
	}
	sent := make([]time.Time, 2*ordinary)
	some := func(from int) error {
		return t.ask(ctx, ordinary, func(i int) (string, int) {
			sent[from+i] = time.Now()
			return id(from + i), from + i + 1
		})
	}
	var group errgroup.Group
	for c := range clients {
		group.Go(func() error {
			return t.ask(ctx, flood/clients, func(i int) (string, int) { return same, c*flood + i + 1 })
		})
	}
	group.Go(func() error { return some(0) })
	if err := group.Wait(); err != nil {
		return "", false, err
	}
	// What the trace has more than its bound is counted while the exchanges come, and it is
	// split some seconds later.
	err = sandbox.Await(ctx, "the flood's trace to be split", time.Minute, 100*time.Millisecond, func(ctx context.Context) error {
		over, err := t.Metric(ctx, "layertrace_layer_spans_over_limit_total")
		if err == nil && over == 0 {
			err = errors.New("no layers yet")
		}
		return err
	})
	split := "split"
	if err != nil {
		split = "not split within a minute"
	}
	if err := some(ordinary); err != nil {
		return "", false, err
	}
	slowest, missing := time.Duration(0), 0
	for i, at := range sent {
		var n int
		var came time.Time
		arrived := sandbox.Await(ctx, "the spans of a request", 3*limit-time.Since(at), 10*time.Millisecond, func(context.Context) error {
			if n, came = t.Spans(id(i)); n < 2 {
				return fmt.Errorf("it has %d", n)
			}
			return nil
		})
		if arrived != nil {
			missing++
		} else {
			slowest = max(slowest, came.Sub(at))
		}
	}
	ready := t.Ready(ctx)
	spans, _ := t.Spans(same)
	return fmt.Sprintf("%d of %d without spans, the slowest after %.1f s; %d spans of the flood, which was %s; /readyz: %v",
		missing, len(sent), slowest.Seconds(), spans, split, readyText(ready)), missing == 0 && slowest <= limit && ready == nil && split == "split", nil
}

func readyText(err error) string {
	if err != nil {
		return err.Error()
	}
	return "ok"
}

// metricsConnections opens keep-alive connections from a pod, with a request each.
func metricsConnections(ctx context.Context, t *Testbed) (measured string, pass bool, err error) {
	const connections, served, growth = 2000, 8, 32 << 20
	if err := t.StartAgent(ctx); err != nil {
		return "", false, err
	}
	before, err := sandbox.ReadMemory(t.Agent.PID())
	if err != nil {
		return "", false, err
	}
	answered := 0
	for range connections {
		c, err := t.Pods[0].DialContext(ctx, "tcp", metricsAddress)
		if err != nil {
			return "", false, err
		}
		defer c.Close()
		if answers(c) {
			answered++
		}
	}
	ready := t.Ready(ctx)
	after, err := sandbox.ReadMemory(t.Agent.PID())
	if err != nil {
		return "", false, err
	}
	grown := int64(after.Resident) - int64(before.Resident)
	return fmt.Sprintf("%d of %d served, memory grew by %d KiB; /readyz: %s", answered, connections, grown>>10, readyText(ready)),
		answered == served && grown <= growth && ready == nil, nil
}

// metricsIdle leaves connections to the metrics server in three states, and waits until the
// server ends them: after a request, within one, and within responses that nobody reads.
func metricsIdle(ctx context.Context, t *Testbed) (measured string, pass bool, err error) {
	const limit = 40 * time.Second
	if err := t.StartAgent(ctx); err != nil {
		return "", false, err
	}
	kinds := []struct{ name, sent string }{
		{"idle", "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"},
		{"unfinished", "GET /healthz HTTP/1.1\r\nhost: x\r\n"},
		{"unread", strings.Repeat("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n", 1000)},
	}
	took := make([]time.Duration, len(kinds))
	var group errgroup.Group
	for i, kind := range kinds {
		c, err := t.Pods[0].DialContext(ctx, "tcp", metricsAddress)
		if err != nil {
			return "", false, err
		}
		defer c.Close()
		group.Go(func() error {
			took[i] = -1
			began := time.Now()
			if err := c.SetDeadline(began.Add(2 * limit)); err != nil {
				return err
			}
			// The server reads no more than it needs: writing blocks then.
			go func() { _, _ = io.WriteString(c, kind.sent) }()
			if kind.name == "unread" {
				return untilRefused(ctx, c, began, &took[i])
			}
			if _, err := io.Copy(io.Discard, c); !errors.Is(err, os.ErrDeadlineExceeded) {
				took[i] = time.Since(began)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return "", false, err
	}
	pass = true
	var texts []string
	for i, kind := range kinds {
		texts = append(texts, fmt.Sprintf("%s %.0f s", kind.name, took[i].Seconds()))
		pass = pass && took[i] >= 0 && took[i] <= limit
	}
	return strings.Join(texts, ", "), pass, nil
}

// untilRefused waits until the other side has closed a connection of which it has unread bytes.
func untilRefused(ctx context.Context, c net.Conn, began time.Time, took *time.Duration) error {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	closed := sandbox.Await(ctx, "the end of a connection", 80*time.Second, 50*time.Millisecond, func(context.Context) error {
		state := uint8(0)
		err := raw.Control(func(fd uintptr) {
			if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				state = info.State
			}
		})
		if err == nil && state == unix.BPF_TCP_ESTABLISHED {
			err = errors.New("it is established")
		}
		return err
	})
	if closed == nil {
		*took = time.Since(began)
	}
	return nil // took has the result
}

// answers reports whether a request on a connection gets a response.
func answers(c net.Conn) bool {
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return false
	}
	return exchange(c, bufio.NewReader(c), "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n") == nil
}
