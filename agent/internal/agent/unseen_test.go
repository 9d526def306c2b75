// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/layertrace/layertrace/agent/internal/iface"
	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/layertrace/layertrace/internal/observe"
)

// A line a minute says what was not read since the last one, and only then. Programs
// ahead are a metric while they are there, and are logged once.
func TestUnseenIsLogged(t *testing.T) {
	c, fake := newTestCapture(t)
	c.handle(iface.Event{Change: iface.Added, Interface: iface.Interface{Index: 7, Name: "veth1", Kind: observe.KindVNIC}})
	metrics := prometheus.NewRegistry()
	packets := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "layertrace_packets_encapsulated_total"}, []string{"kind"})
	connections := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "layertrace_connections_unreadable_total"}, []string{"kind"})
	metrics.MustRegister(packets, connections)
	var out bytes.Buffer
	w := newUnseenWatch(fake, c, metrics, slog.New(slog.NewTextHandler(&out, nil)))
	look := func(want ...string) {
		t.Helper()
		out.Reset()
		w.look()
		got := out.String()
		if len(want) == 0 && got != "" || len(want) > 0 && strings.Count(got, "\n") != 1 {
			t.Errorf("logged %q", got)
		}
		for _, part := range want {
			if !strings.Contains(got, part) {
				t.Errorf("no %q in %q", part, got)
			}
		}
	}
	packets.WithLabelValues("geneve").Add(0)
	look()
	packets.WithLabelValues("vxlan").Add(12)
	connections.WithLabelValues("http2").Inc()
	look("12 packets in VXLAN", "--pnic", "kind:vxlan", "1 connection with HTTP/2")
	look()
	packets.WithLabelValues("vxlan").Add(3)
	look("3 packets in VXLAN")

	fake.ahead = map[int][]probe.Foreign{7: {{Hook: "tcx-ingress", Program: "cil_from"}}, 8: {{Hook: "xdp", Program: "not_captured"}}}
	look("cil_from ahead at tcx-ingress of veth1")
	look()
	if n := testutil.CollectAndCount(w.ahead); n != 1 {
		t.Errorf("%d programs", n)
	}
	if v := testutil.ToFloat64(w.ahead.WithLabelValues("veth1", "tcx-ingress", "cil_from")); v != 1 {
		t.Errorf("value %v", v)
	}
	fake.ahead = nil
	look()
	if n := testutil.CollectAndCount(w.ahead); n != 0 {
		t.Errorf("%d programs after they have gone", n)
	}
}
