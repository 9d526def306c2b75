// SPDX-License-Identifier: Apache-2.0

// Package cost measures what layertrace costs a client and a server on the same machine,
// beside other tools that read the same traffic, and how that cost grows.
//
//	client -- vc [bridge, tool, sink of spans] vs -- server (nginx)
//
// Each request passes the two interfaces of the node in the middle. What was sent is
// known from the client, and what it cost from cgroups and from the idle time of the
// processors: never from the tool.
package cost

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Options configure a testbed.
type Options struct {
	// Name distinguishes testbeds that exist at the same time.
	Name string
	// Dir is a directory for configuration and logs. Up empties it.
	Dir string
	// Load is the program of e2e/cost/load.
	Load string
	// Clients is how many client processes, each with an address of its own, there can
	// be; at least 1.
	Clients int
	// Workers is the number of the server's processes, at least 1. A process has at most
	// 20,000 connections.
	Workers  int
	Progress func(format string, args ...any)
}

// Testbed is a client and a server with a node between them.
type Testbed struct {
	options              Options
	prefix               string
	group                *sandbox.Group
	peers, tool, sink    *sandbox.Group // below group
	client, node, server *sandbox.Namespace
	sinkProcess          *sandbox.Process
	closers              []func() error
	started              int
	interfaces           int     // of the node, that a tool watches
	pods                 int     // in the cluster; 0: no cluster
	limit                float64 // requests per second at saturation; 0: not measured yet
}

const (
	serverAddress = "10.79.0.2:8080"
	clientVeth    = "vc"
	serverVeth    = "vs"
	loopback      = "127.0.0.1"
	sinkGRPC      = loopback + ":4317"
	sinkHTTP      = loopback + ":4318"
	// workerConnections is below the 20,000 files that a process may open by default.
	workerConnections = 19_000
)

// clientAddress returns the address of the n-th client.
func clientAddress(n int) string { return fmt.Sprintf("10.79.1.%d", 1+n) }

// Up creates the network and starts the server and the sink. When it fails, nothing
// remains. Call Down on the result.
func Up(ctx context.Context, options Options) (*Testbed, error) {
	if err := lab.CheckRoot(); err != nil {
		return nil, err
	}
	t := &Testbed{options: options, prefix: "lt-" + options.Name + "-", interfaces: 2}
	if err := t.up(ctx); err != nil {
		return nil, errors.Join(err, t.Down())
	}
	return t, nil
}

func (t *Testbed) groupName() string { return "layertrace-cost-" + t.options.Name }

func (t *Testbed) up(ctx context.Context) (err error) {
	if t.options.Dir, err = filepath.Abs(t.options.Dir); err != nil {
		return fmt.Errorf("find the testbed's directory: %w", err)
	}
	if t.group, err = sandbox.NewTestbed(ctx, t.groupName(), t.prefix, t.options.Dir); err != nil {
		return err
	}
	for name, group := range map[string]**sandbox.Group{"peers": &t.peers, "tool": &t.tool, "sink": &t.sink} {
		if *group, err = t.group.Child(name); err != nil {
			return err
		}
	}
	if err := t.connect(); err != nil {
		return err
	}
	if err := t.startServer(ctx); err != nil {
		return err
	}
	return t.startSink(ctx)
}

func (t *Testbed) connect() (err error) {
	for name, namespace := range map[string]**sandbox.Namespace{"client": &t.client, "node": &t.node, "server": &t.server} {
		if *namespace, err = sandbox.NewNamespace(t.prefix + name); err != nil {
			return err
		}
	}
	err = errors.Join(
		t.node.AddBridge("cni0", "10.79.0.1/16"),
		t.node.AddPair(clientVeth, "cni0", t.client, clientAddress(0)+"/16"),
		t.node.AddPair(serverVeth, "cni0", t.server, "10.79.0.2/16"),
		t.client.Sysctl(map[string]string{"ip_local_port_range": "1024 65535"}),
	)
	for n := 1; n < t.options.Clients; n++ {
		err = errors.Join(err, t.client.AddAddress("eth0", clientAddress(n)+"/16"))
	}
	return err
}

