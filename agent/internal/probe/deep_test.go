// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/layertrace/layertrace/internal/observe"
)

// headsOf are requests whose context is in front, beyond the prefix window, or behind a
// cookie of 4 to 20 KiB, with the headers of both of Envoy's tracers.
func headsOf(position string) map[string]string {
	contexts := map[string]string{
		"w3c": traceparent,
		"b3":  "x-b3-traceid: 0af7651916cd43dd8448eb211c80319c\r\nx-b3-spanid: b7ad6b7169203331\r\nx-b3-sampled: 1\r\n",
	}
	heads := map[string]string{}
	for tracer, context := range contexts {
		switch position {
		case "front":
			heads[tracer] = get + context + "cookie: " + strings.Repeat("c", 2000) + "\r\n" + end
		case "behind the window":
			heads[tracer] = get + "x-envoy-peer-metadata: " + strings.Repeat("m", 1100) + "\r\n" + context + end
		case "behind a cookie":
			for _, size := range []int{4, 8, 20} {
				heads[fmt.Sprintf("%s, %d KiB", tracer, size)] = get + "cookie: " + strings.Repeat("c", size<<10) + "\r\n" + context + end
			}
		}
	}
	return heads
}

// By default all heads are searched, whatever their segments. What has its context in the
// window is not searched further.
func TestDeepAuto(t *testing.T) {
	for _, position := range []string{"front", "behind the window", "behind a cookie"} {
		for name, head := range headsOf(position) {
			for _, size := range []int{3000, 1448, 536} {
				t.Run(fmt.Sprintf("%s/%s/%d", position, name, size), func(t *testing.T) {
					attempts := 0
				again:
					k := newKernel(t, Options{})
					c := newConnection(40000)
					for part := range slices.Chunk([]byte(head), size) {
						k.receive(c.request(string(part)))
					}
					k.receive(c.response(ok200))
					if k.count("searches") == 2 && attempts < maxSearchedTwice {
						attempts++
						k.close(t)
						goto again
					}
					x := k.one()
					contextAt := max(strings.Index(head, "traceparent:"), strings.Index(head, "x-b3-traceid:"))
					if x.Context.SpanID.String() != "b7ad6b7169203331" || x.Context.HeaderOffset != uint32(contextAt) ||
						x.Request.Bytes != uint64(len(head)) || x.Status != 200 {
						t.Errorf("exchange %+v", x)
					}
					k.wantCount("requests", 1)
					k.wantCount("contexts_found", 1)
					k.wantCount("heads_truncated", 0)
					if position == "front" {
						k.wantCount("searches", 0)
						k.wantCount("search_bytes", 0)
						k.wantCount("contexts_behind_window", 0)
						return
					}
					k.wantCount("searches", 1)
					k.wantCount("contexts_behind_window", 1)
					k.wantCount("search_bytes", uint64(len(head)-min(1024, size)))
				})
			}
		}
	}
}

// Real segments, with and without offload, at an interface and at both sockets: of several
// heads on each connection every context is seen at all three points.
func TestDeepOnTraffic(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, offload := range []bool{true, false} {
		t.Run(fmt.Sprintf("offload %v", offload), func(t *testing.T) {
			p := newPair(t, offload)
			k := newKernel(t, Options{SocketCgroups: []string{ownCgroup(t)}})
			must(t, k.probe.Attach(p.ifindex))
			listener := p.listen(t)
			heads := headsOf("behind a cookie")
			maps.Copy(heads, headsOf("behind the window"))
			for _, head := range heads {
				client, err := net.Dial("tcp", listener.Addr().String())
				must(t, err)
				defer client.Close()
				server, err := listener.Accept()
				must(t, err)
				defer server.Close()
				for range 3 {
					send(t, client, server, head)
					send(t, server, client, ok200)
				}
			}
			got := k.exchanges()
			if want := 3 * 3 * len(heads); len(got) != want {
				t.Errorf("%d exchanges, want %d", len(got), want)
			}
			for _, x := range got {
				if x.Status != 200 || x.Context.SpanID.String() != "b7ad6b7169203331" || x.Retransmits != 0 {
					t.Errorf("exchange %+v", x)
				}
			}
			k.wantCount("heads_truncated", 0)
			k.wantCount("contexts_behind_window", uint64(len(got)))
			k.close(t)
			must(t, netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "vethc"}}))
		})
	}
}

// A second point of the node takes the result of the first, within some ms; a head over
// several segments is searched at each.
func TestDeepAutoAtSeveralPoints(t *testing.T) {
	head := headsOf("behind the window")["w3c"]
	onOneCPU(t)
	attempts := 0
	for _, segments := range []int{1, 2} {
		searches := uint64(segments)
	again:
		k := newKernel(t, Options{})
		c := newConnection(40000)
		behind := *c // address translation
		behind.server = netip.AddrPortFrom(behind.server.Addr(), 8081)
		for part := range slices.Chunk([]byte(head), (len(head)+segments-1)/segments) {
			k.receive(c.request(string(part)))
			k.receive(behind.request(string(part)))
		}
		if segments == 1 && k.count("searches") == 2 && attempts < 100 { // it took too long
			attempts++
			k.close(t)
			goto again
		}
		k.wantCount("searches", searches)
		k.wantCount("contexts_found", 2)
		k.wantCount("contexts_behind_window", 2)
		if got := len(k.exchanges()); got != 2 {
			t.Errorf("%d exchanges at two points, want 2", got)
		}
	}
}

