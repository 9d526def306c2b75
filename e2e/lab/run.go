// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Setup configures a run of the mesh.
type Setup struct {
	// Name is used in messages and for the run's directory in the lab's.
	Name string
	// Tracer is the Envoys' tracer.
	Tracer Tracer
	// Reordered moves the trace headers to the start with the Wasm module;
	// otherwise they are where Envoy puts them.
	Reordered bool
	// AgentFlags are further flags of all agents. NoAgents runs the mesh without
	// agents.
	AgentFlags []string
	NoAgents   bool
	// NodeFlags are further flags of some nodes' agents, after AgentFlags.
	NodeFlags map[int][]string
	// OptionOnly makes the agents write TCP options and watch nothing but their
	// node's loopback interface, which no request passes.
	OptionOnly bool
	// NoPNIC are the nodes whose agents skip the physical interface.
	NoPNIC map[int]bool
	// ClockOffset shifts the monotonic clocks of some nodes' agents, and with
	// them the wall-clock times that the agents report. The kernel's timestamps
	// of packets are not shifted. Nodes with wrong clocks behave like this.
	ClockOffset map[int]time.Duration
	// TCPOption is the agents' --tcp-option, limited to their node's pods;
	// empty for none.
	TCPOption string
	// Export is the agents' --export. By default they export over OTLP, and to
	// the files of exchanges that are compared with the ground truth.
	Export string
	// Collector sends the spans to the Collector, which StartCollector started, instead of
	// to Jaeger.
	Collector bool
	// Sampling is the share of requests that the mesh samples, in percent; 0 for
	// all.
	Sampling float64
	// JoinTo is the receiver of join's spans in a lab with devices, by default Jaeger.
	// JoinFlags are further flags of join, DeviceFlags of the devices' agents. DevicePNIC are
	// the interfaces that some devices watch, by default all that lead to nodes and devices.
	JoinTo                 string
	JoinFlags, DeviceFlags []string
	DevicePNIC             map[string][]string
	// Balancer is the program of a Collector that shares spans and sightings between two
	// joins by connection. Empty: one join, without a Collector.
	Balancer string
	// TLS encrypts between pods; nil for plain text.
	TLS *TLS
	// Rough makes connections and requests end early: Envoys retry, use a connection for 50
	// requests and at most 2 s, and pass Expect: 100-continue on.
	Rough bool
	// Virtual: the gateway calls productpage by VirtualIP; see Translate.
	Virtual bool
}

func (s Setup) sampling() float64 { return cmp.Or(s.Sampling, 100) }

// Run is a running mesh: applications, Envoys and agents.
type Run struct {
	lab   *Lab
	setup Setup
	dir   string

	apps, envoys []*sandbox.Process
	agents       map[int]*sandbox.Process
	agentFiles   map[int][]AgentFile

	devices  map[string]*sandbox.Process // their agents, in a lab with devices
	joins    []*sandbox.Process
	launches int // of joins and devices
	balancer *sandbox.Process

	authority *Authority // with TLS
}

// Start starts applications, Envoys and agents, and waits until all are ready.
// When it fails, none of them keeps running.
func (l *Lab) Start(ctx context.Context, setup Setup) (*Run, error) {
	l.runs++
	r := &Run{
		lab: l, setup: setup, dir: filepath.Join(l.options.Dir, fmt.Sprintf("%d-%s", l.runs, setup.Name)),
		agents: map[int]*sandbox.Process{}, agentFiles: map[int][]AgentFile{},
	}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		return nil, fmt.Errorf("create the run's directory: %w", err)
	}
	if setup.TLS != nil {
		var err error
		if r.authority, err = NewAuthority(setup.TLS.Chain); err != nil {
			return nil, err
		}
	}
	if err := r.start(ctx); err != nil {
		return nil, errors.Join(err, r.killAll())
	}
	return r, nil
}

