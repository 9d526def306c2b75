// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/internal/observe"
)

func results() []Result {
	return []Result{
		{Layer: observe.Application, Location: "details", InjectedUS: 1000, VerdictLayer: observe.Application, VerdictLocation: "details", MeasuredUS: 1200, TotalUS: 100, UnattributedUS: 1},
		{Layer: observe.Application, Location: "details", InjectedUS: 10_000, VerdictLayer: observe.Application, VerdictLocation: "ratings", TotalUS: 100, UnattributedUS: 3},
		{Layer: observe.NodeDriver, Location: "node3", InjectedUS: 10_000, Load: true, VerdictLayer: observe.VirtualNetwork, MergedLayers: []observe.Layer{observe.VirtualNetwork, observe.NodeDriver}, VerdictLocation: "node3", MeasuredUS: 10_501, TotalUS: 100, UnattributedUS: 2},
		{Layer: observe.RelayNetwork, Location: "node2-node3", InjectedUS: 10_000, VerdictLayer: observe.NoLayer, TraceIDs: []string{"ab"},
			Singles: []Single{{InjectedUS: 1000, Right: true}, {InjectedUS: 1000}, {InjectedUS: 999}}},
		{Layer: observe.RelayNetwork, Location: "node2-node3", InjectedUS: 999, VerdictLayer: observe.NoLayer},
		{Layer: observe.NoLayer, VerdictLayer: observe.NoLayer, Singles: []Single{{Layer: observe.NoLayer}, {Layer: observe.NoLayer, ClientOffUS: 900}, {Layer: observe.Application, MeasuredUS: 900, ClientOffUS: 449}, {Layer: observe.Application, MeasuredUS: 900, ClientOffUS: 450}}},
		{Layer: observe.NoLayer, VerdictLayer: observe.Application, VerdictLocation: "details"},
	}
}

func TestScore(t *testing.T) {
	s := NewScore(results())
	if s.Accuracy != (Share{2, 4}) || s.FalseBlame != (Share{1, 2}) || s.Close != (Share{1, 2}) || s.Small != 1 {
		t.Errorf("%+v", s)
	}
	if s.SingleAccuracy != (Share{1, 2}) || s.SingleFalseBlame != (Share{2, 4}) || s.SingleSeen != (Share{1, 2}) {
		t.Errorf("each request alone: right %v, blamed %v, of these seen by the client %v", s.SingleAccuracy, s.SingleFalseBlame, s.SingleSeen)
	}
	if s.Unattributed != 0.02 {
		t.Errorf("unattributed %v", s.Unattributed)
	}
	want := map[observe.Layer]map[observe.Layer]int{
		observe.Application: {observe.Application: 2}, observe.NodeDriver: {observe.NodeDriver: 1},
		observe.RelayNetwork: {observe.NoLayer: 1}, observe.NoLayer: {observe.NoLayer: 1, observe.Application: 1},
	}
	if !reflect.DeepEqual(s.Matrix, want) || s.WrongLocation[observe.Application] != 1 || len(s.Wrong) != 3 {
		t.Errorf("%v, wrong place %v, wrong %v", s.Matrix, s.WrongLocation, s.Wrong)
	}
	if (Share{}).Value() != 0 {
		t.Error("a share of nothing")
	}
}

// A verdict of high confidence must not be wrong: neither with a wrong layer or place,
// nor with none where there was a fault, nor with one where there was none.
func TestHighButWrong(t *testing.T) {
	result := func(k faults.Kind, injected int64, verdict observe.Layer, at, confidence string) Result {
		r := Result{Fault: k, Layer: k.Layer(), InjectedUS: injected, VerdictLayer: verdict, VerdictLocation: at, Confidence: confidence,
			Singles: []Single{{InjectedUS: injected, Layer: verdict, Location: at, Confidence: confidence}}}
		if k.Layer() != observe.NoLayer {
			r.Location = "details"
		}
		r.Singles[0].Right = r.Right()
		return r
	}
	wrong := []Result{
		result(faults.AppSleep, 1000, observe.Application, "ratings", "high"),
		result(faults.AppSleep, 1000, observe.NoLayer, "", "high"),
		result(faults.AppSleep, 10, observe.RelayNetwork, "node2-node3", "high"),
		result(faults.NoFault, 0, observe.Application, "details", "high"),
		result(faults.MixedTraffic, 0, observe.Application, "details", "high"),
		result(faults.ResponseReset, 100_000, observe.NoLayer, "", "high"),
	}
	right := []Result{
		result(faults.AppSleep, 1000, observe.Application, "details", "high"),
		result(faults.AppSleep, 1000, observe.Application, "ratings", "medium"),
		result(faults.AppSleep, 10, observe.NoLayer, "", "high"),
		result(faults.NoFault, 0, observe.NoLayer, "", "high"),
		result(faults.ResponseReset, 100_000, observe.NoLayer, "", "low"),
	}
	for _, r := range wrong {
		if !r.HighButWrong() {
			t.Errorf("%s with %s at %q: not wrong", r.Fault, r.VerdictLayer, r.VerdictLocation)
		}
	}
	for _, r := range right {
		if r.HighButWrong() {
			t.Errorf("%s with %s at %q: wrong", r.Fault, r.VerdictLayer, r.VerdictLocation)
		}
	}
	s := NewScore(append(wrong, right...))
	if s.HighButWrong != len(wrong) || s.SingleHighButWrong != len(wrong) || s.Flagged != (Share{0, 2}) {
		t.Errorf("%d wrong, %d of the requests, flagged %v", s.HighButWrong, s.SingleHighButWrong, s.Flagged)
	}
}

