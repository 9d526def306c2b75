// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Tool is a program that reads the requests that pass the node's two interfaces.
type Tool struct {
	// Name is in results.
	Name string
	// Sampled is the share of requests that are sampled while it runs, in percent.
	Sampled float64
	// Points is at how many points the tool should see each request; of the sampled
	// ones only, if OnlySampled.
	Points      int
	OnlySampled bool

	// start starts it in the testbed's group for tools, and returns when it captures.
	start func(ctx context.Context, t *Testbed) (runningTool, error)
}

// expected is how many requests the tool should see in sum over its points.
func (t Tool) expected(sent Sent) int {
	if t.OnlySampled {
		return t.Points * sent.Sampled
	}
	return t.Points * sent.Requests
}

// Counts is what a tool saw.
type Counts struct {
	// Seen is the number of requests, in sum over the points.
	Seen int
	// Lost is what the tool reports as lost, in its own unit: requests or packets.
	// Reports is false for a tool that does not say.
	Lost    int
	Reports bool
	// Spans is how many spans the sink received.
	Spans int
}

type runningTool interface {
	// drain waits until the tool has worked off what it has read. It returns the CPU
	// time that the tool took for being asked.
	drain(ctx context.Context) (asked time.Duration, err error)
	// stop ends it and returns what it saw.
	stop(ctx context.Context) (Counts, error)
}

// Binary is a program of layertrace to measure.
type Binary struct{ Name, Path string }

// modes are the ways in which layertrace is measured.
var modes = []struct {
	name    string
	sampled float64
	points  int
	flags   []string
}{
	{"none", 100, 2, []string{"--export", "none"}},
	{"otlp", 100, 2, otlpGRPC},
	{"otlp-http", 100, 2, []string{"--export", "otlp-http", "--otlp-endpoint", "http://" + sinkHTTP}},
	{"layers", 100, 4, append([]string{layersFlag}, otlpGRPC...)},
	{"sampled", 1, 2, otlpGRPC},
	{"sampled-none", 1, 2, []string{"--export", "none"}},
}

var otlpGRPC = []string{"--export", "otlp-grpc", "--otlp-endpoint", sinkGRPC, "--otlp-insecure"}

const layersFlag = "--spans=layers"

// others are the other tools, in the order of their results. All but our own are programs of
// that name, to be installed.
var others = []struct {
	name string
	own  bool
	make func() Tool
}{{"tcpdump", false, tcpdump}, {"ngrep", false, ngrep}, {"tshark", false, tshark}, {"gor", false, gor}, {"control", true, control}}

// ToolNames returns the names for Tools.
func ToolNames() (names []string) {
	for _, m := range modes {
		names = append(names, m.name)
	}
	for _, o := range others {
		names = append(names, o.name)
	}
	return names
}

// DefaultTools returns the names of the usual tools, with those that Debian does not have
// only if they are there.
func DefaultTools() []string {
	names := []string{"none", "otlp", "layers", "sampled", "tcpdump", "ngrep", "tshark"}
	if _, err := exec.LookPath("gor"); err == nil {
		names = append(names, "gor")
	}
	return names
}

// Tools returns the tools with these names. Each mode of layertrace is one for each
// binary.
func Tools(names []string, binaries []Binary) (tools []Tool, err error) {
	for _, name := range names {
		if !slices.Contains(ToolNames(), name) {
			return nil, fmt.Errorf("no tool %q: want one or more of %s", name, strings.Join(ToolNames(), ", "))
		}
	}
	for _, m := range modes {
		for _, b := range binaries {
			if slices.Contains(names, m.name) {
				tools = append(tools, Tool{
					Name: b.Name + " " + m.name, Sampled: m.sampled, Points: m.points, OnlySampled: true,
					start: startAgent(b.Path, m.flags),
				})
			}
		}
	}
	for _, o := range others {
		if slices.Contains(names, o.name) {
			if _, err := exec.LookPath(o.name); err != nil && !o.own {
				return nil, fmt.Errorf("%w; install it, or leave it out of --tools", err)
			}
			tools = append(tools, o.make())
		}
	}
	return tools, nil
}

// agent is a running layertrace.
type agent struct {
	testbed *Testbed
	process *sandbox.Process
	before  int // spans that the sink received before
	exports bool
	layers  bool
	// last are the metrics.
	last map[string]float64
}

const identity = `node: node
interfaces:
  vc: {service: client, namespace: default, pod: client}
  vs: {service: server, namespace: default, pod: server}
addresses:
  10.79.0.2: {service: server, namespace: default, pod: server, node: node}
  10.79.1.1: {service: client, namespace: default, pod: client, node: node}
`

