// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/internal/observe"
)

func seenAt(service string) *observe.Observation {
	return &observe.Observation{Point: &observe.Point{Workload: observe.Workload{Service: service}}}
}

func TestLayerTimes(t *testing.T) {
	times := newLayerTimes()
	hop := &breakdown.Hop{
		TraceID: trace.TraceID{15: 7},
		Sender:  seenAt("productpage"), ServerVNIC: seenAt("details"),
	}
	// Two segments of one layer, and a segment of two layers.
	segment := breakdown.Segment{Layer: observe.ProtocolStack, Location: "details", Phase: breakdown.Request, Time: 1_500_000}
	rest, merged := segment, segment
	rest.Time = 500_000
	merged.Time, merged.MergedLayers = 2_000_000, []observe.Layer{observe.ProtocolStack, observe.Application}
	hop.Segments = []breakdown.Segment{segment, merged, rest}
	times.Observe(hop)
	times.Observe(hop)

	registry := prometheus.NewRegistry()
	registry.MustRegister(times)
	families, err := registry.Gather()
	if err != nil || len(families) != 3 || families[0].GetName() != "layertrace_layer_duration_seconds" {
		t.Fatalf("gathered %v, %v", families, err)
	}
	counts := map[string]uint64{}
	for _, m := range families[0].GetMetric() {
		labels := map[string]string{}
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		if labels["source"] != "productpage" || labels["destination"] != "details" || labels["location"] != "details" || labels["phase"] != "request" {
			t.Errorf("labels %v", labels)
		}
		h := m.GetHistogram()
		counts[labels["layer"]] = h.GetSampleCount()
		if h.GetSchema() < 2 || len(h.GetPositiveSpan()) == 0 {
			t.Errorf("%s has no native histogram of at most 19 %% wide buckets: schema %d", labels["layer"], h.GetSchema())
		}
		exemplar := ""
		for _, b := range h.GetBucket() {
			for _, l := range b.GetExemplar().GetLabel() {
				exemplar = l.GetValue()
			}
			if want := b.GetUpperBound() >= 0.002; (b.GetCumulativeCount() > 0) != want {
				t.Errorf("bucket up to %v s holds %d of samples of 2 ms", b.GetUpperBound(), b.GetCumulativeCount())
			}
		}
		if exemplar != hop.TraceID.String() {
			t.Errorf("exemplar %q, want the trace ID", exemplar)
		}
	}
	if counts["protocol-stack"] != 2 || counts["protocol-stack+application"] != 2 {
		t.Errorf("counts %v", counts)
	}
}

// The intervals of a hop can be compared between nodes.
func TestHopTimes(t *testing.T) {
	times := newLayerTimes()
	at := func(request, response uint64) *observe.Observation {
		return &observe.Observation{
			Point:   &observe.Point{Kind: observe.KindVNIC, Node: "node1", Workload: observe.Workload{Service: "productpage"}},
			Peers:   observe.Peers{Server: observe.Peer{Service: "details"}},
			Request: observe.Message{Last: request}, Response: observe.Message{Last: response},
		}
	}
	times.Observe(&breakdown.Hop{ClientVNIC: at(1e9, 4e9), ClientPNIC: at(15e8, 35e8)})
	times.Observe(&breakdown.Hop{ServerPNIC: at(2e9, 3e9)})
	const want = `
# HELP layertrace_hop_duration_seconds Time of a request on a hop, including the time in other hops: of the whole hop, seen by the client's node (hop), outside the client's node (outside), and inside the server's node (inside).
# TYPE layertrace_hop_duration_seconds summary
layertrace_hop_duration_seconds_sum{destination="details",destination_namespace="",interval="inside",source="",source_namespace=""} 1
layertrace_hop_duration_seconds_count{destination="details",destination_namespace="",interval="inside",source="",source_namespace=""} 1
layertrace_hop_duration_seconds_sum{destination="details",destination_namespace="",interval="hop",source="productpage",source_namespace=""} 3
layertrace_hop_duration_seconds_count{destination="details",destination_namespace="",interval="hop",source="productpage",source_namespace=""} 1
layertrace_hop_duration_seconds_sum{destination="details",destination_namespace="",interval="outside",source="productpage",source_namespace=""} 2
layertrace_hop_duration_seconds_count{destination="details",destination_namespace="",interval="outside",source="productpage",source_namespace=""} 1
`
	if err := testutil.CollectAndCompare(times, strings.NewReader(want), "layertrace_hop_duration_seconds"); err != nil {
		t.Error(err)
	}
}

