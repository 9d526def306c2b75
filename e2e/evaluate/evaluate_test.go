// SPDX-License-Identifier: Apache-2.0

package evaluate

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/measure"
)

// invented returns the results of an evaluation that was not made: response times of
// every case around a centre, in every round ten per cent slower than in the one before.
func invented(t *testing.T, rounds, requests int) Results {
	t.Helper()
	random := rand.New(rand.NewPCG(7, 7))
	centre := map[string]float64{stock: 5000, reordered: 5200, withOpts: 5200, "agents": 6000, "layers": 4000}
	r := Results{
		Cases: Cases, Dir: t.TempDir(), Settings: Settings{Requests: requests, Acquisition: 900, CPUs: 2, Kernel: "6.18"},
		Trace: TraceInfo{ID: "0af7651916cd43dd8448eb211c80319c", Mesh: 8, Interfaces: 14, SameNode: true},
	}
	for n := range rounds {
		var round Round
		for _, rate := range Rates {
			for _, c := range Cases {
				s := Sample{Rate: rate, Case: c.Name, MeshCPU: 2000, LateP99: 80}
				for range requests {
					s.Latencies = append(s.Latencies, int64(centre[c.Name]*math.Pow(1.1, float64(n))*(0.9+0.2*random.Float64())))
				}
				round.Samples = append(round.Samples, s)
			}
		}
		r.Rounds = append(r.Rounds, round)
	}
	for _, point := range lab.Points() {
		passed := 600
		acquired := int(math.Round(float64(passed) * paperRate(point)))
		if paperRate(point) == 0.66 {
			acquired = 400
		}
		r.Stock = append(r.Stock, measure.Acquired{Point: point, Passed: passed, Acquired: acquired})
		r.Reordered = append(r.Reordered, measure.Acquired{Point: point, Passed: passed, Acquired: passed})
	}
	for _, name := range []string{"figure7", "figure8"} {
		if err := os.WriteFile(filepath.Join(r.Dir, name+".png"), []byte("a picture"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// The machine became ten per cent slower in each round: ratios within a round do not
// show it.
func TestRatiosAreWithinARound(t *testing.T) {
	r := invented(t, 10, 200)
	for name, want := range map[string]float64{reordered: 1.04, "agents": 1.2, "layers": 0.8} {
		for _, figure := range []func(Sample) float64{median, average} {
			got, err := r.ratio(50, name, stock, figure)
			if err != nil {
				t.Fatal(err)
			}
			if math.Abs(got.Value-want) > 0.02 || got.Low > got.Value || got.High < got.Value || got.High-got.Low > 0.05 {
				t.Errorf("%s: %v, want %v and a narrow interval around it", name, got, want)
			}
		}
	}
	if got, err := r.ratio(80, withOpts, reordered, average); err != nil || got.Low > 1 || got.High < 1 {
		t.Errorf("the same response times twice: %v (%v), want an interval with 1", got, err)
	}
}

// The interval has the median of the population in about 95 of 100 samples of it.
func TestBootstrapCovers(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 3))
	covered, trials := 0, 200
	for range trials {
		values := make([]float64, 15)
		for i := range values {
			values[i] = random.NormFloat64()
		}
		low, high := bootstrap(len(values), func(pick []int) float64 {
			drawn := make([]float64, len(pick))
			for i, k := range pick {
				drawn[i] = values[k]
			}
			slices.Sort(drawn)
			return drawn[len(drawn)/2]
		})
		if low <= 0 && 0 <= high {
			covered++
		}
	}
	if share := float64(covered) / float64(trials); share < 0.88 || share > 0.995 {
		t.Errorf("%.2f of the intervals have the true median, want about 0.95", share)
	}
}

func TestPooledQuantilesAreThoseOfAllRequests(t *testing.T) {
	r := invented(t, 7, 143)
	var all []int64
	for _, round := range r.Rounds {
		for _, s := range round.Samples {
			if s.Rate == 80 && s.Case == "agents" {
				all = append(all, s.Latencies...)
			}
		}
	}
	slices.Sort(all)
	for _, q := range []float64{0, 0.5, 0.99, 0.999, 1} {
		got, err := r.pooled(80, "agents", q)
		if err != nil {
			t.Fatal(err)
		}
		if want := float64(all[min(int(q*float64(len(all))), len(all)-1)]); got.Value != want {
			t.Errorf("quantile %v is %v, want %v", q, got.Value, want)
		}
		if got.Low > got.Value || got.High < got.Value {
			t.Errorf("quantile %v is not in its interval: %+v", q, got)
		}
	}
}

func TestOrderGivesEachCaseEachPlace(t *testing.T) {
	places := map[string]map[int]int{}
	for round := range 2 * len(Cases) {
		for place, c := range order(Cases, round) {
			if places[c.Name] == nil {
				places[c.Name] = map[int]int{}
			}
			places[c.Name][place]++
		}
	}
	for name, of := range places {
		for place := range Cases {
			if of[place] != 2 {
				t.Errorf("%s has place %d in %d of %d rounds, want 2", name, place, of[place], 2*len(Cases))
			}
		}
	}
}

// What is written agrees: JSON with the agreed keys, CSV with the same numbers, figures
// that decode, and a page that needs nothing but itself.
func TestReport(t *testing.T) {
	r := invented(t, 4, 50)
	dir := t.TempDir()
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	if err := r.Check(); err != nil {
		t.Error(err)
	}
	text := read(t, filepath.Join(dir, "evaluation.json"))
	var shape map[string][]map[string]any
	if err := json.Unmarshal(text, &shape); err != nil {
		t.Fatal(err)
	}
	for list, keys := range map[string]string{
		"figure4": "paper point reordered stock", "latency": "case mean_us p50_us p99_us rate run", "ratios": "case high low p50 rate",
	} {
		if len(shape[list]) == 0 {
			t.Fatalf("%s is empty", list)
		}
		for _, entry := range shape[list] {
			var names []string
			for name := range entry {
				names = append(names, name)
			}
			slices.Sort(names)
			if got := strings.Join(names, " "); got != keys {
				t.Fatalf("an entry of %s has the keys %s, want %s", list, got, keys)
			}
		}
	}
	if got, want := len(shape["latency"]), 4*len(Rates)*len(Cases); got != want {
		t.Errorf("%d runs, want %d", got, want)
	}
	if got, want := len(shape["ratios"]), len(Rates)*(len(Cases)-1); got != want {
		t.Errorf("%d ratios, want %d", got, want)
	}
	rows, err := csv.NewReader(bytes.NewReader(read(t, filepath.Join(r.Dir, "runs.csv")))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for i, entry := range shape["latency"] {
		row := rows[i+1]
		mean, err := strconv.ParseFloat(row[4], 64)
		if err != nil || row[1] != entry["case"] || math.Abs(mean-entry["mean_us"].(float64)) > 0.06 {
			t.Fatalf("runs.csv line %d is %v, evaluation.json has %v (%v)", i+2, row, entry, err)
		}
	}
	for _, name := range []string{"figure4", "figure5", "figure6"} {
		for _, theme := range []string{"", "-dark"} {
			wellFormed(t, name+theme, read(t, filepath.Join(r.Dir, name+theme+".svg")))
		}
		if _, err := png.Decode(bytes.NewReader(read(t, filepath.Join(r.Dir, name+".png")))); err != nil {
			t.Errorf("%s.png: %v", name, err)
		}
	}
	page := string(read(t, filepath.Join(dir, "evaluation.html")))
	for _, reference := range regexp.MustCompile(`(?:src|srcset|href)="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		if !strings.HasPrefix(reference[1], "data:") {
			t.Errorf("the page refers to %.60q", reference[1])
		}
	}
	for _, want := range []string{"prefers-color-scheme: dark", "Figure 4", "Figure 5", "Figure 6", "Figure 7", "Figure 8", "<code>x-envoy-peer-metadata</code>"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	if strings.Contains(page, "ZgotmplZ") {
		t.Error("the page has a URL that the template refused")
	}
	docs := t.TempDir()
	if err := r.WriteDocs(docs); err != nil {
		t.Fatal(err)
	}
	markdown := string(read(t, filepath.Join(docs, "evaluation.md")))
	for _, file := range regexp.MustCompile(`evaluation/[a-z0-9-]+\.[a-z]+`).FindAllString(markdown, -1) {
		if len(read(t, filepath.Join(docs, file))) == 0 {
			t.Errorf("%s is empty", file)
		}
	}
}

// A report must not claim what was not found.
func TestFindingsFollowTheData(t *testing.T) {
	r := invented(t, 10, 100)
	r.Reordered[3].Acquired--
	r.Stock[2].Acquired -= 60
	r.Trace.SameNode = false
	if r.Check() == nil {
		t.Error("a missed context passes")
	}
	s, err := r.Summarize()
	if err != nil {
		t.Fatal(err)
	}
	rows, err := r.findings(s)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range map[int]string{0: "more than 1 % from the paper at 1 of ten", 1: "599 of 600 acquired", 2: "slower", 4: "slower", 5: "faster", 6: "do not show"} {
		if !strings.Contains(rows[i].Here, want) {
			t.Errorf("row %d: %q, want %q in it", i, rows[i].Here, want)
		}
	}
	for _, i := range []int{0, 1, 6} {
		if !strings.HasPrefix(rows[i].Why, "Unknown") {
			t.Errorf("row %d explains what it cannot: %q", i, rows[i].Why)
		}
	}
}

func TestAnInterruptedEvaluationGoesOn(t *testing.T) {
	dir := t.TempDir()
	settings := Settings{Requests: 5, Cases: []string{stock}, Kernel: "6.18", Programs: map[string]string{"agent": "a"}}
	files := []string{roundFile(0), roundFile(1)}
	s, _, err := openStore(dir, settings, files)
	if err != nil {
		t.Fatal(err)
	}
	e := &evaluation{Options: Options{Progress: t.Logf}, store: s}
	calls := 0
	do := func() (Round, error) {
		calls++
		if calls == 1 {
			return Round{}, errors.New("interrupted")
		}
		return Round{Samples: []Sample{{Rate: 50, Case: stock, Latencies: []int64{int64(calls)}}}}, nil
	}
	if err := step(e, roundFile(0), do); err == nil || s.has(roundFile(0)) {
		t.Fatalf("a round that failed is stored (%v)", err)
	}
	for range 2 { // the second does nothing
		if err := step(e, roundFile(0), do); err != nil {
			t.Fatal(err)
		}
	}
	if s, _, err = openStore(dir, settings, files); err != nil {
		t.Fatal(err)
	}
	var r Round
	if err := s.read(roundFile(0), &r); err != nil || r.Samples[0].Latencies[0] != 2 || calls != 2 {
		t.Errorf("the store has %+v after %d calls (%v), want the second's round", r, calls, err)
	}
	other := settings
	other.Programs = map[string]string{"agent": "b"}
	if _, _, err := openStore(dir, other, files); !errors.Is(err, ErrDifferent) || !strings.Contains(err.Error(), "(programs)") {
		t.Errorf("another agent goes on with these rounds: %v", err)
	}
	// Nothing is left to measure: the report names the programs that were.
	if _, got, err := openStore(dir, other, files[:1]); err != nil || got.Programs["agent"] != "a" {
		t.Errorf("a complete evaluation: %+v (%v), want the settings it was measured with", got, err)
	}
	other.Requests++
	if _, _, err := openStore(dir, other, files[:1]); !errors.Is(err, ErrDifferent) {
		t.Errorf("a complete evaluation is taken for one with more requests: %v", err)
	}
	if err := Discard(dir); err != nil {
		t.Fatal(err)
	}
	if s, _, err = openStore(dir, settings, files); err != nil || s.has(roundFile(0)) {
		t.Errorf("a fresh evaluation has a round (%v)", err)
	}
}

func TestRemaining(t *testing.T) {
	var r remaining
	for _, name := range []string{"a", "b", "c"} {
		r.add(name, time.Minute)
	}
	if got := r.left(); got != 3*time.Minute {
		t.Errorf("at first %v", got)
	}
	// The first step took three times the estimate. The minute that is trusted beside
	// the measurement makes that twice for the others.
	r.current, r.began = "a", time.Now().Add(-3*time.Minute)
	r.done("a")
	if got := r.left(); got.Round(time.Second) != 4*time.Minute {
		t.Errorf("after the first %v, want 4 minutes", got)
	}
	// Half of the second.
	r.current, r.began = "b", time.Now().Add(-time.Minute)
	if got := r.left(); got.Round(time.Second) != 3*time.Minute {
		t.Errorf("in the second %v, want 3 minutes", got)
	}
	r.drop("c")
	r.began = time.Now().Add(-time.Hour)
	if got := r.text(); got != "almost done" {
		t.Errorf("at last %q", got)
	}
}

func TestParseCases(t *testing.T) {
	chosen, err := ParseCases([]string{withOpts})
	if err != nil || len(chosen) != 2 || chosen[0].Name != stock || chosen[1].Name != withOpts {
		t.Errorf("%+v, %v; want stock and options", chosen, err)
	}
	if _, err := ParseCases([]string{"other"}); err == nil {
		t.Error("no error for an unknown case")
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func wellFormed(t *testing.T, name string, svg []byte) {
	t.Helper()
	decoder := xml.NewDecoder(bytes.NewReader(svg))
	for {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%s.svg: %v", name, err)
		}
	}
}
