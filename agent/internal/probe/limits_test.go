// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"net"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/observe"
)

// With new requests left out, what is being recorded goes on, also on a connection whose
// next request is left out. Their heads are not read, and they are counted.
func TestLimitNew(t *testing.T) {
	k := newKernel(t, Options{})
	going, fresh := newConnection(40000), newConnection(40001)
	k.receive(going.request(get + traceparent + end))
	must(t, k.probe.Limit(Limits{New: true}))
	k.receive(fresh.request(get + traceparent + end))
	k.receive(fresh.response(ok200))
	k.receive(going.response(ok200))
	k.receive(going.request(get + traceparent + end))
	k.receive(going.response(ok200))
	k.receive(newConnection(40002).request("hello world, this is no request\r\n\r\n"))
	if x := k.one(); x.Status != 200 || x.Client.Port() != 40000 || x.Response.Bytes != uint64(len(ok200)) || x.Flags != 0 {
		t.Errorf("exchange %+v, flags %v", x, x.Flags.Names())
	}
	k.wantCount("requests_not_captured", 2)
	k.wantCount("requests", 3)
	k.wantCount("contexts_found", 1)
	k.wantCount("heads_unparsable", 0)

	must(t, k.probe.Limit(Limits{}))
	for _, c := range []*connection{going, fresh} {
		k.receive(c.request(get + traceparent + end))
		k.receive(c.response(ok200))
	}
	if got := k.exchanges(); len(got) != 2 {
		t.Errorf("%d exchanges without limits, want 2: %+v", len(got), got)
	}
	k.wantCount("requests_not_captured", 2)
}

// With searches left out, only the prefix window is read, whatever --deep is.
func TestLimitDeep(t *testing.T) {
	for _, deep := range []DeepMode{DeepAuto, DeepOn} {
		t.Run(string(deep), func(t *testing.T) {
			k := newKernel(t, Options{Deep: deep})
			front := get + traceparent + end
			behind := get + "cookie: " + strings.Repeat("c", 2000) + "\r\n" + traceparent + end
			talk := func(port uint16) (found int) {
				for i, head := range []string{front, behind} {
					c := newConnection(port + uint16(i))
					k.receive(c.request(head))
					k.receive(c.response(ok200))
				}
				return len(k.exchanges())
			}
			if n := talk(40000); n != 2 {
				t.Errorf("%d exchanges before, want 2", n)
			}
			must(t, k.probe.Limit(Limits{Deep: true}))
			if n := talk(40010); n != 1 {
				t.Errorf("%d exchanges with the limit, want 1", n)
			}
			for _, counter := range []string{"searches", "searches_over_budget"} {
				if n := k.count(counter); n != 1 && n != 2 { // see maxSearchedTwice
					t.Errorf("%s is %d, want 1, or 2 if the clock ticked", counter, n)
				}
			}
			k.wantCount("heads_truncated", 1)
			must(t, k.probe.Limit(Limits{}))
			if n := talk(40020); n != 2 {
				t.Errorf("%d exchanges after, want 2", n)
			}
		})
	}
}

// With sockets left out, a request is recorded at the interface only. One that is open
// there is recorded to its end, and so is one after the limit is gone.
func TestLimitSockets(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	p := newPair(t, true)
	k := newKernel(t, Options{SocketCgroups: []string{ownCgroup(t)}})
	must(t, k.probe.Attach(p.ifindex))
	listener := p.listen(t)
	client, err := net.Dial("tcp", listener.Addr().String())
	must(t, err)
	defer client.Close()
	server, err := listener.Accept()
	must(t, err)
	defer server.Close()
	request := get + traceparent + end
	points := func(got []observe.Observation) (sockets, interfaces int) {
		t.Helper()
		for _, x := range got {
			if x.Status != 200 || x.Flags&observe.Cut != 0 {
				t.Errorf("exchange %+v, flags %v", x, x.Flags.Names())
			}
			if x.Socket != nil {
				sockets++
			} else {
				interfaces++
			}
		}
		return sockets, interfaces
	}
	want := func(what string, wantSockets, wantInterfaces int) {
		t.Helper()
		if sockets, interfaces := points(k.exchanges()); sockets != wantSockets || interfaces != wantInterfaces {
			t.Errorf("%s: %d exchanges at sockets and %d at interfaces, want %d and %d", what, sockets, interfaces, wantSockets, wantInterfaces)
		}
	}
	send(t, client, server, request)
	must(t, k.probe.Limit(Limits{Sockets: true}))
	send(t, server, client, ok200)
	want("open at the limit", 2, 1)
	for range 2 {
		send(t, client, server, request)
		send(t, server, client, ok200)
	}
	want("with the limit", 0, 2)
	k.wantCount("requests_not_captured", 4)
	must(t, k.probe.Limit(Limits{}))
	send(t, client, server, request)
	send(t, server, client, ok200)
	want("without", 2, 1)
	k.wantCount("requests_not_captured", 4)
}

// The kernel measures the programs, those at interfaces too.
func TestRunTime(t *testing.T) {
	stats, err := EnableStats()
	must(t, err)
	k := newKernel(t, Options{})
	k.receive(newConnection(40000).request(get + unsampled + end)) // loads the program
	before, err := k.probe.RunTime()
	must(t, err)
	for range 100 {
		k.receive(newConnection(40000).request(get + unsampled + end))
	}
	after, err := k.probe.RunTime()
	must(t, err)
	if after <= before {
		t.Errorf("the programs ran for %v, and for %v after 100 packets more", before, after)
	}
	must(t, stats.Close())
}