// start starts everything at once, as loading BPF programs and starting Envoys
// both take long, and waits for all.
func (r *Run) start(ctx context.Context) error {
	withDevices := r.lab.options.Devices && !r.setup.NoAgents
	if withDevices {
		if err := errors.Join(r.startJoins(), r.startDevices()); err != nil {
			return err
		}
	}
	if !r.setup.NoAgents {
		for _, node := range Nodes {
			if node == ClientNode {
				continue
			}
			if err := r.launchAgent(node); err != nil {
				return err
			}
		}
	}
	for _, pod := range r.lab.pods {
		if err := r.startPod(pod); err != nil {
			return err
		}
	}
	defer r.lab.waiting.report(r.lab.options.Progress)()
	group, ctx := errgroup.WithContext(ctx)
	for node := range r.agents {
		group.Go(func() error { return r.agentReady(ctx, node) })
	}
	if withDevices {
		group.Go(func() error { return r.joinsReady(ctx) })
		for _, d := range Devices {
			group.Go(func() error { return r.deviceReady(ctx, d) })
		}
	}
	group.Go(func() error { return r.podsReady(ctx) })
	return group.Wait()
}

// Stop ends agents, Envoys and applications, in that order, by SIGTERM: they write
// what they have buffered. Afterwards the run's files are complete.
func (r *Run) Stop() error {
	if err := r.StopAgents(); err != nil {
		return errors.Join(err, r.killAll())
	}
	err := stopAll(r.envoys)
	if err == nil {
		err = stopAll(r.apps)
	}
	if err != nil {
		return errors.Join(err, r.killAll())
	}
	r.envoys, r.apps = nil, nil
	return nil
}

// StopAgents ends the agents, which first send what they have buffered to Jaeger
// and to their files.
func (r *Run) StopAgents() error {
	var agents []*sandbox.Process
	for _, p := range r.agents {
		agents = append(agents, p)
	}
	clear(r.agents)
	return errors.Join(stopAll(agents), r.stopDevices())
}

func stopAll(processes []*sandbox.Process) error {
	var group errgroup.Group
	for _, p := range processes {
		group.Go(func() error { return p.Stop(20 * time.Second) })
	}
	return group.Wait()
}

// killAll kills what still runs.
func (r *Run) killAll() error {
	var errs []error
	for _, p := range r.agents {
		errs = append(errs, p.Kill())
	}
	for _, p := range slices.Concat(slices.Collect(maps.Values(r.devices)), r.joins, []*sandbox.Process{r.balancer}) {
		if p != nil {
			errs = append(errs, p.Kill())
		}
	}
	r.joins, r.balancer, r.devices = nil, nil, nil
	for _, p := range append(r.envoys, r.apps...) {
		errs = append(errs, p.Kill())
	}
	clear(r.agents)
	r.envoys, r.apps = nil, nil
	return errors.Join(errs...)
}

// startPod starts a pod's application and its Envoy.
func (r *Run) startPod(pod Pod) error {
	namespace := r.lab.network.pods[pod.Name]
	if !pod.Gateway {
		args := []string{
			"--role", pod.Service,
			"--listen", ":" + strconv.Itoa(AppPort),
			"--log", r.file("requests", pod.Name),
			"--control", r.ControlSocket(pod.Name),
		}
		for _, name := range pod.Calls {
			args = append(args, "--host", fmt.Sprintf("%s=%s:%d", name, Services[name].ClusterIP, AppPort))
		}
		app, err := sandbox.Start(sandbox.Spec{
			Name: "application of " + pod.Name, Path: r.lab.options.Tools.Bookinfo, Args: args,
			Namespace: namespace, Cgroup: r.lab.groups[container(pod.Name, application)], Stderr: r.file("app", pod.Name+".log"),
		})
		if err != nil {
			return err
		}
		r.apps = append(r.apps, app)
	}
	if pod.Plain {
		return nil
	}
	config, err := r.writeEnvoyConfig(pod)
	if err != nil {
		return err
	}
	flush := "500"
	if r.Encrypted() {
		flush = "20" // captures need the secrets soon
	}
	proxy, err := sandbox.Start(sandbox.Spec{
		Name: "Envoy of " + pod.Name, Path: r.lab.options.Tools.Envoy,
		Args: []string{
			"--config-path", config, "--concurrency", "1", "--disable-hot-restart",
			"--log-level", "warn", "--file-flush-interval-msec", flush,
		},
		Namespace: namespace, Cgroup: r.lab.SidecarGroup(pod.Name), UID: UID, GID: GID, Stderr: r.file("envoy", pod.Name+".log"),
	})
	if err != nil {
		return err
	}
	r.envoys = append(r.envoys, proxy)
	return nil
}