// startAgent returns what starts an agent with flags. It captures at the
// node's interfaces, and has its names from a file unless the flags have a cluster.
func startAgent(path string, flags []string) func(context.Context, *Testbed) (runningTool, error) {
	return func(ctx context.Context, t *Testbed) (runningTool, error) {
		names := t.file("identity.yaml")
		if !slices.Contains(flags, "--kubernetes") {
			if err := os.WriteFile(names, []byte(identity), 0o644); err != nil {
				return nil, fmt.Errorf("write the identity file: %w", err)
			}
			flags = append(slices.Clone(flags), "--identity", names)
		}
		args := append([]string{"agent", "--node", "node", "--vnic", "v*", "--pnic", "none*",
			"--metrics-address", lab.AgentMetricsAddress}, flags...)
		if slices.Contains(flags, layersFlag) {
			args = append(args, "--socket-cgroup", t.peers.Path)
		}
		a := &agent{testbed: t, exports: !slices.Contains(flags, "none"), layers: slices.Contains(flags, layersFlag)}
		var err error
		if a.before, err = t.spansReceived(ctx); err != nil {
			return nil, err
		}
		if a.process, err = t.start("agent", path, t.node, t.tool, args...); err != nil {
			return nil, err
		}
		err = sandbox.AwaitReady(ctx, a.process, time.Minute, 20*time.Millisecond, func(ctx context.Context) error {
			if _, err := t.node.Get(ctx, "http://"+lab.AgentMetricsAddress+"/readyz"); err != nil {
				return err
			}
			if err := a.read(ctx); err != nil {
				return err
			}
			if n := a.sum("layertrace_interfaces"); int(n) != t.interfaces {
				return fmt.Errorf("attached to %v of %d interfaces", n, t.interfaces)
			}
			if n := a.sum("layertrace_identity_pods"); int(n) != t.pods {
				return fmt.Errorf("knows %v of %d pods", n, t.pods)
			}
			return nil
		})
		return a, err
	}
}

func (a *agent) read(ctx context.Context) error {
	body, err := a.testbed.node.Get(ctx, "http://"+lab.AgentMetricsAddress+"/metrics")
	if err != nil {
		return err
	}
	a.last, err = lab.ParseMetrics(body)
	return err
}

// sum adds the values of a metric over its labels.
func (a *agent) sum(name string) (total float64) {
	for with, value := range a.last {
		if with == name || strings.HasPrefix(with, name+"{") {
			total += value
		}
	}
	return total
}

// lost is what the agent counts as lost, between kernel and receiver.
func (a *agent) lost() (total float64) {
	for _, name := range []string{"layertrace_exchanges_ring_full_total", "layertrace_connections_map_full_total", "layertrace_requests_queue_full_total",
		"layertrace_segments_skipped_total", "layertrace_spans_dropped_total", "layertrace_spans_failed_total", "layertrace_spans_over_limit_total",
		"layertrace_traces_not_split_total", "layertrace_trace_observations_left_out_total", "layertrace_layer_spans_over_limit_total"} {
		total += a.sum(name)
	}
	return total
}

// An agent holds the observations of a trace for some seconds, with layers only.
const (
	quiet       = 4 * time.Second // more than --idle-timeout and --read-interval together
	quietLayers = 8 * time.Second
)

// drain waits until all exchanges have arrived and their spans are delivered, or until
// nothing changes any more.
func (a *agent) drain(ctx context.Context) (asked time.Duration, err error) {
	limit := quiet
	if a.layers {
		limit = quietLayers
	}
	var previous [4]float64
	changed := time.Now()
	err = sandbox.AwaitReady(ctx, a.process, 2*time.Minute, 250*time.Millisecond, func(ctx context.Context) error {
		before, err := a.testbed.tool.CPU()
		if err != nil {
			return err
		}
		if err := a.read(ctx); err != nil {
			return err
		}
		after, err := a.testbed.tool.CPU()
		if err != nil {
			return err
		}
		asked += after - before
		now := [4]float64{a.sum("layertrace_exchanges_emitted_total"), a.sum("layertrace_exchanges_handled_total"), a.sum("layertrace_spans_exported_total"), a.lost()}
		if now != previous {
			previous, changed = now, time.Now()
		}
		arrived := a.sum("layertrace_contexts_found_total") == now[0]+a.sum("layertrace_exchanges_ring_full_total") && now[1] == now[0]
		made := a.sum("layertrace_spans_accepted_total") + a.sum("layertrace_spans_over_limit_total")
		delivered := !a.exports || made == now[1] && a.sum("layertrace_spans_queued") == 0
		if (arrived && delivered && !a.layers) || time.Since(changed) > limit {
			return nil
		}
		return fmt.Errorf("emitted, handled, exported, lost: %v", now)
	})
	return asked, err
}

