// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/layertrace/layertrace/internal/observe"
)

// Sockets show the process that uses them: its cgroup, PID and name.
func TestSocketsShowTheirProcess(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNetwork(t)
	k := newKernel(t, Options{SocketCgroups: []string{filepath.Dir(n.group)}})
	must(t, awaitServer())
	client := n.command(t, "client")
	must(t, client.Run())
	pids := map[bool]map[uint32]int{true: {}, false: {}}
	for _, x := range k.exchanges() {
		if x.Client.Addr().String()+"/24" != clientAddr {
			continue // of other tests: the cgroup is that of the whole machine
		}
		pids[x.Socket.Client][x.Socket.PID]++
		checkProcess(t, &x, n.group)
	}
	if pids[true][uint32(client.Process.Pid)] != requests || len(pids[true]) != 1 {
		t.Errorf("client sockets by process: %v, want %d of %d", pids[true], requests, client.Process.Pid)
	}
	if len(pids[false]) != 1 || pids[false][0] != 0 {
		t.Errorf("server sockets by process: %v, want one known process", pids[false])
	}
}

// A process can serve on a listener that another process made in another cgroup, as
// with systemd's socket units. The process that serves counts; the socket's own cgroup
// is the listener's.
func TestProcessOfAPassedListener(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := &network{group: newCgroup(t)}
	own := ownCgroup(t)
	k := newLoopbackOf(t, own)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	file, err := listener.(*net.TCPListener).File()
	must(t, err)
	must(t, listener.Close())
	server := n.command(t, "server on a passed listener")
	server.ExtraFiles = []*os.File{file}
	must(t, server.Start())
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	conn, err := net.Dial("tcp", listener.Addr().String())
	must(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte(tracedRequest(0)))
	must(t, err)
	_, err = conn.Read(make([]byte, 4096))
	must(t, err)
	byClient := map[bool]observe.Observation{}
	for _, x := range k.exchanges() {
		byClient[x.Socket.Client] = x
	}
	served := byClient[false]
	if served.Socket == nil || byClient[true].Socket == nil {
		t.Fatalf("exchanges at %d ends, want 2", len(byClient))
	}
	if served.Socket.PID != uint32(server.Process.Pid) {
		t.Errorf("served by process %d, want %d", served.Socket.PID, server.Process.Pid)
	}
	checkProcess(t, &served, n.group)
	sent := byClient[true]
	if sent.Socket.PID != uint32(os.Getpid()) {
		t.Errorf("sent by process %d, want %d", sent.Socket.PID, os.Getpid())
	}
	checkProcess(t, &sent, own)
}

// checkProcess checks the process's name and that its cgroup is the one of a directory.
func checkProcess(t *testing.T, x *observe.Observation, group string) {
	t.Helper()
	var st syscall.Stat_t
	must(t, syscall.Stat(group, &st))
	if x.Socket.Cgroup != st.Ino {
		t.Errorf("client %v: cgroup %d, want %d", x.Socket.Client, x.Socket.Cgroup, st.Ino)
	}
	want := filepath.Base(os.Args[0])
	if want = want[:min(len(want), 15)]; x.Socket.ProcessName != want {
		t.Errorf("client %v: process %q, want %q", x.Socket.Client, x.Socket.ProcessName, want)
	}
}

// servePassed serves on the listener with descriptor 3.
func servePassed() {
	listener, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		panic(err)
	}
	panic(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "served") })))
}

// On lo a segment passes twice: out, and in again. Each counts once, whatever the hook.
func TestLoopbackCountsOnce(t *testing.T) {
	for _, mode := range []Mode{ModeTCX, ModeClsact, ModeSocketFilter} {
		t.Run(string(mode), func(t *testing.T) {
			if !inNamespace(t) {
				return
			}
			if mode == ModeTCX {
				needsTCX(t)
			}
			k := newKernel(t, Options{Mode: mode})
			lo, err := netlink.LinkByName("lo")
			must(t, err)
			must(t, netlink.LinkSetUp(lo))
			must(t, k.probe.Attach(lo.Attrs().Index))
			client, server := connect(t)
			const exchanges = 5
			for i := range exchanges {
				send(t, client, server, tracedRequest(i))
				send(t, server, client, ok200)
			}
			all := k.exchanges()
			if len(all) != exchanges {
				t.Fatalf("%d exchanges, want %d", len(all), exchanges)
			}
			for _, x := range all {
				if x.Retransmits != 0 || x.Request.Packets != 1 || x.Response.Packets != 1 || x.Status != 200 || x.Flags != 0 {
					t.Errorf("%d sent again, %d and %d packets, status %d, flags %v; want 0, 1, 1, 200, none",
						x.Retransmits, x.Request.Packets, x.Response.Packets, x.Status, x.Flags.Names())
				}
			}
			k.wantCount("segments_retransmitted", 0)
		})
	}
}