func (r *Run) writeEnvoyConfig(pod Pod) (path string, err error) {
	config := EnvoyConfig{
		Pod: pod.Name, Service: pod.Service,
		Gateway: pod.Gateway, GatewayPort: GatewayPort, AppPort: AppPort,
		Tracer: r.setup.Tracer, Sampling: r.setup.sampling(), CollectorIP: r.setup.collectorIP(),
		AccessLog: r.file("access", pod.Name), Rough: r.setup.Rough,
	}
	if r.setup.Reordered {
		config.Wasm = r.lab.options.Tools.Wasm
	}
	for _, name := range pod.Calls {
		endpoints, err := Services[name].Endpoints()
		if err != nil {
			return "", err
		}
		if r.setup.Virtual && pod.Gateway {
			endpoints[0].IP = VirtualIP
		}
		config.Clusters = append(config.Clusters, EnvoyCluster{Name: name, Endpoints: endpoints})
	}
	if r.setup.TLS != nil {
		if err := r.setup.TLS.Configure(&config, r.authority, pod, PodGateway(pod.Node), r.file("tls", pod.Name), r.KeyLog(pod.Name)); err != nil {
			return "", err
		}
	}
	data, err := config.Bootstrap()
	if err != nil {
		return "", err
	}
	path = r.file("envoy", pod.Name+".yaml")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return "", fmt.Errorf("write the Envoy configuration: %w", err)
	}
	return path, nil
}

// podsReady waits until every Envoy is ready and every application accepts
// connections.
func (r *Run) podsReady(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	apps, envoys := r.apps, r.envoys
	for _, pod := range r.lab.pods {
		namespace := r.lab.network.pods[pod.Name]
		if !pod.Plain {
			envoy := envoys[0]
			envoys = envoys[1:]
			group.Go(func() error {
				return r.lab.ready(ctx, envoy, func(ctx context.Context) error {
					_, err := namespace.Get(ctx, "http://"+EnvoyAdminAddress+"/ready")
					return err
				})
			})
		}
		if pod.Gateway {
			continue
		}
		app := apps[0]
		apps = apps[1:]
		group.Go(func() error {
			return r.lab.ready(ctx, app, func(ctx context.Context) error {
				conn, err := namespace.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(AppPort)))
				if err != nil {
					return err
				}
				return conn.Close()
			})
		})
	}
	return group.Wait()
}

// readyLimit is how long a process may take to be ready. Loading BPF programs and
// compiling the Wasm module take seconds of CPU in each agent and Envoy, which add
// up on a busy machine.
const readyLimit = 3 * time.Minute

// ready waits until a process is ready, and fails at once when it ends.
func (l *Lab) ready(ctx context.Context, p *sandbox.Process, isReady func(context.Context) error) error {
	l.waiting.add(p.Name())
	defer l.waiting.remove(p.Name())
	return sandbox.AwaitReady(ctx, p, readyLimit, 20*time.Millisecond, isReady)
}

// waiting has the names of the processes that are not ready yet.
type waiting struct {
	mu    sync.Mutex
	names map[string]bool
}

func (w *waiting) add(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.names == nil {
		w.names = map[string]bool{}
	}
	w.names[name] = true
}

func (w *waiting) remove(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.names, name)
}