func (a *agent) stop(ctx context.Context) (c Counts, err error) {
	if err := a.read(ctx); err != nil {
		return c, err
	}
	c = Counts{Seen: int(a.sum("layertrace_exchanges_handled_total")), Lost: int(a.lost()), Reports: true}
	if err := a.process.Stop(20 * time.Second); err != nil {
		return c, err
	}
	received, err := a.testbed.spansReceived(ctx)
	c.Spans = received - a.before
	if a.exports && !a.layers {
		c.Seen = c.Spans // what arrived, not what the agent says
	}
	return c, err
}

// captureTool is another tool, as one process for each interface or one for both. What it
// writes is in memory.
type captureTool struct {
	program string
	// args are those of one process; interfaces is empty for one process that is given
	// both.
	args   func(dir, nic string) []string
	single bool
	// ready is what it logs when it captures; empty if it does not.
	ready string
	// probe is for one that logs this too early: the files whose growth shows that
	// packets arrive.
	probe string
	// kill is for one that has written everything and fails at SIGTERM.
	kill bool
	// seen counts requests in what it wrote, lost has what it reports as lost as group.
	seen func(path string) (int, error)
	lost *regexp.Regexp
}

type runningCapture struct {
	captureTool
	dir       string
	processes []*sandbox.Process
	outputs   []string
}

func (c captureTool) tool(name string) Tool {
	return Tool{Name: name, Sampled: 100, Points: 2, start: c.start}
}

func (c captureTool) start(ctx context.Context, t *Testbed) (runningTool, error) {
	dir, err := t.emptyMemory()
	if err != nil {
		return nil, err
	}
	path, err := exec.LookPath(c.program)
	if err != nil {
		return nil, err
	}
	r := &runningCapture{captureTool: c, dir: dir}
	nics := []string{clientVeth, serverVeth}
	if c.single {
		nics = []string{""}
	}
	for _, nic := range nics {
		name := c.program + nic
		output := filepath.Join(dir, name+".out")
		process, err := sandbox.Start(sandbox.Spec{
			Name: name, Path: path, Args: c.args(dir, nic), Namespace: t.node, Cgroup: t.tool,
			Stdout: output, Stderr: filepath.Join(dir, name+".log"), Env: []string{"TMPDIR=" + dir},
		})
		if err != nil {
			return nil, err
		}
		r.processes, r.outputs = append(r.processes, process), append(r.outputs, output)
	}
	for _, process := range r.processes {
		err := sandbox.AwaitReady(ctx, process, 30*time.Second, 20*time.Millisecond, func(context.Context) error {
			if log, err := os.ReadFile(r.log(process)); err != nil || !strings.Contains(string(log), c.ready) {
				return errors.Join(err, fmt.Errorf("no %q in its log", c.ready))
			}
			return t.node.Do(func() error { return packetSockets(2) })
		})
		if err != nil {
			return nil, err
		}
	}
	if c.probe == "" {
		return r, nil
	}
	const before = 1000 // bytes: the file's head is smaller, a request and its response larger
	return r, sandbox.AwaitReady(ctx, r.processes[0], 30*time.Second, 50*time.Millisecond, func(ctx context.Context) error {
		// Without a trace context, so that it does not count.
		if _, err := t.client.Get(ctx, "http://"+serverAddress+"/"); err != nil {
			return err
		}
		size, err := sizeOf(filepath.Join(dir, c.probe))
		if err == nil && size < before {
			err = fmt.Errorf("%d bytes captured", size)
		}
		return err
	})
}

// sizeOf returns the size of all files that match a pattern.
func sizeOf(pattern string) (size int64, err error) {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return 0, err
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return 0, err
		}
		size += info.Size()
	}
	return size, nil
}

func (r *runningCapture) log(process *sandbox.Process) string {
	return filepath.Join(r.dir, process.Name()+".log")
}

// packetSockets returns nil when this many packet sockets receive in the thread's
// network namespace (packet(7), net/packet/af_packet.c).
func packetSockets(want int) error {
	text, err := os.ReadFile("/proc/thread-self/net/packet")
	if err != nil {
		return err
	}
	running := 0
	for line := range strings.Lines(string(text)) {
		// sk RefCnt Type Proto Iface R Rmem User Inode
		if fields := strings.Fields(line); len(fields) > 5 && fields[5] == "1" {
			running++
		}
	}
	if running < want {
		return fmt.Errorf("%d of %d packet sockets receive", running, want)
	}
	return nil
}