// Services of one name in two namespaces are two, at either end of a hop and as the
// location of a layer.
func TestNamespacesAreApart(t *testing.T) {
	times := newLayerTimes()
	at := func(service, namespace string) *observe.Observation {
		return &observe.Observation{
			Point:   &observe.Point{Kind: observe.KindVNIC, Node: "node1", Workload: observe.Workload{Service: service, Namespace: namespace}},
			Request: observe.Message{Last: 1e9}, Response: observe.Message{Last: 2e9},
		}
	}
	for _, namespaces := range [][2]string{{"shop", "test"}, {"test", "shop"}, {"shop", "shop"}} {
		segment := breakdown.Segment{Layer: observe.Application, Location: "web", Namespace: namespaces[1], Phase: breakdown.Both, Time: 1e9}
		callee := segment
		callee.Namespace = namespaces[0]
		times.Observe(&breakdown.Hop{
			ClientVNIC: at("web", namespaces[0]), ServerVNIC: at("web", namespaces[1]),
			Segments: []breakdown.Segment{segment, callee},
		})
	}
	const want = `
# HELP layertrace_hop_duration_seconds Time of a request on a hop, including the time in other hops: of the whole hop, seen by the client's node (hop), outside the client's node (outside), and inside the server's node (inside).
# TYPE layertrace_hop_duration_seconds summary
layertrace_hop_duration_seconds_sum{destination="web",destination_namespace="shop",interval="hop",source="web",source_namespace="shop"} 1
layertrace_hop_duration_seconds_count{destination="web",destination_namespace="shop",interval="hop",source="web",source_namespace="shop"} 1
layertrace_hop_duration_seconds_sum{destination="web",destination_namespace="shop",interval="hop",source="web",source_namespace="test"} 1
layertrace_hop_duration_seconds_count{destination="web",destination_namespace="shop",interval="hop",source="web",source_namespace="test"} 1
layertrace_hop_duration_seconds_sum{destination="web",destination_namespace="test",interval="hop",source="web",source_namespace="shop"} 1
layertrace_hop_duration_seconds_count{destination="web",destination_namespace="test",interval="hop",source="web",source_namespace="shop"} 1
`
	if err := testutil.CollectAndCompare(times, strings.NewReader(want), "layertrace_hop_duration_seconds"); err != nil {
		t.Error(err)
	}
	// Two locations for each of the first two hops, one for the third.
	if n := testutil.CollectAndCount(times, "layertrace_layer_duration_seconds"); n != 5 {
		t.Errorf("%d series of layers, want 5", n)
	}
}

func TestExemplars(t *testing.T) {
	times, at := newLayerTimes(), time.Unix(1000, 0)
	of := func(service string) *series {
		return times.seriesOf(seriesKey{layer: "application", location: service, hopKey: hopKey{source: "productpage", destination: service}, phase: "request"})
	}
	details, other := of("details"), of("reviews")
	for i, c := range []struct {
		series  *series
		seconds float64
		after   time.Duration
		want    bool
	}{
		{details, 0.002, 0, true},
		{details, 0.0021, 100 * time.Millisecond, false}, // the same bucket
		{details, 0.2, 100 * time.Millisecond, true},     // a slow one always has one
		{details, 100, 100 * time.Millisecond, true},
		{other, 0.002, 100 * time.Millisecond, true},
		{details, 0.002, exemplarInterval - 1, false},
		{details, 0.002, exemplarInterval, true},
		{details, 0.002, exemplarInterval + time.Second, false},
	} {
		if got := c.series.exemplarDue(c.seconds, at.Add(c.after)); got != c.want {
			t.Errorf("sample %d, %v s after %v: exemplar %t, want %t", i, c.seconds, c.after, got, c.want)
		}
	}
}

// The times of a hop with an exchange that was cut are counted as cut, not as times.
func TestCutTimesAreNotCounted(t *testing.T) {
	times := newLayerTimes()
	for i, flag := range []observe.Flags{
		observe.FlagIdle, observe.FlagEvicted, observe.FlagStillOpen, observe.FlagIncomplete, observe.FlagEndGuessed, observe.FlagPacketsMissing,
	} {
		whole, cut := seenAt("productpage"), seenAt("details")
		cut.Flags = flag | observe.FlagInterim
		times.Observe(&breakdown.Hop{
			Sender: whole, ServerVNIC: cut,
			Segments: []breakdown.Segment{{Layer: observe.ProtocolStack, Location: "details", Phase: breakdown.Request, Time: 1}},
		})
		if n := testutil.ToFloat64(times.cut); n != float64(i+1) {
			t.Errorf("%v: %v counted as cut, want %d", flag.Names(), n, i+1)
		}
	}
	if n := testutil.CollectAndCount(times, "layertrace_layer_duration_seconds", "layertrace_hop_duration_seconds"); n != 0 {
		t.Errorf("%d series of times", n)
	}
}

// Jobs and runners have a new name each time: their series are bounded, those above are
// counted as one, and series that are not used for an hour end.
func TestSeriesAreBoundedAndEnd(t *testing.T) {
	times, now := newLayerTimes(), time.Unix(1000, 0)
	times.now = func() time.Time { return now }
	see := func(client string) {
		sender := seenAt(client)
		sender.Request.Last, sender.Response.Last = 1, 2
		times.Observe(&breakdown.Hop{
			Sender: sender, ServerVNIC: seenAt("details"), ClientVNIC: sender,
			Segments: []breakdown.Segment{
				{Layer: observe.Application, Location: "details", Phase: breakdown.Both, Time: 1},
				{Layer: observe.ProtocolStack, Location: client, Phase: breakdown.Request, Time: 1},
			},
		})
	}
	count := func() (segments, hops int) {
		return testutil.CollectAndCount(times, "layertrace_layer_duration_seconds"), testutil.CollectAndCount(times, "layertrace_hop_duration_seconds")
	}
	for i := range 5000 {
		see("job-" + strconv.Itoa(i))
	}
	segments, hops := count()
	if segments < maxSeries || segments > maxSeries+2 || hops < maxHops || hops > 3*(maxHops+1) {
		t.Errorf("%d series of segments, %d of hops", segments, hops)
	}
	if n := testutil.ToFloat64(times.inOther); n != 2*5000-maxSeries+5000-maxHops {
		t.Errorf("%v times are counted as those of other hops", n)
	}
	see("job-1") // a series of its own
	now = now.Add(unusedAfter - 1)
	see("job-2")
	now = now.Add(sweepInterval)
	see("job-2")
	if segments, hops := count(); segments != 2 || hops == 0 || hops > 3 {
		t.Errorf("an hour later: %d series of segments, %d of hops", segments, hops)
	}
	see("job-5001") // there is room again
	if segments, _ := count(); segments != 4 {
		t.Errorf("a new job: %d series of segments, want 4", segments)
	}
}
