// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/podserver"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// A node with a bridge: the client's pod, one server that stays, and some that come and go.
//
//	client -- veth0 [bridge, agent, Jaeger, pods' server] veth1 -- server 1
//	                                                      veth2 -- server 2 ...
const (
	prefix         = "layertrace-soak"
	nodeName       = "soaked"
	nodeAddress    = "10.76.0.1"
	clientAddress  = "10.76.0.2"
	metricsAddress = "127.0.0.1:9464"
	apiAddress     = "127.0.0.1:6443"
	jaegerAddress  = "127.0.0.1"
	// servers is the number of servers at a time, one of which stays.
	servers = 5
	// clients send at the same time, each with a connection of its own to each server.
	clients = 8
	// maxTraces is the number of traces that Jaeger keeps.
	maxTraces = 2000
)

type testbed struct {
	options Options
	group   *sandbox.Group
	node    *sandbox.Namespace
	client  *sandbox.Namespace
	agent   *sandbox.Process
	jaeger  *sandbox.Process // nil: away
	api     *podserver.Server
	apiAway bool
	started int // servers

	sent, failed atomic.Int64

	mu      sync.RWMutex
	servers []*server
}

// server is a pod that serves HTTP.
type server struct {
	name      string
	uid       types.UID
	address   string
	namespace *sandbox.Namespace
	http      *http.Server
	using     sync.RWMutex // held for writing when it is to go
}

// up creates the network and starts everything. With an error, down is still to be called.
func up(ctx context.Context, o Options) (t *testbed, err error) {
	t = &testbed{options: o}
	if err := lab.CheckRoot(); err != nil {
		return t, err
	}
	if t.group, err = sandbox.NewTestbed(ctx, prefix, prefix, o.Dir); err != nil {
		return t, err
	}
	if t.node, err = sandbox.NewNamespace(prefix + "-node"); err != nil {
		return t, err
	}
	if t.client, err = sandbox.NewNamespace(prefix + "-client"); err != nil {
		return t, err
	}
	err = errors.Join(t.node.AddBridge("br0", nodeAddress+"/16"), t.node.AddPair("veth0", "br0", t.client, clientAddress+"/16"))
	if err != nil {
		return t, err
	}
	if t.api, err = podserver.New(); err != nil {
		return t, err
	}
	t.api.Put(pod("client", "client", clientAddress))
	for range servers {
		if err := t.addPod(); err != nil {
			return t, err
		}
	}
	if err := t.startAPI(); err != nil {
		return t, err
	}
	if err := t.startJaeger(ctx); err != nil {
		return t, err
	}
	return t, t.startAgent(ctx)
}

func (t *testbed) startAgent(ctx context.Context) (err error) {
	kubeconfig := t.file("kubeconfig")
	if err := os.WriteFile(kubeconfig, podserver.Kubeconfig(apiAddress), 0o600); err != nil {
		return fmt.Errorf("write a kubeconfig file: %w", err)
	}
	t.agent, err = t.start("agent", t.options.Agent, "agent", "--node", nodeName, "--vnic", "veth*", "--pnic", "", "--spans", "layers",
		"--export", "otlp-grpc", "--otlp-endpoint", fmt.Sprintf("%s:%d", jaegerAddress, lab.JaegerOTLPPort), "--otlp-insecure",
		"--metrics-address", metricsAddress, "--kubernetes", "--kubeconfig", kubeconfig)
	if err != nil {
		return err
	}
	return sandbox.AwaitReady(ctx, t.agent, time.Minute, 50*time.Millisecond, func(ctx context.Context) error {
		_, err := t.node.Get(ctx, "http://"+metricsAddress+"/readyz")
		return err
	})
}

// start starts a program on the node.
func (t *testbed) start(name, path string, args ...string) (*sandbox.Process, error) {
	return sandbox.Start(sandbox.Spec{Name: name, Path: path, Args: args, Namespace: t.node, Cgroup: t.group, Stderr: t.file(name + ".log")})
}

func (t *testbed) file(name string) string { return filepath.Join(t.options.Dir, name) }

func (t *testbed) metrics(ctx context.Context) (map[string]float64, error) {
	body, err := t.node.Get(ctx, "http://"+metricsAddress+"/metrics")
	if err != nil {
		return nil, fmt.Errorf("read the agent's metrics: %w", err)
	}
	return lab.ParseMetrics(body)
}

// startJaeger starts an empty Jaeger, and waits until it is ready.
func (t *testbed) startJaeger(ctx context.Context) error {
	config, err := lab.JaegerConfig(jaegerAddress, maxTraces)
	if err != nil {
		return err
	}
	path := t.file("jaeger.yaml")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		return fmt.Errorf("write the Jaeger configuration: %w", err)
	}
	jaeger, err := t.start("jaeger", t.options.Jaeger, "--config", path)
	if err != nil {
		return err
	}
	t.jaeger = jaeger
	client := lab.NewJaegerClient(jaegerAddress, t.node.DialContext)
	defer client.Close()
	return sandbox.AwaitReady(ctx, jaeger, time.Minute, 50*time.Millisecond, func(ctx context.Context) error {
		_, err := client.Services(ctx)
		return err
	})
}

func (t *testbed) stopJaeger() error {
	jaeger := t.jaeger
	t.jaeger = nil
	return jaeger.Kill()
}

func (t *testbed) startAPI() error {
	listener, err := t.node.Listen(apiAddress)
	if err != nil {
		return fmt.Errorf("serve the pods: %w", err)
	}
	t.api.Serve(listener, func(err error) { t.options.Progress("the pods' server ended: %v", err) })
	t.apiAway = false
	return nil
}

