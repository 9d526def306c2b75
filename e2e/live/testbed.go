// SPDX-License-Identifier: Apache-2.0

// Package live lets an agent watch a client and a server that talk over a router:
// requests of which every read and write is known, with Jaeger, and without Envoy.
//
//	client 10.78.1.2 -- vethclient [router: agent, Jaeger] vethserver -- 10.78.2.2 server
package live

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Options configure a testbed.
type Options struct {
	// Name distinguishes testbeds that exist at the same time.
	Name string
	// Dir is a directory for configuration and logs. Up empties it.
	Dir   string
	Tools lab.Tools
	// ClientAddresses is how many addresses the client has, at least 1.
	ClientAddresses int
	// AgentFlags are further flags of the agent. Export is its --export.
	AgentFlags []string
	Export     string
	// TLS encrypts between the pods of client and server, which get a sidecar each; nil for
	// plain text without sidecars.
	TLS      *lab.TLS
	Progress func(format string, args ...any)
}

// Testbed is a router with an agent between a client's and a server's namespace.
type Testbed struct {
	// Jaeger reads traces back.
	Jaeger *lab.JaegerClient

	options                Options
	prefix                 string
	group, inner           *sandbox.Group
	client, router, server *sandbox.Namespace
	agent                  *sandbox.Process
	started                int
}

const (
	nodeName   = "router"
	serverIP   = "10.78.2.2"
	serverPort = 8080
	serverAddr = serverIP + ":8080"
	loopback   = "127.0.0.1"
)

// clientAddress returns the client's n-th address.
func clientAddress(n int) string { return fmt.Sprintf("10.78.1.%d", 2+n) }

// Up creates the network and starts Jaeger, the server and the agent. When it fails,
// nothing remains. Call Down on the result.
func Up(ctx context.Context, options Options) (*Testbed, error) {
	if err := lab.CheckRoot(); err != nil {
		return nil, err
	}
	t := &Testbed{options: options, prefix: "lt-" + options.Name + "-"}
	if err := t.up(ctx); err != nil {
		return nil, errors.Join(err, t.Down())
	}
	return t, nil
}

func (t *Testbed) up(ctx context.Context) (err error) {
	if t.options.Dir, err = filepath.Abs(t.options.Dir); err != nil {
		return fmt.Errorf("find the testbed's directory: %w", err)
	}
	if t.group, err = sandbox.NewTestbed(ctx, t.groupName(), t.prefix, t.options.Dir); err != nil {
		return err
	}
	if t.inner, err = t.group.Child("peers"); err != nil {
		return err
	}
	if err := t.connect(); err != nil {
		return err
	}
	if err := t.startJaeger(ctx); err != nil {
		return err
	}
	address := serverAddr
	if t.options.TLS != nil {
		address = loopback + ":8080" // only its sidecar connects
	}
	if err := t.startServer(ctx, "server", address); err != nil {
		return err
	}
	if err := t.startAgent(ctx); err != nil || t.options.TLS == nil {
		return err
	}
	return t.startSidecars(ctx)
}

func (t *Testbed) groupName() string { return "layertrace-live-" + t.options.Name }

// connect creates the namespaces, with the router between them.
func (t *Testbed) connect() (err error) {
	for name, namespace := range map[string]**sandbox.Namespace{"client": &t.client, "router": &t.router, "server": &t.server} {
		if *namespace, err = sandbox.NewNamespace(t.prefix + name); err != nil {
			return err
		}
	}
	var addresses []string
	for n := range t.options.ClientAddresses {
		addresses = append(addresses, clientAddress(n)+"/24")
	}
	return errors.Join(
		t.router.AddRoutedPair("vethclient", "10.78.1.1/24", t.client, addresses...),
		t.router.AddRoutedPair("vethserver", "10.78.2.1/24", t.server, "10.78.2.2/24"),
		t.client.AddRoute("0.0.0.0/0", "10.78.1.1"),
		t.server.AddRoute("0.0.0.0/0", "10.78.2.1"),
		t.router.Sysctl(map[string]string{"ip_forward": "1"}),
		t.client.Sysctl(map[string]string{"ip_local_port_range": "1024 65535"}),
	)
}

// start starts a program of the testbed.
func (t *Testbed) start(name, path string, in *sandbox.Namespace, group *sandbox.Group, args ...string) (*sandbox.Process, error) {
	t.started++
	return sandbox.Start(sandbox.Spec{
		Name: name, Path: path, Args: args, Namespace: in, Cgroup: group,
		Stdout: t.output(name), Stderr: filepath.Join(t.options.Dir, name+".log"),
	})
}

// output is the file with the standard output of a program.
func (t *Testbed) output(name string) string { return filepath.Join(t.options.Dir, name+".out") }