// drain waits until no file grows any more.
func (r *runningCapture) drain(ctx context.Context) (asked time.Duration, err error) {
	last, changed := int64(-1), time.Now()
	return 0, sandbox.AwaitReady(ctx, r.processes[0], 5*time.Minute, 100*time.Millisecond, func(context.Context) error {
		size, err := sizeOf(filepath.Join(r.dir, "*"))
		if err != nil {
			return err
		}
		if size != last {
			last, changed = size, time.Now()
		}
		// libpcap hands over a block after a second at most.
		if time.Since(changed) > 2*time.Second {
			return nil
		}
		return fmt.Errorf("%d bytes written", size)
	})
}

func (r *runningCapture) stop(context.Context) (c Counts, err error) {
	var errs []error
	for _, process := range r.processes {
		end := func() error { return process.Stop(30 * time.Second) }
		if r.kill {
			end = process.Kill
		}
		errs = append(errs, end())
	}
	if err := errors.Join(errs...); err != nil {
		return c, err
	}
	c.Reports = r.lost != nil
	for i, process := range r.processes {
		seen, err := r.seen(r.outputs[i])
		if err != nil {
			return c, err
		}
		c.Seen += seen
		if r.lost == nil {
			continue
		}
		log, err := os.ReadFile(r.log(process))
		if err != nil {
			return c, err
		}
		for _, match := range r.lost.FindAllStringSubmatch(string(log), -1) {
			n, err := strconv.Atoi(match[1])
			if err != nil {
				return c, fmt.Errorf("read what %s lost: %w", process.Name(), err)
			}
			c.Lost += n
		}
	}
	return c, nil
}

const portFilter = "tcp port 8080"

// tcpdump writes whole packets to files, to be read later.
func tcpdump() Tool {
	return captureTool{
		program: "tcpdump",
		args: func(dir, nic string) []string {
			return []string{"-i", nic, "-Z", "root", "-w", filepath.Join(dir, "tcpdump"+nic+".pcap"), portFilter}
		},
		ready: "listening on",
		seen: func(output string) (int, error) {
			return requestsInCapture(strings.TrimSuffix(output, ".out") + ".pcap")
		},
		lost: regexp.MustCompile(`(\d+) packets? dropped by kernel`),
	}.tool("tcpdump")
}

// ngrep writes the lines of requests that have a trace context.
func ngrep() Tool {
	return captureTool{
		program: "ngrep",
		args: func(_, nic string) []string {
			return []string{"-d", nic, "-q", "-t", "-W", "single", "-l", "traceparent: 00-", portFilter}
		},
		seen: func(output string) (int, error) { return linesWith(output, "traceparent: 00-", " GET / HTTP/1.1") },
	}.tool("ngrep")
}

// tshark writes a line for each request. Without the analysis of sequence numbers it
// does not take the second interface for retransmissions.
func tshark() Tool {
	return captureTool{
		program: "tshark", single: true, ready: "Capture started", probe: "wireshark*",
		args: func(string, string) []string {
			return []string{"-n", "-i", clientVeth, "-i", serverVeth, "-f", portFilter, "-Y", "http.request",
				"-o", "tcp.analyze_sequence_numbers:FALSE", "-o", "tcp.desegment_tcp_streams:FALSE",
				"-T", "fields", "-e", "frame.time_epoch", "-e", "frame.interface_name", "-e", "http.request.method", "-e", "http.request.line"}
		},
		seen: func(output string) (int, error) { return linesWith(output, "traceparent: 00-") },
		lost: regexp.MustCompile(`(\d+) packets? dropped`),
	}.tool("tshark")
}

// gor, GoReplay, writes requests and the responses that belong to them, which do not have
// the trace context. Without a filter of its own it reads only what is for the addresses of
// the interface. Tried with github.com/buger/goreplay v1.3.2.
func gor() Tool {
	return captureTool{
		program: "gor", single: true, kill: true,
		args: func(string, string) []string {
			return []string{"--input-raw", clientVeth + ":8080", "--input-raw", serverVeth + ":8080", "--input-raw-bpf-filter", portFilter, "--input-raw-track-response", "--output-stdout"}
		},
		seen: func(output string) (int, error) { return linesWith(output, "traceparent: 00-") },
	}.tool("gor")
}

// control takes CPU time as a cheap tool does, and looks at no packet. What it does to latencies,
// any tool does.
func control() Tool {
	return Tool{Name: "control", Sampled: 1, start: func(_ context.Context, t *Testbed) (runningTool, error) {
		process, err := t.start("control", t.options.Load, t.node, t.tool, "control")
		return runningControl{process}, err
	}}
}

type runningControl struct{ *sandbox.Process }

func (runningControl) drain(context.Context) (time.Duration, error) { return 0, nil }

func (c runningControl) stop(context.Context) (Counts, error) { return Counts{}, c.Kill() }
