// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/internal/observe"
)

const ownNamespace, otherNamespace = 4026531840, 4026532222

// plainPoints are the points of a machine without a cluster, with an identity file.
func plainPoints(t *testing.T, file string) *socketPoints {
	t.Helper()
	f, err := identity.ParseFile([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	return newSocketPoints(resolver{
		Source: identity.First{f, f.Wildcards()}, exact: f, file: f, node: "box", netns: ownNamespace,
		processes: identity.NewProcesses(identity.ProcessOptions{Proc: t.TempDir(), Root: t.TempDir(), Cgroup: t.TempDir()}),
	}, 1337)
}

func socketOf(process string, uid uint32, client bool, from, to string) *observe.Observation {
	o := newExchange(0, 0)
	o.Client, o.Server = netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	o.Socket = &observe.Socket{Netns: ownNamespace, UID: uid, Client: client, PID: 7, ProcessName: process}
	return &o
}

// A server that binds as root and works as another user has sockets of both users. They
// are one point, whatever the sidecar's user is.
func TestPrivilegesDroppedAreOnePoint(t *testing.T) {
	s := plainPoints(t, "")
	accepted := s.point(socketOf("nginx", 0, false, "127.0.0.1:40000", "127.0.0.1:80"))
	upstream := s.point(socketOf("nginx", 1337, true, "127.0.0.1:40001", "127.0.0.1:9000"))
	app := s.point(socketOf("app", 1337, false, "127.0.0.1:40001", "127.0.0.1:9000"))
	if accepted != upstream || accepted.Workload.Service != "nginx" || accepted.Process != observe.AppProcess {
		t.Errorf("nginx is %+v and %+v", accepted, upstream)
	}
	if app.ID == accepted.ID || app.SpanName() != "app_application" {
		t.Errorf("app is %+v, nginx %+v", app, accepted)
	}
	if ids := s.purge(time.Now().Add(time.Second)); len(ids) != 2 || len(s.processes) != 0 {
		t.Errorf("purged %q, %d processes are kept", ids, len(s.processes))
	}
}

// A port in the file names the process that serves there, also where that sends.
func TestPortsNameProcesses(t *testing.T) {
	s := plainPoints(t, "addresses: {':80': {service: edge}, 127.0.0.1:9000: {service: app, namespace: shop}}")
	service := func(o *observe.Observation) string { return s.point(o).Service() }
	for _, test := range []struct {
		o    *observe.Observation
		want string
	}{
		{socketOf("nginx", 0, true, "127.0.0.1:40001", "127.0.0.1:9000"), "nginx"}, // not yet
		{socketOf("nginx", 0, false, "192.0.2.9:40000", "192.0.2.1:80"), "edge"},
		{socketOf("nginx", 0, true, "127.0.0.1:40001", "127.0.0.1:9000"), "edge"},
		{socketOf("python3", 0, false, "127.0.0.1:40001", "127.0.0.1:9000"), "app"},
		{socketOf("", 0, false, "127.0.0.1:40001", "127.0.0.1:9000"), "app"}, // the process is unknown
		{socketOf("python3", 0, true, "127.0.0.1:40002", "127.0.0.1:9001"), "app"},
		{socketOf("curl", 0, true, "192.0.2.9:40000", "192.0.2.1:80"), "curl"},
	} {
		if got := service(test.o); got != test.want {
			t.Errorf("%+v at %v is %q, want %q", *test.o.Socket, test.o.Key, got, test.want)
		}
	}
	container := socketOf("python3", 0, false, "127.0.0.1:40001", "127.0.0.1:9000")
	container.Socket.Netns = otherNamespace
	if got := service(container); got != "python3" {
		t.Errorf("port 9000 of a container is %q", got)
	}
	if w := s.point(socketOf("python3", 0, false, "127.0.0.1:40001", "127.0.0.1:9000")).Workload; w.Namespace != "shop" {
		t.Errorf("app is %+v", w)
	}
}

// An address with a service names everything in its namespace, with the sidecar's user
// apart. A prefix does not: it is for others.
func TestAddressesNameNamespaces(t *testing.T) {
	s := plainPoints(t, "addresses: {10.0.0.5: {service: web}, 10.0.0.0/8: {service: lan}}")
	at := func(netns uint32, uid uint32, from, to string) *observe.Observation {
		o := socketOf("python3", uid, false, from, to)
		o.Socket.Netns = netns
		return o
	}
	loopback := at(otherNamespace, 0, "127.0.0.1:40000", "127.0.0.1:80")
	if !s.mayChange(loopback) {
		t.Error("a loopback connection does not wait for the address of its namespace")
	}
	if s.mayChange(at(ownNamespace, 0, "127.0.0.1:40000", "127.0.0.1:80")) {
		t.Error("the agent's own namespace waits for a name")
	}
	web := s.point(at(otherNamespace, 0, "10.0.0.9:40000", "10.0.0.5:80"))
	sidecar := s.point(at(otherNamespace, 1337, "127.0.0.1:40000", "127.0.0.1:80"))
	if web.Service() != "web" || sidecar.Service() != "web" || web.Process == sidecar.Process || s.mayChange(loopback) {
		t.Errorf("web is %+v, its sidecar %+v", web, sidecar)
	}
	const third = 4026533333
	if p := s.point(at(third, 0, "10.0.0.9:40000", "10.0.0.6:80")); p.Service() != "python3" {
		t.Errorf("a namespace with an address of the prefix is %+v", p)
	}
	if s.mayChange(at(third, 0, "127.0.0.1:40000", "127.0.0.1:80")) {
		t.Error("a namespace whose address nothing names waits for a name")
	}
}

// Without a cluster nothing waits, even if nothing is known of a socket.
func TestNothingWaitsWithoutACluster(t *testing.T) {
	s := plainPoints(t, "")
	for _, netns := range []uint32{ownNamespace, otherNamespace} {
		o := socketOf("", 0, true, "127.0.0.1:40000", "127.0.0.1:80")
		o.Socket.Netns, o.Socket.PID = netns, 0
		if s.mayChange(o) {
			t.Errorf("a socket in %d waits", netns)
		}
		if p := s.point(o); p.Service() != "box" {
			t.Errorf("unknown is %+v", p)
		}
	}
}

// However many processes there are, the points that are kept are bounded.
func TestProcessPointsAreBounded(t *testing.T) {
	s := plainPoints(t, "")
	for i := range uint32(maxProcessPoints + 100) {
		o := socketOf("curl", 0, true, "127.0.0.1:40000", "127.0.0.1:80")
		o.Socket.Netns = i + 1
		if p := s.point(o); p.Service() != "curl" {
			t.Fatalf("process %d is %+v", i, p)
		}
	}
	if len(s.processes) != maxProcessPoints {
		t.Errorf("%d are kept, want %d", len(s.processes), maxProcessPoints)
	}
}

// SIGHUP reads the file again. Names of before are forgotten, a bad file changes nothing
// and is logged with the line.
func TestReloadOnSignal(t *testing.T) {
	name := filepath.Join(t.TempDir(), "identity.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("addresses: {':80': {service: before}}")
	file, err := identity.LoadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	s := plainPoints(t, "")
	s.names.file, s.names.exact = file, file
	served := func() string {
		return s.point(socketOf("nginx", 0, false, "192.0.2.9:40000", "192.0.2.1:80")).Service()
	}
	sent := func() string {
		return s.point(socketOf("nginx", 0, true, "127.0.0.1:40001", "127.0.0.1:9000")).Service()
	}
	if served() != "before" || sent() != "before" {
		t.Fatalf("named %q and %q", served(), sent())
	}

	var log bytes.Buffer
	hangUp := func() { // and wait until it is handled
		signals := make(chan os.Signal)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); s.names.reload(ctx, signals, slog.New(slog.NewTextHandler(&log, nil))) }()
		signals <- syscall.SIGHUP
		stop()
		<-ended
	}
	write("addresses:\n  ':80': {service: after, x: y}\n")
	hangUp()
	if served() != "before" {
		t.Errorf("after a bad file: %q", served())
	}
	write("node: other\naddresses: {':8080': {service: after}}")
	hangUp()
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	for i, want := range []string{"level=ERROR msg=\"keeping the names of before\"", "level=INFO msg=\"read the identity file again\"", "level=WARN msg=\"the name of this node changes with a restart only\" node=box file=other"} {
		if i >= len(lines) || !strings.Contains(lines[i], want) {
			t.Errorf("line %d lacks %s: %s", i, want, &log)
		}
	}
	if !strings.Contains(lines[0], "line 2: addresses.:80.x") {
		t.Errorf("no line and key: %s", lines[0])
	}
	if served() != "nginx" || sent() != "nginx" {
		t.Errorf("after the reload: %q and %q", served(), sent())
	}
	if ids := s.purge(time.Now().Add(-time.Hour)); len(ids) != 1 || ids[0] != observe.SocketPointID("box", ownNamespace, "nginx") {
		t.Errorf("purged %q", ids)
	}
}
