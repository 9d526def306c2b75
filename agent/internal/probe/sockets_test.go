// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bufio"
	"io"
	"slices"
	"testing"

	"github.com/layertrace/layertrace/internal/observe"
)

// Each request is seen at the socket that sends it and at the one that receives
// it, with the times of the application in the right order.
func TestSocketsOfACgroup(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNetwork(t)
	k := newKernel(t, Options{Sockets: true, SocketCgroups: []string{n.group}})
	n.talk(t)
	seen, writes := map[bool]int{}, tellsWrites()
	for _, x := range k.exchanges() {
		if x.Socket == nil {
			t.Fatalf("an exchange without a socket: %+v", x)
		}
		seen[x.Socket.Client]++
		checkOrder(t, &x, writes)
	}
	if seen[true] != requests || seen[false] != requests {
		t.Errorf("%d exchanges at the client's socket and %d at the server's, want %d each", seen[true], seen[false], requests)
	}
}

// checkOrder holds the times against the way of request and response. Without
// writes there is no time of the process for what the socket sends.
func checkOrder(t *testing.T, x *observe.Observation, writes bool) {
	t.Helper()
	q, r := x.Request, x.Response
	times := []uint64{q.First, q.App.First, r.App.First, r.First} // at a server
	lasts := []uint64{q.Last, q.App.Last, r.App.Last, r.Last}
	written := 2
	if x.Socket.Client {
		times = []uint64{q.App.First, q.First, r.First, r.App.First}
		lasts = []uint64{q.App.Last, q.Last, r.Last, r.App.Last}
		written = 0
	}
	if !writes {
		if times[written] != 0 || lasts[written] != 0 {
			t.Errorf("client %v: written from %d to %d, which the kernel does not tell", x.Socket.Client, times[written], lasts[written])
		}
		times, lasts = slices.Delete(times, written, written+1), slices.Delete(lasts, written, written+1)
	}
	for _, row := range [][]uint64{times, lasts} {
		for i, at := range row {
			if at == 0 || i > 0 && at < row[i-1] {
				t.Errorf("client %v: times %d are not in order", x.Socket.Client, row)
				return
			}
		}
	}
	if x.Socket.Netns == 0 || x.Socket.Cookie == 0 {
		t.Errorf("socket %+v: namespace or cookie is not known", *x.Socket)
	}
}

// Sockets that were open before the capture began are seen from then on.
func TestSocketsOpenedBefore(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNetwork(t)
	must(t, awaitServer())
	client := n.command(t, "patient client")
	stdin, err := client.StdinPipe()
	must(t, err)
	stdout, err := client.StdoutPipe()
	must(t, err)
	must(t, client.Start())
	_, err = bufio.NewReader(stdout).ReadString('\n')
	must(t, err)
	k := newKernel(t, Options{Sockets: true, SocketCgroups: []string{n.group}})
	_, err = io.WriteString(stdin, "\n")
	must(t, err)
	must(t, client.Wait())
	seen, written := map[bool]int{}, 0
	for _, x := range k.exchanges() {
		seen[x.Socket.Client]++
		if x.Socket.Client && x.Request.App.Last != 0 {
			written++
		}
	}
	want := requests - 1
	wantWritten := want
	if !tellsWrites() {
		wantWritten = 0
	}
	if seen[true] != want || seen[false] != want || written != wantWritten {
		t.Errorf("%d exchanges at the client's socket, %d with the time of writing, and %d at the server's, want %d, %d and %d", seen[true], written, seen[false], want, wantWritten, want)
	}
}
