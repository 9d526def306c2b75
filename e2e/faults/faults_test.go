// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
)

func TestDrawIsDeterministic(t *testing.T) {
	if !reflect.DeepEqual(Draw(7, 100), Draw(7, 100)) {
		t.Error("one seed, two draws")
	}
	if reflect.DeepEqual(Draw(7, 100), Draw(8, 100)) {
		t.Error("two seeds, one draw")
	}
	if !reflect.DeepEqual(Draw(7, 100), Draw(7, 200)[:100]) {
		t.Error("more cases are other cases")
	}
}

// The default draw has every fault at every place and magnitude, with and
// without load.
func TestDrawCovers(t *testing.T) {
	type key struct {
		kind   Kind
		place  string
		amount time.Duration
		load   bool
	}
	drawn := map[key]int{}
	none := 0
	for _, c := range Draw(1, DefaultCases) {
		drawn[key{c.Kind, c.Place(), c.Magnitude, c.Load}]++
		if c.Kind == NoFault {
			none++
		}
	}
	if faults := DefaultCases - none; none < 100 || faults < 500 {
		t.Errorf("%d faults and %d without", faults, none)
	}
	for _, c := range Deck() {
		if drawn[key{c.Kind, c.Place(), c.Magnitude, c.Load}] == 0 {
			t.Errorf("not drawn: %v", c)
		}
	}
	for _, load := range []bool{false, true} {
		if drawn[key{NoFault, "", 0, load}] == 0 {
			t.Errorf("no request without a fault, load %v", load)
		}
	}
}

// A fault can meet its request: the message is on the way that is asked for,
// and it passes where the fault is.
func TestDrawnFaultsMeetTheirRequest(t *testing.T) {
	for _, c := range Draw(3, 2000) {
		from, to := nodeOf(c.Leg.From()), nodeOf(c.Leg.To())
		if v := c.Leg.Version(); v != "" && v != c.Version {
			t.Errorf("%v: asks %s", c, c.Version)
		}
		met := true
		switch c.Kind {
		case AppSleep, AppNotReading, SidecarStarved:
			met = onTheWay(c.Pod, c.Version)
		case PodQdisc:
			met = c.Leg.From() == c.Pod && onTheWay(c.Pod, c.Version)
		case DriverQdisc:
			met = from == c.Node && to != from
		case SlowBridge:
			met = to == c.Node && to != from
		case RelayLoss, RelayReorder:
			met = from == c.FromNode && to == c.ToNode
		}
		if !met {
			t.Errorf("%v with %s does not meet its request", c, c.Version)
		}
	}
}

func onTheWay(pod, version string) bool {
	if strings.HasPrefix(pod, "reviews") {
		return pod == version
	}
	return pod != "ratings" || version != "reviews-v1"
}

func TestPlaces(t *testing.T) {
	for want, c := range map[string]Case{
		"istio-ingressgateway": {Kind: SidecarStarved, Pod: "gateway"},
		"node3":                {Kind: SlowBridge, Node: 3},
		"node2-node4":          {Kind: RelayLoss, FromNode: 4, ToNode: 2},
		"":                     {Kind: NoFault},
	} {
		if got := c.Place(); got != want {
			t.Errorf("%v: %q", c, got)
		}
	}
	if len(Kinds) != len(layerOf) {
		t.Errorf("%d kinds, %d have a layer", len(Kinds), len(layerOf))
	}
	for _, leg := range Legs() {
		if nodeOf(leg.From()) == lab.ClientNode || nodeOf(leg.To()) == 0 {
			t.Errorf("%+v is not between pods", leg)
		}
	}
}

func results() []Result {
	return []Result{
		{Layer: Application, Place: "details", InjectedUS: 1000, VerdictLayer: Application, VerdictPlace: "details", MeasuredUS: 1200, TotalUS: 100, UnattributedUS: 1},
		{Layer: Application, Place: "details", InjectedUS: 10_000, VerdictLayer: Application, VerdictPlace: "ratings", TotalUS: 100, UnattributedUS: 3},
		{Layer: NodeDriver, Place: "node3", InjectedUS: 10_000, Load: true, VerdictLayer: VirtualNetwork, Covers: []Layer{VirtualNetwork, NodeDriver}, VerdictPlace: "node3", MeasuredUS: 10_501, TotalUS: 100, UnattributedUS: 2},
		{Layer: RelayNetwork, Place: "node2-node3", InjectedUS: 10_000, VerdictLayer: None, TraceIDs: []string{"ab"},
			Singles: []Single{{InjectedUS: 1000, Right: true}, {InjectedUS: 1000}, {InjectedUS: 999}}},
		{Layer: RelayNetwork, Place: "node2-node3", InjectedUS: 999, VerdictLayer: None},
		{Layer: None, VerdictLayer: None, Singles: []Single{{Layer: None}, {Layer: None, ClientOffUS: 900}, {Layer: Application, MeasuredUS: 900, ClientOffUS: 449}, {Layer: Application, MeasuredUS: 900, ClientOffUS: 450}}},
		{Layer: None, VerdictLayer: Application, VerdictPlace: "details"},
	}
}

