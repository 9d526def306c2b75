// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/agent/internal/iface"
	"github.com/layertrace/layertrace/internal/observe"
)

func newTestCapture(t *testing.T) (*capture, *fakeProbe) {
	t.Helper()
	names, err := identity.ParseFile([]byte("interfaces: {veth1: {service: web}, veth2: {service: db}}"))
	if err != nil {
		t.Fatal(err)
	}
	probe := newFakeProbe()
	return newCapture(probe, newRegistry(resolver{Source: names, node: "node2"}, time.Minute, 1337), slog.New(slog.DiscardHandler),
		newCaptureMetrics(nil)), probe
}

// at is an exchange at an interface.
func at(ifindex int) *observe.Observation { x := newExchange(ifindex, 0); return &x }

func TestCaptureFollows(t *testing.T) {
	c, probe := newTestCapture(t)
	veth := iface.Interface{Index: 7, Name: "veth1", LinkKind: "veth", Kind: observe.KindVNIC}
	c.handle(iface.Event{Change: iface.Added, Interface: veth})
	if c.ready(t.Context()) == nil {
		t.Error("ready before all present interfaces were handled")
	}
	c.setListed()
	if !probe.attachedTo(7) || c.ready(t.Context()) != nil {
		t.Fatal("not attached")
	}
	if p := pointAt(c.points, 7); p.SpanName() != "web_veth1" || p.ID != "node2/7" {
		t.Errorf("point %+v", p)
	}
	veth.Name = "veth2"
	c.handle(iface.Event{Change: iface.Renamed, Interface: veth})
	if p := pointAt(c.points, 7); p.SpanName() != "db_veth2" || p.ID != "node2/7" {
		t.Errorf("renamed point %+v", p)
	}
	c.handle(iface.Event{Change: iface.Removed, Interface: veth})
	if probe.attachedTo(7) || c.ready(t.Context()) == nil {
		t.Error("still attached")
	}
	// Open exchanges are still to come, within the grace period.
	if pointAt(c.points, 7) == nil {
		t.Error("forgotten at once")
	}
	if ids := c.points.purge(time.Now().Add(30 * time.Second)); len(ids) != 0 {
		t.Errorf("purged too early: %v", ids)
	}
	if ids := c.points.purge(time.Now().Add(2 * time.Minute)); len(ids) != 1 || ids[0] != "node2/7" {
		t.Errorf("purged %v", ids)
	}
	if pointAt(c.points, 7) != nil {
		t.Error("still known")
	}
}

func TestAttachIsTriedAgain(t *testing.T) {
	c, probe := newTestCapture(t)
	probe.refuse[7] = true
	veth := iface.Interface{Index: 7, Name: "veth1", Kind: observe.KindVNIC}
	c.handle(iface.Event{Change: iface.Added, Interface: veth})
	if got := c.pendingNow(); len(got) != 1 || got[0] != veth {
		t.Fatalf("pending %v", got)
	}
	probe.refuse = map[int]bool{}
	for _, i := range c.pendingNow() {
		c.attach(i)
	}
	if !probe.attachedTo(7) || len(c.pendingNow()) != 0 || testutil.ToFloat64(c.metrics.failures) != 1 {
		t.Errorf("attached %v, pending %v, failures %v", probe.attached, c.pendingNow(), testutil.ToFloat64(c.metrics.failures))
	}
	// An interface that is removed while pending is not retried.
	probe.refuse[8] = true
	other := iface.Interface{Index: 8, Name: "veth9", Kind: observe.KindVNIC}
	c.handle(iface.Event{Change: iface.Added, Interface: other})
	c.handle(iface.Event{Change: iface.Removed, Interface: other})
	if got := c.pendingNow(); len(got) != 0 {
		t.Errorf("pending %v", got)
	}
}

// A physical interface is the node's, whatever the identity source says.
func TestPhysicalInterfaceHasNoWorkload(t *testing.T) {
	c, _ := newTestCapture(t)
	c.handle(iface.Event{Change: iface.Added, Interface: iface.Interface{Index: 9, Name: "veth1", Kind: observe.KindPNIC}})
	if p := pointAt(c.points, 9); p.SpanName() != "node2_veth1" {
		t.Errorf("point %s", p.SpanName())
	}
}

// pointAt returns the capture point of an exchange at an interface, nil if it is
// unknown.
func pointAt(r *registry, index int) *observe.Point {
	o := at(index)
	r.resolve(o)
	return o.Point
}

// An agent that captures nowhere says so once, when the present interfaces are handled.
func TestNoInterfaceIsLogged(t *testing.T) {
	for _, present := range []bool{true, false} {
		c, _ := newTestCapture(t)
		var log bytes.Buffer
		c.log = slog.New(slog.NewTextHandler(&log, nil))
		if present {
			c.handle(iface.Event{Change: iface.Added, Interface: iface.Interface{Index: 7, Name: "veth1", Kind: observe.KindVNIC}})
		}
		c.setListed()
		if warned := strings.Contains(log.String(), "capturing at no interface"); warned == present {
			t.Errorf("an interface is present: %t; the log has %s", present, &log)
		}
	}
}