func (t *Testbed) startJaeger(ctx context.Context) error {
	config, err := lab.JaegerConfig("0.0.0.0", 20_000)
	if err != nil {
		return err
	}
	path := filepath.Join(t.options.Dir, "jaeger.yaml")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		return fmt.Errorf("write the Jaeger configuration: %w", err)
	}
	jaeger, err := t.start("jaeger", t.options.Tools.Jaeger, t.router, t.group, "--config", path)
	if err != nil {
		return err
	}
	t.Jaeger = lab.NewJaegerClient(loopback, t.router.DialContext)
	return sandbox.AwaitReady(ctx, jaeger, time.Minute, 50*time.Millisecond, func(ctx context.Context) error {
		_, err := t.Jaeger.Services(ctx)
		return err
	})
}

func (t *Testbed) startServer(ctx context.Context, name, address string) error {
	server, err := t.start(name, t.options.Tools.Peer, t.server, t.inner, "serve", "--server", address)
	if err != nil {
		return err
	}
	from := t.client
	if strings.HasPrefix(address, loopback) {
		from = t.server
	}
	return sandbox.AwaitReady(ctx, server, 10*time.Second, 20*time.Millisecond, func(ctx context.Context) error {
		conn, err := from.DialContext(ctx, "tcp4", address)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

const identity = `node: router
interfaces:
  vethclient: {service: client, namespace: default, pod: client}
  vethserver: {service: server, namespace: default, pod: server}
addresses:
`

func (t *Testbed) startAgent(ctx context.Context) (err error) {
	names := identity + "  10.78.2.2: {service: server, namespace: default, pod: server, node: router}\n"
	for n := range t.options.ClientAddresses {
		names += fmt.Sprintf("  %s: {service: client, namespace: default, pod: client, node: router}\n", clientAddress(n))
	}
	path := filepath.Join(t.options.Dir, "identity.yaml")
	if err := os.WriteFile(path, []byte(names), 0o644); err != nil {
		return fmt.Errorf("write the identity file: %w", err)
	}
	args := append([]string{
		"agent", "--node", nodeName, "--identity", path, "--vnic", "vethclient,vethserver", "--pnic", "none*",
		"--spans", "layers", "--socket-cgroup", t.inner.Path, "--export", t.options.Export,
		"--otlp-endpoint", loopback + ":" + strconv.Itoa(lab.JaegerOTLPPort), "--otlp-insecure",
		"--metrics-address", lab.AgentMetricsAddress,
	}, t.options.AgentFlags...)
	if t.options.TLS != nil {
		args = append(args, "--mtls", "--access-log-address", fmt.Sprintf(":%d", lab.AccessLogPort))
	}
	if t.agent, err = t.start("agent", t.options.Tools.Agent, t.router, t.group, args...); err != nil {
		return err
	}
	return sandbox.AwaitReady(ctx, t.agent, 3*time.Minute, 50*time.Millisecond, func(ctx context.Context) error {
		if _, err := t.router.Get(ctx, "http://"+lab.AgentMetricsAddress+"/readyz"); err != nil {
			return err
		}
		metrics, err := t.Metrics(ctx)
		if err == nil && sum(metrics, "layertrace_interfaces") != 2 {
			err = fmt.Errorf("attached to %v of 2 interfaces", sum(metrics, "layertrace_interfaces"))
		}
		return err
	})
}

// Metrics reads the agent's metrics: values by name with labels.
func (t *Testbed) Metrics(ctx context.Context) (map[string]float64, error) {
	body, err := t.router.Get(ctx, "http://"+lab.AgentMetricsAddress+"/metrics")
	if err != nil {
		return nil, err
	}
	return lab.ParseMetrics(body)
}

// sum adds the values of a metric over its labels.
func sum(metrics map[string]float64, name string) (total float64) {
	for with, value := range metrics {
		if with == name || strings.HasPrefix(with, name+"{") {
			total += value
		}
	}
	return total
}

// post sends Jaeger a span that a proxy would send.
func (t *Testbed) post(ctx context.Context, traceID string, s lab.Span) error {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: t.router.DialContext, DisableKeepAlives: true}}
	return lab.PostSpan(ctx, client, loopback, s, traceID)
}

// layertrace runs a layertrace command in the router's namespace, and returns what it
// wrote to standard output.
func (t *Testbed) layertrace(ctx context.Context, args ...string) ([]byte, error) {
	command, err := t.start("layertrace-"+strconv.Itoa(t.started), t.options.Tools.Agent, t.router, t.group, args...)
	if err != nil {
		return nil, err
	}
	if err := command.Wait(ctx); err != nil {
		return nil, err
	}
	return os.ReadFile(t.output(command.Name()))
}

// Down ends every process and removes the network.
func (t *Testbed) Down() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	if t.Jaeger != nil {
		t.Jaeger.Close()
	}
	if t.group != nil {
		errs = append(errs, t.group.Remove(ctx))
	}
	for _, namespace := range []*sandbox.Namespace{t.client, t.router, t.server} {
		if namespace != nil {
			errs = append(errs, namespace.Delete())
		}
	}
	return errors.Join(errs...)
}