// Requests that are not sampled, and those without a context, leave nothing behind.
func TestDeepAutoUnsampled(t *testing.T) {
	k := newKernel(t, Options{})
	pad := "x-pad: " + strings.Repeat("p", 2000) + "\r\n"
	for i, head := range []string{get + pad + unsampled + end, get + pad + end} {
		c := newConnection(uint16(40000 + i))
		for part := range slices.Chunk([]byte(head), 1448) {
			k.receive(c.request(string(part)))
		}
		k.receive(c.response(ok200))
	}
	k.wantCount("contexts_unsampled", 1)
	k.wantCount("contexts_none", 1)
	k.wantCount("contexts_behind_window", 1)
	k.wantCount("searches", 2)
	if got := k.exchanges(); len(got) != 0 || k.tracked() != 0 {
		t.Errorf("%d exchanges, %d connections tracked, want none", len(got), k.tracked())
	}
}

// When the budget is used up, a head counts as truncated, and why. Contexts in the window
// are found all the same, and later there is a budget again.
func TestDeepBudget(t *testing.T) {
	head := get + "cookie: " + strings.Repeat("c", 3000) + "\r\n" + traceparent + end
	k := newKernel(t, Options{DeepBudget: MinDeepBudget})
	n := uint64(0)
	send := func(head string) {
		c := newConnection(uint16(20000 + n))
		n++
		k.receive(c.request(head))
		k.receive(c.response(ok200))
	}
	// All heads were searched, but for those over the budget.
	check := func(heads uint64) {
		t.Helper()
		searched, over, truncated := k.count("searches"), k.count("searches_over_budget"), k.count("heads_truncated")
		if searched+over < heads || searched+over > heads+maxSearchedTwice || truncated > over || over-truncated > maxSearchedTwice {
			t.Errorf("%d heads: %d searched, %d over the budget, %d truncated", heads, searched, over, truncated)
		}
	}
	for n < 1000 && k.count("heads_truncated") == 0 { // some 30 do it, on each CPU
		send(head)
	}
	if bytes := k.count("search_bytes"); bytes < uint64(MinDeepBudget) {
		t.Errorf("the budget was used up after %d bytes, want %d or more", bytes, MinDeepBudget)
	}
	k.wantCount("heads_truncated", 1)
	check(n)
	send(get + traceparent + end)
	got := len(k.exchanges())
	if want := int(n - 1); got != want {
		t.Errorf("%d exchanges, want %d", got, want)
	}
	poll(t, "a later head is searched", func() bool {
		send(head)
		later := len(k.exchanges())
		got += later
		return later > 0
	})
	check(n - 1)
	k.wantCount("heads_truncated", n-uint64(got))
}

// maxSearchedTwice is how many segments of a test may be searched twice at one point: if the
// kernel's clock ticks between the fast path and the slow one, what the fast path has read is
// too old (segment_id() in bpf/include/packet.h). On a slow machine it does now and then.
const maxSearchedTwice = 10

// A head over several segments ends where the budget does.
func TestDeepBudgetInAHead(t *testing.T) {
	head := headsOf("behind a cookie")["w3c, 20 KiB"]
	k := newKernel(t, Options{DeepBudget: MinDeepBudget})
	n := uint64(0)
	for ; n < 100 && k.count("searches_over_budget") == 0; n++ { // four do it, on each CPU
		c := newConnection(uint16(20000 + n))
		for part := range slices.Chunk([]byte(head), 1448) {
			k.receive(c.request(string(part)))
		}
		k.receive(c.response(ok200))
	}
	// The budget ends within the head, or before it.
	if searches := k.count("searches"); searches != n && searches != n-1 {
		t.Errorf("%d searches, want %d or one less", searches, n)
	}
	k.wantCount("searches_over_budget", 1)
	k.wantCount("heads_truncated", 1)
	k.wantCount("contexts_behind_window", n-1)
	if got := len(k.exchanges()); got != int(n-1) {
		t.Errorf("%d exchanges, want %d", got, n-1)
	}
}

// Without auto there is no budget.
func TestDeepOnHasNoBudget(t *testing.T) {
	head := get + "cookie: " + strings.Repeat("c", 3000) + "\r\n" + traceparent + end
	k := newKernel(t, Options{Deep: DeepOn, DeepBudget: MinDeepBudget})
	for i := range 200 {
		c := newConnection(uint16(40000 + i))
		k.receive(c.request(head))
		k.receive(c.response(ok200))
	}
	k.wantCount("searches_over_budget", 0)
	if searches := k.count("searches"); searches < 200 || searches > 200+maxSearchedTwice {
		t.Errorf("%d searches, want 200", searches)
	}
	if got := k.exchanges(); len(got) != 200 || slices.ContainsFunc(got, func(x observe.Observation) bool { return x.Status != 200 }) {
		t.Errorf("exchanges %+v", got)
	}
}