func TestScore(t *testing.T) {
	s := Add(results())
	if s.Accuracy != (Share{2, 4}) || s.FalseBlame != (Share{1, 2}) || s.Close != (Share{1, 2}) || s.Small != 1 {
		t.Errorf("%+v", s)
	}
	if s.SingleAccuracy != (Share{1, 2}) || s.SingleFalseBlame != (Share{2, 4}) || s.SingleSeen != (Share{1, 2}) {
		t.Errorf("each by itself: right %v, blamed %v, of these seen by the client %v", s.SingleAccuracy, s.SingleFalseBlame, s.SingleSeen)
	}
	if s.Unattributed != 0.02 {
		t.Errorf("unattributed %v", s.Unattributed)
	}
	want := map[Layer]map[Layer]int{
		Application: {Application: 2}, NodeDriver: {NodeDriver: 1},
		RelayNetwork: {None: 1}, None: {None: 1, Application: 1},
	}
	if !reflect.DeepEqual(s.Matrix, want) || s.WrongPlace[Application] != 1 || len(s.Wrong) != 3 {
		t.Errorf("%v, wrong place %v, wrong %v", s.Matrix, s.WrongPlace, s.Wrong)
	}
	if (Share{}).Value() != 0 {
		t.Error("a share of nothing")
	}
}

// The queue counts where the verdict is right and the fault in one.
func TestScoreOfQueues(t *testing.T) {
	result := func(k Kind, verdict Layer, queue string) Result {
		return Result{Fault: k, Layer: k.Layer(), Place: "details", InjectedUS: 1000, VerdictLayer: verdict, VerdictPlace: "details", VerdictQueue: queue}
	}
	s := Add([]Result{
		result(SidecarStarved, ProtocolStack, "receive"), result(AppNotReading, ProtocolStack, "receive"),
		result(PodQdisc, ProtocolStack, "pod"), result(PodQdisc, ProtocolStack, "receive"), result(PodQdisc, ProtocolStack, ""),
		result(SidecarStarved, Application, ""), result(AppSleep, Application, ""),
	})
	if s.Queue != (Share{3, 5}) {
		t.Errorf("got %v", s.Queue)
	}
}

func TestPage(t *testing.T) {
	var b strings.Builder
	if err := Add(results()).WritePage(&b, "Title", "A note."); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"# Title\n\nA note.\n", "50.0 % (2 of 4)", "| relay-network ", "not counted: 1", "## What was not right"} {
		if !strings.Contains(b.String(), part) {
			t.Errorf("no %q in\n%s", part, b.String())
		}
	}
}

// The names are those that others read the file by.
func TestFileFormat(t *testing.T) {
	c := Case{Kind: DriverQdisc, Node: 3, Magnitude: time.Millisecond, Leg: Leg{"productpage", "details", true}}
	r := NewResult(c, []Request{{"ab", 1100 * time.Microsecond, 9 * time.Millisecond, 20 * time.Microsecond}, {"cd", time.Millisecond, time.Millisecond, 0}, {"ef", time.Second, time.Second, 0}}, 5)
	r.Judge(Verdict{Layer: NodeDriver, Place: "node3", Excess: time.Millisecond, Unattributed: 2 * time.Microsecond, Total: 8 * time.Millisecond})
	data, err := json.Marshal(File{Cases: []Result{r}, Accuracy: 1})
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases                []map[string]any `json:"cases"`
		Accuracy, FalseBlame *float64
		Blame                *float64 `json:"false_blame"`
	}
	if err := json.Unmarshal(data, &file); err != nil || file.Accuracy == nil || file.Blame == nil || len(file.Cases) != 1 {
		t.Fatalf("%v: %s", err, data)
	}
	for key, want := range map[string]any{
		"fault": "driver-qdisc", "layer": "node-driver", "place": "node3", "injected_us": 1100.0,
		"verdict_layer": "node-driver", "verdict_place": "node3", "measured_us": 1000.0,
		"unattributed_us": 2.0, "total_us": 8000.0, "seed": 5.0, "load": false,
	} {
		if file.Cases[0][key] != want {
			t.Errorf("%s: %v, want %v", key, file.Cases[0][key], want)
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
		t.Errorf("a wrong name: %v, want it and what to choose of", err)
	}
}