func (t *testbed) stopAPI() error {
	t.apiAway = true
	return t.api.Close()
}

// addPod adds a server.
func (t *testbed) addPod() error {
	t.started++
	n := t.started
	s := &server{
		name: fmt.Sprintf("server-%d", n), uid: types.UID(fmt.Sprintf("server-%d", n)),
		address: fmt.Sprintf("10.76.%d.%d", 1+n/250%250, 1+n%250), // in the end again that of one long gone
	}
	if err := s.open(t, n); err != nil {
		return errors.Join(err, s.close())
	}
	t.api.Put(pod(s.name, "server", s.address))
	t.mu.Lock()
	defer t.mu.Unlock()
	t.servers = append(t.servers, s)
	return nil
}

// open makes the pod's network and begins to serve.
func (s *server) open(t *testbed, n int) (err error) {
	if s.namespace, err = sandbox.NewNamespace(fmt.Sprintf("%s-%d", prefix, n)); err != nil {
		return err
	}
	if err := t.node.AddPair("veth"+strconv.Itoa(n), "br0", s.namespace, s.address+"/16"); err != nil {
		return err
	}
	listener, err := s.namespace.Listen(s.address + ":80")
	if err != nil {
		return err
	}
	s.http = &http.Server{Handler: http.HandlerFunc(respond)}
	go func() { _ = s.http.Serve(listener) }() // ends with Close
	return nil
}

func respond(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, "ok\n") // the client counts what fails
}

// replacePod adds a server and removes the oldest but the first, after its last request.
func (t *testbed) replacePod() error {
	if err := t.addPod(); err != nil {
		return err
	}
	t.mu.Lock()
	gone := t.servers[1]
	t.servers = append(t.servers[:1:1], t.servers[2:]...)
	t.mu.Unlock()
	gone.using.Lock() // no client uses it any more, and none will
	t.api.Delete(gone.uid)
	return gone.close()
}

func (s *server) close() (err error) {
	if s.http != nil {
		err = s.http.Close()
	}
	if s.namespace != nil {
		err = errors.Join(err, s.namespace.Delete())
	}
	return err
}

// load sends requests at the rate, until ctx is done.
func (t *testbed) load(ctx context.Context) {
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			tick := time.NewTicker(time.Second * clients / time.Duration(t.options.Rate))
			defer tick.Stop()
			connections := map[*server]*connection{}
			defer func() {
				for _, c := range connections {
					_ = c.Close() // all is read
				}
			}()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				t.sent.Add(1)
				if err := t.ask(ctx, connections); err != nil && ctx.Err() == nil {
					t.failed.Add(1)
					t.options.Progress("a request failed: %v", err)
				}
			}
		})
	}
	group.Wait()
}

type connection struct {
	net.Conn
	in *bufio.Reader
}

// ask sends a request to one of the servers, on a connection that stays.
func (t *testbed) ask(ctx context.Context, connections map[*server]*connection) error {
	s := t.use()
	defer s.using.RUnlock()
	for old, c := range connections {
		if !old.using.TryRLock() { // it is gone
			_ = c.Close() // it is of no use
			delete(connections, old)
			continue
		}
		old.using.RUnlock()
	}
	c := connections[s]
	if c == nil {
		conn, err := t.client.DialContext(ctx, "tcp", s.address+":80")
		if err != nil {
			return err
		}
		c = &connection{conn, bufio.NewReader(conn)}
		connections[s] = c
	}
	err := c.exchange()
	if err != nil {
		_ = c.Close() // err is the reason
		delete(connections, s)
	}
	return err
}

// use returns a server that stays until it is no longer used.
func (t *testbed) use() *server {
	for {
		t.mu.RLock()
		s := t.servers[rand.IntN(len(t.servers))]
		ready := s.using.TryRLock()
		t.mu.RUnlock()
		if ready {
			return s
		}
	}
}

// requestLimit is the time for one request.
const requestLimit = 10 * time.Second

func (c *connection) exchange() error {
	if err := c.SetDeadline(time.Now().Add(requestLimit)); err != nil {
		return err
	}
	_, err := fmt.Fprintf(c, "GET /soak HTTP/1.1\r\nhost: x\r\ntraceparent: 00-%016x%016x-%016x-01\r\n\r\n", rand.Uint64()|1, rand.Uint64(), rand.Uint64()|1)
	if err != nil {
		return err
	}
	response, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	if err = errors.Join(err, response.Body.Close()); err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", response.Status)
	}
	return err
}

// pod returns a running pod of the node.
func pod(name, app, address string) *core.Pod {
	return &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name), ResourceVersion: "1", Labels: map[string]string{"app": app}},
		Spec:       core.PodSpec{NodeName: nodeName},
		Status: core.PodStatus{
			Phase: core.PodRunning, PodIP: address, PodIPs: []core.PodIP{{IP: address}}, HostIP: nodeAddress, HostIPs: []core.HostIP{{IP: nodeAddress}},
		},
	}
}

// down ends everything that up began.
func (t *testbed) down() (err error) {
	if t.agent != nil {
		err = t.agent.Stop(time.Minute)
	}
	if t.jaeger != nil {
		err = errors.Join(err, t.jaeger.Kill())
	}
	if t.api != nil {
		err = errors.Join(err, t.api.Close())
	}
	for _, s := range t.servers {
		err = errors.Join(err, s.close())
	}
	for _, n := range []*sandbox.Namespace{t.client, t.node} {
		if n != nil {
			err = errors.Join(err, n.Delete())
		}
	}
	if t.group != nil {
		err = errors.Join(err, t.group.Remove(context.Background()))
	}
	return err
}
