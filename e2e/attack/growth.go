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
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// series sends one request from each of very many services, and scrapes the metrics as often
// at a time as the agent allows.
func series(ctx context.Context, t *Testbed) (measured string, pass bool, err error) {
	const (
		services, maxSeries, maxHops = 5000, 4096, 2048
		scrapes, scrapeLimit         = 4, 10 * time.Second
	)
	address := func(i int) string { return fmt.Sprintf("10.78.%d.%d", i/200, i%200+1) }
	var identity strings.Builder
	fmt.Fprintf(&identity, "node: attacked\ninterfaces:\n  veth2: {service: server}\naddresses:\n")
	for i := range services {
		fmt.Fprintf(&identity, "  %s: {service: job-%06d}\n", address(i), i)
	}
	file := filepath.Join(t.dir, "identity.yaml")
	if err := os.WriteFile(file, []byte(identity.String()), 0o644); err != nil {
		return "", false, err
	}
	// All addresses of the prefix are the client's.
	if err := errors.Join(t.Pods[0].AddLocalPrefix("eth0", "10.78.0.0/16"), t.Pods[1].AddRoute("10.78.0.0/16", PodAddress(1))); err != nil {
		return "", false, err
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	if err := t.serve(t.Pods[1], PodAddress(2)+":80", handler); err != nil {
		return "", false, err
	}
	if err := t.StartAgent(ctx, "--spans", "layers", "--socket-cgroup", "none", "--identity", file); err != nil {
		return "", false, err
	}
	for i := range services {
		if err := t.askFrom(ctx, address(i), PodAddress(2)+":80", fmt.Sprintf("3333333333333333%016x", i+1)); err != nil {
			return "", false, err
		}
	}
	// Every hop is counted, in series of its own or as other.
	counted := 0.0
	err = sandbox.Await(ctx, "all hops to be counted", time.Minute, 500*time.Millisecond, func(ctx context.Context) (err error) {
		if counted, err = t.Metric(ctx, "layertrace_hop_duration_seconds_count"); err == nil && counted < services {
			err = fmt.Errorf("%.0f of %d", counted, services)
		}
		return err
	})
	if err != nil {
		return "", false, err
	}
	var group errgroup.Group
	bodies, took := make([]string, scrapes), make([]time.Duration, scrapes)
	for i := range scrapes {
		group.Go(func() error {
			began := time.Now()
			body, err := t.Node.Get(ctx, "http://"+metricsAddress+"/metrics")
			bodies[i], took[i] = string(body), time.Since(began)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return "", false, err
	}
	lines := func(prefix string) int { return strings.Count(bodies[0], "\n"+prefix) }
	layers, hops := lines("layertrace_layer_duration_seconds_count"), lines("layertrace_hop_duration_seconds_count")
	intervals := lines(`layertrace_hop_duration_seconds_count{destination="other"`)
	other, err := t.Metric(ctx, "layertrace_layer_times_other_total")
	if err != nil {
		return "", false, err
	}
	slowest := time.Duration(0)
	for _, d := range took {
		slowest = max(slowest, d)
	}
	// The series of other come in addition.
	return fmt.Sprintf("%d series of layers, %d of hops, %.0f times in other; %d scrapes at a time took up to %.1f s, %d MiB each",
			layers, hops, other, scrapes, slowest.Seconds(), len(bodies[0])>>20),
		layers > 0 && layers <= maxSeries+64 && hops > 0 && hops <= 3*(maxHops+1) && other > 0 && intervals > 0 && slowest <= scrapeLimit, nil
}

// askFrom sends one request from an address of pod 1.
func (t *Testbed) askFrom(ctx context.Context, from, to, traceID string) error {
	var c net.Conn
	err := t.Pods[0].Do(func() (err error) {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err = dialer.DialContext(ctx, "tcp", to)
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	return exchange(c, bufio.NewReader(c), sampled(traceID, 1))
}

// sweepAtOnce leaves requests without a response, so that one sweep reports all of them.
func sweepAtOnce(ctx context.Context, t *Testbed) (measured string, pass bool, err error) {
	const connections, spans = 2000, 2 * 2000
	release := make(chan struct{})
	t.closers = append(t.closers, func() { close(release) })
	handler := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release })
	if err := t.serve(t.Pods[1], PodAddress(2)+":80", handler); err != nil {
		return "", false, err
	}
	if err := t.StartAgent(ctx, "--ring-bytes", "65536", "--request-timeout", "10s"); err != nil {
		return "", false, err
	}
	for i := range connections {
		c, err := t.Pods[0].DialContext(ctx, "tcp", PodAddress(2)+":80")
		if err != nil {
			return "", false, err
		}
		defer c.Close()
		if _, err := io.WriteString(c, sampled(fmt.Sprintf("4444444444444444%016x", i+1), i+1)); err != nil {
			return "", false, err
		}
	}
	lost := 0.0
	late := sandbox.Await(ctx, "all spans", time.Minute, 200*time.Millisecond, func(ctx context.Context) (err error) {
		if lost, err = t.Metric(ctx, "layertrace_exchanges_ring_full_total"); err != nil || lost > 0 {
			return err
		}
		if n := t.Received(); n < spans {
			return fmt.Errorf("%d of %d", n, spans)
		}
		return nil
	})
	return fmt.Sprintf("%d of %d spans, %.0f records lost to a full ring", t.Received(), spans, lost), late == nil && lost == 0 && t.Received() == spans, nil
}

// memoryBudget is the ordinary load for which the memory of an agent is stated.
func memoryBudget(ctx context.Context, t *Testbed) (measured string, pass bool, err error) {
	const (
		rate, enough, budget  = 10_000, 9_000, 128 << 20
		connections, duration = 40, 20 * time.Second
		sampledOf             = 100 // one of so many
	)
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	if err := t.serve(t.Pods[1], PodAddress(2)+":80", handler); err != nil {
		return "", false, err
	}
	t.Memory = budget
	if err := t.StartAgent(ctx, "--spans", "layers"); err != nil {
		return "", false, err
	}
	began := time.Now()
	sent, err := t.load(ctx, connections, rate, duration, func(i int64) string {
		head := sampled(fmt.Sprintf("5555555555555555%016x", i+1), int(i)+1)
		if i%sampledOf > 0 {
			head = strings.Replace(head, "-01\r\n", "-00\r\n", 1)
		}
		return head
	})
	if err != nil {
		return "", false, err
	}
	reached := float64(sent) / time.Since(began).Seconds()
	want := int(sent / sampledOf * 2) // at both interfaces, and at sockets in addition
	err = sandbox.Await(ctx, "the spans", 30*time.Second, 200*time.Millisecond, func(context.Context) error {
		if n := t.Received(); n < want {
			return fmt.Errorf("%d, want at least %d", n, want)
		}
		return nil
	})
	if err != nil {
		return "", false, err
	}
	memory, err := sandbox.ReadMemory(t.Agent.PID())
	if err != nil {
		return "", false, err
	}
	maps, err := sandbox.ReadBPFMemory(t.Agent.PID())
	if err != nil {
		return "", false, err
	}
	return fmt.Sprintf("%.0f requests/s, %d spans; resident %d MiB at most, BPF %d MiB", reached, t.Received(), memory.Peak>>20, maps>>20), reached >= enough, nil
}

// load sends requests at a rate per second, and returns how many.
func (t *Testbed) load(ctx context.Context, connections, rate int, duration time.Duration, request func(int64) string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	var sent atomic.Int64
	var group errgroup.Group
	pace := newPace(rate)
	for range connections {
		c, err := t.Pods[0].DialContext(ctx, "tcp", PodAddress(2)+":80")
		if err != nil {
			return 0, err
		}
		defer c.Close()
		group.Go(func() error {
			in := bufio.NewReader(c)
			for pace.wait(ctx) == nil {
				if err := exchange(c, in, request(sent.Add(1)-1)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := group.Wait()
	return sent.Load(), err
}

// pace hands out the times of requests at a rate.
type pace struct {
	step time.Duration
	mu   sync.Mutex
	next time.Time
}

func newPace(rate int) *pace { return &pace{step: time.Second / time.Duration(rate), next: time.Now()} }

// wait returns when the next request is due, and an error when ctx ends first.
func (p *pace) wait(ctx context.Context) error {
	p.mu.Lock()
	due := p.next
	p.next = p.next.Add(p.step)
	p.mu.Unlock()
	left := time.Until(due)
	if left <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