const nginxConf = `worker_processes %d;
worker_rlimit_nofile %d;
pid nginx.pid;
error_log nginx.err;
daemon off;
events { worker_connections %d; }
http {
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  server {
    listen %s reuseport backlog=16384;
    location / { default_type text/plain; return 200 "%s\n"; }
  }
}
`

func (t *Testbed) startServer(ctx context.Context) error {
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		return fmt.Errorf("start a server: %w; install nginx-light", err)
	}
	conf := fmt.Sprintf(nginxConf, t.options.Workers, workerConnections+1000, workerConnections, serverAddress, strings.Repeat("x", 99))
	path := filepath.Join(t.options.Dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf), 0o644); err != nil {
		return fmt.Errorf("write the server's configuration: %w", err)
	}
	server, err := t.start("server", nginx, t.server, t.peers, "-p", t.options.Dir, "-c", path, "-e", "stderr")
	if err != nil {
		return err
	}
	return sandbox.AwaitReady(ctx, server, 10*time.Second, 20*time.Millisecond, func(ctx context.Context) error {
		_, err := t.client.Get(ctx, "http://"+serverAddress+"/")
		return err
	})
}

func (t *Testbed) startSink(ctx context.Context) (err error) {
	if t.sinkProcess, err = t.start("sink", t.options.Load, t.node, t.sink, "sink", "--grpc", sinkGRPC, "--http", sinkHTTP); err != nil {
		return err
	}
	return sandbox.AwaitReady(ctx, t.sinkProcess, 10*time.Second, 20*time.Millisecond, func(ctx context.Context) error {
		_, err := t.spansReceived(ctx)
		return err
	})
}

// spansReceived returns how many spans the sink has received.
func (t *Testbed) spansReceived(ctx context.Context) (int, error) {
	body, err := t.node.Get(ctx, "http://"+sinkHTTP+"/count")
	if err != nil {
		return 0, err
	}
	var counts struct{ Spans int }
	if err := json.Unmarshal(body, &counts); err != nil {
		return 0, fmt.Errorf("read the sink's counts: %w", err)
	}
	return counts.Spans, nil
}

// start starts a program of the testbed. Its output is in files of its name.
func (t *Testbed) start(name, path string, in *sandbox.Namespace, group *sandbox.Group, args ...string) (*sandbox.Process, error) {
	return sandbox.Start(sandbox.Spec{
		Name: name, Path: path, Args: args, Namespace: in, Cgroup: group,
		Stdout: t.file(name + ".out"), Stderr: t.file(name + ".log"),
	})
}

func (t *Testbed) file(name string) string { return filepath.Join(t.options.Dir, name) }

// emptyMemory returns an empty directory in memory, so that no tool waits for a disk.
func (t *Testbed) emptyMemory() (string, error) {
	if err := errors.Join(os.RemoveAll(t.memory()), os.Mkdir(t.memory(), 0o755)); err != nil {
		return "", fmt.Errorf("empty a directory in memory: %w", err)
	}
	return t.memory(), nil
}

func (t *Testbed) memory() string { return "/dev/shm/" + t.groupName() }

// Load is what clients send.
type Load struct {
	// Name is in results: the rate, or "saturation".
	Name string
	// Rate is the number of requests per second of all clients; 0 for as many as the
	// connections carry.
	Rate float64
	// Connections is the number of connections of all clients.
	Connections int
	// Warm is how long the load lasts before latencies count, Duration how long they do.
	Warm, Duration time.Duration
	// Sampled is the share of requests that are sampled, in percent.
	Sampled float64
	// PerTrace is the number of consecutive requests of one trace; 0 for one.
	PerTrace int
}

// Sent is what a client sent, and its latencies in ns, as e2e/cost/load reports them.
type Sent struct {
	Requests int     `json:"requests"`
	Sampled  int     `json:"sampled"`
	Rate     float64 `json:"rate"`
	P50      float64 `json:"p50_ns"`
	P99      float64 `json:"p99_ns"`
	P999     float64 `json:"p999_ns"`
	Max      float64 `json:"max_ns"`
	Late     float64 `json:"late_p99_ns"`
}

// perClient is how many connections a client process opens at most.
const perClient = 15_000

