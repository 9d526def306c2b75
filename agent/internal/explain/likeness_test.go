// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/breakdown/breakdowntest"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
)

func requestOf(t tracestore.Trace) request { return newMeasuredTrace(t).request }

// slowEndpoint is how long the application takes longer for "/b": that is usual for it.
const slowEndpoint = 40_000_000

// endpoint is a page under a path; "/b" takes long in details. "" is not known.
func endpoint(r *rand.Rand, id byte, path string, known bool, change ...func(*breakdowntest.Hop)) tracestore.Trace {
	if path == "/b" {
		change = append(change, toDetails(func(h *breakdowntest.Hop) { h.Stack += slowEndpoint }))
	}
	t := pageTrace(r, id, nil, change...)
	for i := range t.Observations {
		if known {
			t.Observations[i].Method, t.Observations[i].Path = "GET", path
		}
	}
	return t
}

// What is slow by its nature is compared with its like. Where that is not known, or there
// are too few, the verdict is not certain.
func TestEndpointsAreComparedWithTheirLike(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for name, test := range map[string]struct {
		fast, slow byte
		known      bool
		layer      observe.Layer
		mixed      bool
	}{
		"path known":   {30, 12, true, observe.NoLayer, false},
		"few alike":    {30, 2, true, observe.ProtocolStack, true},
		"path unknown": {30, 12, false, observe.ProtocolStack, true},
	} {
		var baseline []tracestore.Trace
		for id := range test.fast {
			baseline = append(baseline, endpoint(r, 50+id, "/a", test.known))
		}
		for id := range test.slow {
			baseline = append(baseline, endpoint(r, 150+id, "/b", test.known))
		}
		one := endpoint(r, 1, "/b", test.known)
		like, mixed := alike(baseline, requestOf(one), requestOf)
		v := Explain(one, like).Verdict
		v.doubt(mixed)
		if v.Layer != test.layer || (mixed != "") != test.mixed || test.mixed && v.Confidence == High {
			t.Errorf("%s: %s of confidence %s (%s, mixed: %q)", name, v.Layer, v.Confidence, v.Text, mixed)
		}
	}
}

// Slow traces of a service are slow for what they asked for.
func TestServiceComparesOneEndpoint(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	var traces []tracestore.Trace
	for id := range byte(100) {
		path, change := "/a", func(*breakdowntest.Hop) {}
		switch {
		case id < 40:
			path = "/b"
		case id < 44:
			change = toDetails(func(h *breakdowntest.Hop) { h.Driver += 20_000_000 })
		}
		traces = append(traces, endpoint(r, id+1, path, true, change))
	}
	c := CompareService("gateway", traces, 0.95)
	if c.Verdict.Layer != observe.NodeDriver || c.Verdict.Confidence == Low || c.Slow+c.Baseline != 60 {
		t.Errorf("%s (%s), %d slow, %d baseline", c.Verdict.Text, c.Verdict.Confidence, c.Slow, c.Baseline)
	}
	if !strings.Contains(strings.Join(c.Notes, "\n"), "GET /a") {
		t.Errorf("notes: %q", c.Notes)
	}
}

// A group of one trace has the verdict and the numbers of the trace.
func TestGroupOfOne(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	baseline := baselineOf(r, 40, nil)
	one := pageTrace(r, 1, nil, toDetails(func(h *breakdowntest.Hop) { h.Driver += 20_000_000 }))
	for name, before := range map[string][]tracestore.Trace{"with a baseline": baseline, "without": nil} {
		single, group := Explain(one, before), compareAnew([]tracestore.Trace{one}, before)
		if group.Verdict.Text != single.Verdict.Text || group.Verdict.Confidence != single.Verdict.Confidence ||
			group.Verdict.Excess != single.Verdict.Excess || group.BaselineTotal != baselineOrUnknown(single) || group.SlowTotal != single.Total || group.Unattributed != single.Unattributed {
			t.Errorf("%s: group %+v\nsingle %+v", name, group.Verdict, single.Verdict)
		}
		// 20 ms on the way of the request at one node and of the response at the other: half
		// of what the trace took more.
		if before != nil && (group.Verdict.Share < 0.49 || group.Verdict.Share > 0.51 || math.Abs(group.Layers[0].Share-group.Verdict.Share) > 0.01) {
			t.Errorf("%s: the verdict has a share of %v, its layer one of %v", name, group.Verdict.Share, group.Layers[0].Share)
		}
		if before == nil && (group.BaselineTotal != -1 || group.Layers[0].Baseline != -1) {
			t.Errorf("baseline of nothing: %d ns in total, %d ns in a layer, want -1", group.BaselineTotal, group.Layers[0].Baseline)
		}
	}
}