// Cases that run together have the same traffic, and wait for similar times.
func TestBatches(t *testing.T) {
	cases := faults.Draw(1, faults.DefaultCases)
	total := 0
	for batch := range (&Runner{Batch: 25}).batches(cases) {
		total += len(batch)
		for _, c := range batch {
			if c.Traffic() != batch[0].Traffic() || c.Kind.Concurrent() != batch[0].Kind.Concurrent() {
				t.Errorf("%v and %v in one batch", c, batch[0])
			}
		}
	}
	if total != len(cases) {
		t.Errorf("%d of %d cases in batches", total, len(cases))
	}
}

// The queue counts where the verdict is right and the fault is in a queue.
func TestScoreOfQueues(t *testing.T) {
	result := func(k faults.Kind, verdict observe.Layer, queue string) Result {
		return Result{Fault: k, Layer: k.Layer(), Location: "details", InjectedUS: 1000, VerdictLayer: verdict, VerdictLocation: "details", VerdictQueue: queue}
	}
	s := NewScore([]Result{
		result(faults.SidecarStarved, observe.ProtocolStack, "receive"), result(faults.AppNotReading, observe.ProtocolStack, "receive"),
		result(faults.PodQdisc, observe.ProtocolStack, "pod"), result(faults.PodQdisc, observe.ProtocolStack, "receive"), result(faults.PodQdisc, observe.ProtocolStack, ""),
		result(faults.SidecarStarved, observe.Application, ""), result(faults.AppSleep, observe.Application, ""),
	})
	if s.Queue != (Share{3, 5}) {
		t.Errorf("got %v", s.Queue)
	}
}

func TestPage(t *testing.T) {
	var b strings.Builder
	if err := NewScore(results()).WritePage(&b, "Title", "A note."); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"# Title\n\nA note.\n", "50.0 % (2 of 4)", "| relay-network ", "not counted: 1", "## Wrong verdicts"} {
		if !strings.Contains(b.String(), part) {
			t.Errorf("no %q in\n%s", part, b.String())
		}
	}
}

// The committed page has the generator's prose; only its numbers are from a run.
func TestDocumentHasTheProseOfThePage(t *testing.T) {
	document, err := os.ReadFile("../../../docs/fault-matrix.md")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := NewScore(nil).WritePage(&b, "Title"); err != nil {
		t.Fatal(err)
	}
	number := regexp.MustCompile(`[0-9]+(\.[0-9]+)?`)
	inDocument := strings.Split(number.ReplaceAllString(string(document), "N"), "\n")
	for line := range strings.Lines(number.ReplaceAllString(b.String(), "N")) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "|") || line == "# Title" {
			continue
		}
		if !slices.Contains(inDocument, line) {
			t.Errorf("not in the document: %s", line)
		}
	}
}

// Other programs read the file by these names.
func TestFileFormat(t *testing.T) {
	c := faults.Case{Kind: faults.DriverQdisc, Node: 3, Magnitude: time.Millisecond, Transfer: faults.Transfer{Caller: "productpage", Callee: "details", Response: true}}
	r := NewResult(c, []Sample{{"ab", 1100 * time.Microsecond, 9 * time.Millisecond, 20 * time.Microsecond}, {"cd", time.Millisecond, time.Millisecond, 0}, {"ef", time.Second, time.Second, 0}}, 5)
	r.Judge(Verdict{Layer: observe.NodeDriver, Location: "node3", Excess: time.Millisecond, Unattributed: 2 * time.Microsecond, Total: 8 * time.Millisecond})
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