// report reports every few seconds what is not ready yet, until stop is called.
func (w *waiting) report(progress func(string, ...any)) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				w.mu.Lock()
				names := slices.Sorted(maps.Keys(w.names))
				w.mu.Unlock()
				progress("not ready yet: %s", strings.Join(names, ", "))
			}
		}
	}()
	return func() { close(quit); <-done }
}

// Drain waits until every Envoy has sent Jaeger a span for each request it handled.
// An Envoy that ends drops spans that it has not sent.
func (r *Run) Drain(ctx context.Context) error {
	for _, pod := range Pods {
		namespace := r.lab.network.pods[pod.Name]
		what := fmt.Sprintf("the Envoy of %s to send its spans", pod.Name)
		err := sandbox.Await(ctx, what, 30*time.Second, 50*time.Millisecond, func(ctx context.Context) error {
			requests, spans, err := spanCounts(ctx, namespace)
			if err == nil && spans < requests {
				err = fmt.Errorf("%d of %d", spans, requests)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// spanCounts reads from an Envoy's statistics how many requests its listeners
// received and how many spans it sent.
func spanCounts(ctx context.Context, namespace *sandbox.Namespace) (requests, spans uint64, err error) {
	const url = "http://" + EnvoyAdminAddress + "/stats?format=json&filter=downstream_rq_total|spans_sent"
	data, err := namespace.Get(ctx, url)
	if err != nil {
		return 0, 0, err
	}
	stats, err := parseStats(data)
	if err != nil {
		return 0, 0, err
	}
	for name, value := range stats {
		switch {
		case strings.HasSuffix(name, ".spans_sent"):
			spans += value
		case name == "http.inbound.downstream_rq_total", name == "http.outbound.downstream_rq_total":
			requests += value
		}
	}
	return requests, spans, nil
}

// parseStats parses statistics of an Envoy.
func parseStats(data []byte) (map[string]uint64, error) {
	var body struct {
		Stats []struct {
			Name  string `json:"name"`
			Value uint64 `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(data, &body); err != nil {
		return nil, fmt.Errorf("read Envoy statistics: %w", err)
	}
	stats := map[string]uint64{}
	for _, stat := range body.Stats {
		stats[stat.Name] = stat.Value
	}
	return stats, nil
}

// AccessLog returns the file in which a pod's Envoy logs the requests it sent to
// other pods, complete after Stop. A pod without calls has none.
func (r *Run) AccessLog(pod string) string { return r.file("access", pod) }

// RequestLog returns the file in which a pod's application logs the requests it
// received, complete after Stop.
func (r *Run) RequestLog(pod string) string { return r.file("requests", pod) }

// Encrypted reports whether Envoys speak TLS with each other.
func (r *Run) Encrypted() bool { return r.setup.TLS != nil }

// KeyLog returns the file of the secrets of a pod's TLS connections, in the NSS key log
// format, complete after Stop.
func (r *Run) KeyLog(pod string) string { return r.file("keys", pod) }

// ControlSocket returns the Unix socket on which a pod's application takes faults.
func (r *Run) ControlSocket(pod string) string { return r.file("control", pod) }

// AgentFile has the exchanges that one agent wrote, a JSON line each.
type AgentFile struct {
	Path string
	// Killed is set when the agent was killed: the last line may be cut off.
	Killed bool
}

// Exchanges returns the files with the exchanges of a node, one per start of its
// agent, complete after StopAgents.
func (r *Run) Exchanges(node int) []AgentFile { return r.agentFiles[node] }

// file returns the path of one of the run's files.
func (r *Run) file(kind, of string) string { return filepath.Join(r.dir, kind+"-"+of) }

// InterfaceNames returns the names of a node's interfaces by index.
func (l *Lab) InterfaceNames(node int) (map[int]string, error) {
	nl, err := l.network.nodes[node].Netlink()
	if err != nil {
		return nil, err
	}
	defer nl.Close()
	links, err := nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces of %s: %w", NodeName(node), err)
	}
	names := map[int]string{}
	for _, link := range links {
		names[link.Attrs().Index] = link.Attrs().Name
	}
	return names, nil
}
