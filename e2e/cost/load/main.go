// SPDX-License-Identifier: Apache-2.0

// Command load is the ends of a measurement: a client that takes as little CPU as
// possible and keeps its schedule, and a receiver of spans that only counts them. Both
// take the place of what a measured machine has elsewhere. It is also a tool that does nothing
// but take CPU time, to compare others with.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/stats"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("run without a role: give send, sink or control")
	}
	flags := flag.NewFlagSet("load "+args[0], flag.ContinueOnError)
	p := plan{}
	flags.StringVar(&p.server, "server", "", "send: IP:PORT of the server")
	flags.StringVar(&p.from, "from", "", "send: address to connect from")
	flags.IntVar(&p.connections, "connections", 100, "send: number of keep-alive connections, used in turn")
	flags.Float64Var(&p.rate, "rate", 0, "send: requests per second; 0 for the next one at each response")
	flags.DurationVar(&p.warm, "warm", time.Second, "send: duration before latencies count")
	flags.DurationVar(&p.duration, "duration", 3*time.Second, "send: duration in which latencies count")
	flags.Float64Var(&p.sampled, "sampled", 100, "send: share of requests that are sampled, in percent")
	flags.IntVar(&p.perTrace, "per-trace", 1, "send: number of consecutive requests in one trace")
	grpc := flags.String("grpc", "127.0.0.1:4317", "sink: address for OTLP over gRPC")
	http := flags.String("http", "127.0.0.1:4318", "sink: address for OTLP over HTTP, and of /count")
	pause := flags.Duration("pause", 8300*time.Microsecond, "control: pause between two runs")
	length := flags.Duration("length", 200*time.Microsecond, "control: CPU time of a run")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "send":
		return send(p)
	case "sink":
		return sink(*grpc, *http)
	case "control":
		return control(*pause, *length)
	default:
		return fmt.Errorf("unknown role %q: give send, sink or control", args[0])
	}
}

// plan is what a client sends.
type plan struct {
	server, from   string
	connections    int
	rate           float64
	warm, duration time.Duration
	sampled        float64
	perTrace       int
}

// event is a line that a client writes: when it is connected, when it is warm, and at
// its end, with the result.
type event struct {
	State string `json:"state"`
	*result
}

// result is what a client sent and saw.
type result struct {
	// Requests is the number of requests with a response, Sampled how many of them
	// were sampled. Both include the warm-up and the first request of each connection,
	// which is not sampled.
	Requests int `json:"requests"`
	Sampled  int `json:"sampled"`
	// Rate is how many responses came per second after the warm-up.
	Rate float64 `json:"rate"`
	// Latencies are in ns. They count from when a request was due, at a rate, or else
	// from when it was sent.
	P50  int64 `json:"p50_ns"`
	P99  int64 `json:"p99_ns"`
	P999 int64 `json:"p999_ns"`
	Max  int64 `json:"max_ns"`
	// Late is the 99th percentile of how long after it was due a request was sent
	// although a connection was free: the client's own part in the latency.
	Late int64 `json:"late_p99_ns"`
}

func say(state string, r *result) error {
	return json.NewEncoder(os.Stdout).Encode(event{state, r})
}

// send connects, waits for SIGUSR1, and then sends the plan.
func send(p plan) error {
	if p.connections < 1 || p.rate < 0 || p.duration <= 0 || p.perTrace < 1 {
		return fmt.Errorf("%d connections, rate %g, duration %v, %d requests per trace: want more than 0", p.connections, p.rate, p.duration, p.perTrace)
	}
	begin := make(chan os.Signal, 1)
	signal.Notify(begin, syscall.SIGUSR1)
	c, err := connect(p)
	if err != nil {
		return err
	}
	if err := say("connected", nil); err != nil {
		return err
	}
	<-begin
	if err := c.run(); err != nil {
		return err
	}
	r, err := c.result()
	if err != nil {
		return err
	}
	if err := say("done", &r); err != nil {
		return err
	}
	return c.close()
}

func (c *client) result() (r result, err error) {
	if len(c.latencies) == 0 {
		return r, fmt.Errorf("no response in %v after the warm-up", c.plan.duration)
	}
	slices.Sort(c.latencies)
	slices.Sort(c.late)
	return result{
		Requests: c.done, Sampled: c.sampled,
		Rate: float64(len(c.latencies)) / c.plan.duration.Seconds(),
		P50:  stats.Quantile(c.latencies, 0.5), P99: stats.Quantile(c.latencies, 0.99),
		P999: stats.Quantile(c.latencies, 0.999), Max: stats.Quantile(c.latencies, 1),
		Late: stats.Quantile(c.late, 0.99),
	}, nil
}

// control takes CPU time in short runs, for ever.
func control(pause, length time.Duration) error {
	runtime.LockOSThread()
	for {
		time.Sleep(pause)
		if err := compute(length); err != nil {
			return err
		}
	}
}

// compute takes CPU time of the calling thread.
func compute(length time.Duration) error {
	var began, now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &began); err != nil {
		return fmt.Errorf("read the thread's CPU time: %w", err)
	}
	for now.Nano()-began.Nano() < int64(length) {
		if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
			return fmt.Errorf("read the thread's CPU time: %w", err)
		}
	}
	return nil
}