// clients are the running client processes of a load.
type clients struct {
	testbed   *Testbed
	processes []*sandbox.Process
	outputs   []string
}

// connectClients starts the clients of a load, as many as its connections need. It
// returns when all connections are open.
func (t *Testbed) connectClients(ctx context.Context, load Load) (*clients, error) {
	n := (load.Connections + perClient - 1) / perClient
	if n > t.options.Clients {
		return nil, fmt.Errorf("open %d connections: %d client addresses, want %d", load.Connections, t.options.Clients, n)
	}
	c := &clients{testbed: t}
	for i := range n {
		t.started++
		name := fmt.Sprintf("client-%d", t.started)
		share := load.Connections/n + btoi(i < load.Connections%n)
		process, err := t.start(name, t.options.Load, t.client, t.peers, "send", "--server", serverAddress, "--from", clientAddress(i),
			"--connections", strconv.Itoa(share), "--rate", fmt.Sprint(load.Rate/float64(n)), "--sampled", fmt.Sprint(load.Sampled),
			"--per-trace", strconv.Itoa(max(load.PerTrace, 1)), "--warm", load.Warm.String(), "--duration", load.Duration.String())
		if err != nil {
			return c, errors.Join(err, c.kill())
		}
		c.processes, c.outputs = append(c.processes, process), append(c.outputs, t.file(name+".out"))
	}
	if err := c.await(ctx, "connected", 2*time.Minute); err != nil {
		return c, errors.Join(err, c.kill())
	}
	return c, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// begin makes the connected clients send.
func (c *clients) begin() error {
	for _, process := range c.processes {
		if err := process.Signal(syscall.SIGUSR1); err != nil {
			return err
		}
	}
	return nil
}

// await waits until all clients have reported a state.
func (c *clients) await(ctx context.Context, state string, limit time.Duration) error {
	for i, process := range c.processes {
		err := sandbox.AwaitReady(ctx, process, limit, 5*time.Millisecond, func(context.Context) error {
			_, err := stateOf(c.outputs[i], state)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// end waits for the end of all clients and returns what they sent. The latencies are the
// highest of all.
func (c *clients) end(ctx context.Context) (sum Sent, err error) {
	for i, process := range c.processes {
		if err := process.Wait(ctx); err != nil {
			return sum, err
		}
		sent, err := stateOf(c.outputs[i], "done")
		if err != nil {
			return sum, err
		}
		sum.Requests += sent.Requests
		sum.Sampled += sent.Sampled
		sum.Rate += sent.Rate
		sum.P50, sum.P99, sum.P999 = max(sum.P50, sent.P50), max(sum.P99, sent.P99), max(sum.P999, sent.P999)
		sum.Max, sum.Late = max(sum.Max, sent.Max), max(sum.Late, sent.Late)
		if err := os.Remove(c.outputs[i]); err != nil {
			return sum, err
		}
	}
	return sum, nil
}

func (c *clients) kill() error {
	var errs []error
	for _, process := range c.processes {
		if process.Running() == nil {
			errs = append(errs, process.Kill())
		}
	}
	return errors.Join(errs...)
}

// stateOf returns what a client wrote with a state.
func stateOf(path, state string) (sent Sent, err error) {
	file, err := os.Open(path)
	if err != nil {
		return sent, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		line := struct {
			State string `json:"state"`
			Sent
		}{}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return sent, fmt.Errorf("read %s: %w", path, err)
		}
		if line.State == state {
			return line.Sent, nil
		}
	}
	if err := lines.Err(); err != nil {
		return sent, err
	}
	return sent, fmt.Errorf("the client has not reported %q", state)
}

// Down ends every process and removes the network.
func (t *Testbed) Down() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	for _, end := range t.closers {
		errs = append(errs, end())
	}
	if t.group != nil {
		errs = append(errs, t.group.Remove(ctx))
	}
	for _, namespace := range []*sandbox.Namespace{t.client, t.node, t.server} {
		if namespace != nil {
			errs = append(errs, namespace.Delete())
		}
	}
	return errors.Join(append(errs, os.RemoveAll(t.memory()))...)
}
