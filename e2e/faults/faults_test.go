// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/internal/observe"
)

func TestDrawIsDeterministic(t *testing.T) {
	if !reflect.DeepEqual(Draw(7, 100), Draw(7, 100)) {
		t.Error("the same seed draws different cases")
	}
	if reflect.DeepEqual(Draw(7, 100), Draw(8, 100)) {
		t.Error("different seeds draw the same cases")
	}
	if !reflect.DeepEqual(Draw(7, 100), Draw(7, 200)[:100]) {
		t.Error("a longer draw begins with different cases")
	}
}

// The default draw has every fault at every location and magnitude, with and without
// load.
func TestDrawCovers(t *testing.T) {
	type key struct {
		kind     Kind
		location string
		amount   time.Duration
		load     bool
	}
	drawn := map[key]int{}
	none := 0
	for _, c := range Draw(1, DefaultCases) {
		drawn[key{c.Kind, c.Location(), c.Magnitude, c.Load}]++
		if c.Kind.Layer() == observe.NoLayer {
			none++
		}
	}
	if faults := DefaultCases - none; none < 100 || faults < 500 {
		t.Errorf("%d faults and %d without", faults, none)
	}
	for _, c := range newDeck() {
		if drawn[key{c.Kind, c.Location(), c.Magnitude, c.Load}] == 0 {
			t.Errorf("not drawn: %v", c)
		}
	}
	for _, load := range []bool{false, true} {
		if drawn[key{NoFault, "", 0, load}] == 0 {
			t.Errorf("no request without a fault, load %v", load)
		}
	}
}

// deviceKinds is the number of kinds that only a lab with devices has.
const deviceKinds = 2

// The draw for a lab with devices has a slow queue in each device and on each link that a
// message passes which can be padded, at every magnitude.
func TestDrawDevicesCovers(t *testing.T) {
	drawn := map[string]bool{}
	for _, c := range DrawDevices(1, 200) {
		drawn[c.Location()+" "+c.Magnitude.String()] = true
		if c.Kind != DeviceQueue && c.Kind != LinkQueue {
			continue
		}
		from, to := nodeOf(c.Transfer.From()), nodeOf(c.Transfer.To())
		passes := false
		for _, s := range lab.Stations(from, to) {
			passes = passes || s.Name == c.Device || s.Name == c.Link.Name()
		}
		if !passes {
			t.Errorf("%v does not affect its request", c)
		}
	}
	for _, location := range []string{"router1", "router2", "node2-router1", "node3-router2", "node4-router2", "router1-router2", "node2", "node3", "node4"} {
		for _, d := range magnitudes {
			if !drawn[location+" "+d.String()] {
				t.Errorf("no fault of %v at %s", d, location)
			}
		}
	}
}

// A short draw has every kind, and no more than one of the pauses that outlast it.
func TestShortDraw(t *testing.T) {
	for seed := range uint64(20) {
		drawn := map[Kind]int{}
		long := 0
		for _, c := range Draw(seed, 120) {
			drawn[c.Kind]++
			if c.Magnitude == longPause {
				long++
			}
			if c.Kind.Layer() == observe.NoLayer && c.Magnitude != 0 {
				t.Errorf("seed %d: %v", seed, c)
			}
		}
		if len(drawn) != len(Kinds)-deviceKinds || long > 1 {
			t.Errorf("seed %d: %d of %d kinds, %d long pauses", seed, len(drawn), len(Kinds)-deviceKinds, long)
		}
	}
	early := map[Kind]bool{}
	for _, c := range Draw(1, 24) {
		early[c.Kind] = true
	}
	if len(early) != len(Kinds)-deviceKinds {
		t.Errorf("24 cases have %d of %d kinds", len(early), len(Kinds)-deviceKinds)
	}
}

// A fault can affect its request: the request has the message, which passes the
// location of the fault.
func TestDrawnFaultsMeetTheirRequest(t *testing.T) {
	for _, c := range Draw(3, 2000) {
		from, to := nodeOf(c.Transfer.From()), nodeOf(c.Transfer.To())
		if v := c.Transfer.Version(); v != "" && v != c.Version {
			t.Errorf("%v: calls %s", c, c.Version)
		}
		affected := true
		switch c.Kind {
		case AppSleep, AppNotReading, SidecarStarved, ResponsePause, EventStream, ResponseReset, SeveralContexts, ConnectionChurn:
			affected = onPath(c.Pod, c.Version)
		case SlowReader, SlowUploadReader:
			affected = c.Transfer.To() == c.Pod && onPath(c.Transfer.From(), c.Version) && onPath(c.Pod, c.Version)
		case PodQdisc:
			affected = c.Transfer.From() == c.Pod && onPath(c.Pod, c.Version)
		case DriverQdisc:
			affected = from == c.Node && to != from
		case SlowBridge:
			affected = to == c.Node && to != from
		case RelayLoss, RelayReorder, LinkDown, RetransmissionStorm:
			affected = from == c.FromNode && to == c.ToNode
		}
		if !affected {
			t.Errorf("%v with %s does not affect its request", c, c.Version)
		}
	}
}

func onPath(pod, version string) bool {
	if version == PlainVersion {
		return pod == "reader" || pod == "store"
	}
	if strings.HasPrefix(pod, "reviews") {
		return pod == version
	}
	return pod != "ratings" || version != "reviews-v1"
}

func TestLocations(t *testing.T) {
	for want, c := range map[string]Case{
		"istio-ingressgateway": {Kind: SidecarStarved, Pod: "gateway"},
		"node3":                {Kind: SlowBridge, Node: 3},
		"node2-node4":          {Kind: RelayLoss, FromNode: 4, ToNode: 2},
		"":                     {Kind: NoFault},
	} {
		if got := c.Location(); got != want {
			t.Errorf("%v: %q", c, got)
		}
	}
	for _, k := range Kinds {
		verdict, truth := k.RightVerdict()
		if injectFuncs[k] == nil || truth == "" || !strings.HasPrefix(verdict, string(k.Layer())) {
			t.Errorf("%s: verdict %q, measured by %q, or no injector", k, verdict, truth)
		}
	}
	for _, transfer := range allTransfers() {
		if nodeOf(transfer.From()) == lab.ClientNode || nodeOf(transfer.To()) == 0 {
			t.Errorf("%+v is not between pods", transfer)
		}
	}
}

func TestParseKinds(t *testing.T) {
	names := make([]string, len(Kinds))
	for i, k := range Kinds {
		names[i] = string(k)
	}
	if got, err := ParseKinds(names); err != nil || !reflect.DeepEqual(got, Kinds) {
		t.Errorf("all kinds: %v, %v", got, err)
	}
	_, err := ParseKinds([]string{"relay-delay", "relay-delays"})
	if err == nil || !strings.Contains(err.Error(), `unknown fault "relay-delays"`) || !strings.Contains(err.Error(), "relay-loss") {
		t.Errorf("a wrong name: %v, want it and the choices", err)
	}
}