func baselineOrUnknown(r Report) int64 {
	if r.Baseline.Traces == 0 {
		return -1
	}
	return r.Baseline.BaselineTotal
}

// Services of one name in two namespaces are two.
func TestServicesOfTwoNamespaces(t *testing.T) {
	page := pageTrace(rand.New(rand.NewPCG(3, 3)), 1, nil)
	for i := range page.Observations {
		o := &page.Observations[i]
		o.Point.Workload.Namespace = "prod"
		o.Peers.Client.Namespace, o.Peers.Server.Namespace = "prod", "prod"
		// details is the productpage of another team
		for service, namespace := range map[*string]*string{
			&o.Point.Workload.Service: &o.Point.Workload.Namespace,
			&o.Peers.Client.Service:   &o.Peers.Client.Namespace,
			&o.Peers.Server.Service:   &o.Peers.Server.Namespace,
		} {
			if *service == "details" {
				*service, *namespace = "productpage", "other"
			}
		}
	}
	locations := map[string]bool{}
	r := Explain(page, nil)
	for _, l := range r.Layers {
		locations[l.Location] = true
	}
	ends := map[string]bool{}
	for _, h := range r.Hops {
		ends[h.From], ends[h.To] = true, true
	}
	for _, l := range compareAnew([]tracestore.Trace{page}, nil).Layers {
		if want := map[string]string{"productpage": "prod", "productpage.other": "other"}[l.Location]; want != "" && l.Namespace != want {
			t.Errorf("compared, %s is in the namespace %q, want %q", l.Location, l.Namespace, want)
		}
	}
	for _, name := range []string{"productpage", "productpage.other"} {
		if !locations[name] || !ends[name] {
			t.Errorf("%s is missing: layers at %v, hops between %v", name, locations, ends)
		}
	}
}

// The front page is always for the same path, but what it asks of details differs. What is
// slow there by its nature is not blamed with high confidence, and the hop's verdict is right.
func TestChildrenAreComparedWithTheirLike(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 24))
	page := func(id byte, path string, change ...func(*breakdowntest.Hop)) tracestore.Trace {
		t := endpoint(r, id, path, true, change...)
		for i := range t.Observations {
			if o := &t.Observations[i]; o.Point.Workload.Service == "gateway" || o.Peers.Client.Service == "gateway" {
				o.Path = "/productpage"
			}
		}
		return t
	}
	baselines := map[int][]tracestore.Trace{}
	for slow := range 20 {
		for id := range byte(40) {
			path := "/a"
			if int(id) < slow {
				path = "/b"
			}
			baselines[slow] = append(baselines[slow], page(100+id, path))
		}
	}
	relay := toDetails(func(h *breakdowntest.Hop) { h.Relay += 20_000_000 })
	for name, test := range map[string]struct {
		slow   int // of the baseline, for "/b"
		path   string
		change func(*breakdowntest.Hop)
		layer  observe.Layer // of the hop to details
		high   bool
		why    string
	}{
		"usual for it":            {4, "/b", func(*breakdowntest.Hop) {}, observe.NoLayer, false, "compared with 4 requests for GET /b: No layer"},
		"rare":                    {1, "/b", func(*breakdowntest.Hop) {}, observe.ProtocolStack, false, "asked for GET /b"},
		"fast one is slow":        {4, "/a", relay, observe.RelayNetwork, true, ""},
		"all for the same, slow":  {0, "/a", relay, observe.RelayNetwork, true, ""},
		"slow one is even slower": {12, "/b", relay, observe.RelayNetwork, false, "compared with 12 requests for GET /b: The relay network"},
	} {
		report := Explain(page(1, test.path, test.change), baselines[test.slow])
		if v := report.Verdict; (v.Confidence == High) != test.high || !strings.Contains(strings.Join(v.Evidence, "\n"), test.why) {
			t.Errorf("%s: %s confidence, %s %q", name, v.Confidence, v.Text, v.Evidence)
		}
		for _, h := range report.Hops {
			if h.From == "productpage" && h.To == "details" && h.Verdict.Layer != test.layer {
				t.Errorf("%s: the hop's verdict: %s", name, h.Verdict.Text)
			}
		}
	}
}
