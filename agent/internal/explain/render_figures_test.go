// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"encoding/json"
	"html"
	"io"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/breakdown/breakdowntest"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
)

// forms are a result in all its forms.
type forms struct {
	text, page string
	parsed     parsedJSON
}

// parsedJSON is what a reader of the JSON form sees of a report or a comparison. Both
// name the time of a layer differently.
type parsedJSON struct {
	Total, SlowTotal int64
	Layers           []parsedLayer
	Unattributed     int64 `json:"unattributed_ns"`
	Verdict          struct {
		Excess   int64 `json:"excess_ns"`
		Share    float64
		Text     string
		Evidence []string
	}
	Hops []struct {
		From, To string
		Total    int64 `json:"total_ns"`
		Flags    []string
	}
}

type parsedLayer struct {
	Layer     observe.Layer
	Location  string
	Namespace *string
	Time      int64 `json:"time_ns"`
	Slow      int64 `json:"slow_ns"`
	Baseline  int64 `json:"baseline_ns"`
	Share     float64
}

func formsOf(t *testing.T, result interface {
	WriteText(io.Writer, TextOptions) error
	WriteJSON(io.Writer) error
}, page func(io.Writer) error) (f forms) {
	t.Helper()
	var text, line, hyper bytes.Buffer
	for _, err := range []error{result.WriteText(&text, TextOptions{Width: maxWidth}), result.WriteJSON(&line), page(&hyper)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := json.Unmarshal(line.Bytes(), &f.parsed); err != nil {
		t.Fatal(err)
	}
	f.text, f.page = text.String(), hyper.String()
	return f
}

func formsOfReport(t *testing.T, r *Report) forms {
	t.Helper()
	return formsOf(t, r, func(w io.Writer) error { return WriteHTML(w, r) })
}

var (
	figure = regexp.MustCompile(`[+-]?\d+(?:\.\d+)? (?:ns|µs|ms|s)\b|[<>]?\d+ %`)
	tags   = regexp.MustCompile(`<[^>]*>`)
	tableX = regexp.MustCompile(`(?s)<h2>Layers</h2>.*?</table>`)
	rowX   = regexp.MustCompile(`(?s)<tr[^>]*><td class="layer">.*?</tr>`)
	chipX  = regexp.MustCompile(`(?s)<ul class="chips">.*?</ul>`)
)

// textRows are the figures of each row of the table of layers in text.
func (f *forms) textRows() (rows [][]string) {
	_, table, _ := strings.Cut(f.text, "\nLAYER")
	for i, line := range strings.Split(table, "\n") {
		if line == "" || strings.HasPrefix(line, "A row of") {
			break
		}
		if i > 0 {
			rows = append(rows, figure.FindAllString(line, -1))
		}
	}
	return rows
}

func (f *forms) pageRows() (rows [][]string) {
	for _, row := range rowX.FindAllString(tableX.FindString(f.page), -1) {
		rows = append(rows, figure.FindAllString(html.UnescapeString(tags.ReplaceAllString(row, " ")), -1))
	}
	return rows
}

// isRounded reports whether a figure is what a reader would round the value to.
func isRounded(t *testing.T, text string, value float64) bool {
	t.Helper()
	number, unit, _ := strings.Cut(text, " ")
	switch {
	case strings.HasPrefix(text, "<"):
		return value > 0 && value < 0.01
	case strings.HasPrefix(text, ">"):
		return value > 0.99 && value < 1
	}
	scale := map[string]float64{"ns": 1, "µs": 1e3, "ms": 1e6, "s": 1e9, "%": 0.01}[unit]
	shown, err := strconv.ParseFloat(number, 64)
	if err != nil || scale == 0 {
		t.Fatalf("%q is no figure", text)
	}
	_, decimals, _ := strings.Cut(number, ".")
	step := scale * math.Pow(10, -float64(len(decimals)))
	if unit == "%" {
		step *= 2 // rounded down if all together would be above 100 %
	}
	return math.Abs(shown*scale-value) <= step/2*1.0001
}

// check compares the figures of all forms: the two that people read are the same, and
// those that programs read are what they round.
func (f *forms) check(t *testing.T) {
	t.Helper()
	text, page := f.textRows(), f.pageRows()
	if diff := cmp.Diff(text, page); diff != "" {
		t.Fatalf("text and page differ: %s\n%s", diff, f.text)
	}
	want := len(f.parsed.Layers)
	if f.parsed.Unattributed != 0 {
		want++
		if last := text[len(text)-1][0]; !isRounded(t, last, float64(f.parsed.Unattributed)) {
			t.Errorf("%s not attributed, JSON: %d", last, f.parsed.Unattributed)
		}
	}
	if len(text) != want {
		t.Fatalf("%d rows, want %d:\n%s", len(text), want, f.text)
	}
	percents := 0.0
	for i, l := range f.parsed.Layers {
		if l.Namespace == nil {
			t.Errorf("%s of %s has no namespace in JSON", l.Layer, l.Location)
		}
		values := []float64{float64(l.Time + l.Slow)}
		if l.Baseline >= 0 && len(text[i]) > 2 {
			values = append(values, float64(l.Baseline), float64(l.Time+l.Slow-l.Baseline))
		}
		values = append(values, l.Share)
		if len(text[i]) == len(values)-1 && l.Slow < l.Baseline {
			values = values[:len(values)-1] // faster than the baseline: no share in the excess
		}
		if len(text[i]) != len(values) {
			t.Fatalf("%s of %s: figures %q, want %v", l.Layer, l.Location, text[i], values)
		}
		for k, value := range values {
			if !isRounded(t, text[i][k], value) {
				t.Errorf("%s of %s: %q, JSON: %v", l.Layer, l.Location, text[i][k], value)
			}
		}
	}
	for _, row := range text {
		if p, err := strconv.ParseFloat(strings.TrimSuffix(row[len(row)-1], " %"), 64); err == nil {
			percents += p
		}
	}
	if f.parsed.SlowTotal == 0 && percents > 100 {
		t.Errorf("shares add up to %v %%", percents)
	}
	f.checkVerdict(t)
}

func (f *forms) checkVerdict(t *testing.T) {
	t.Helper()
	plain, page := strings.Join(strings.Fields(f.text), " "), html.UnescapeString(tags.ReplaceAllString(f.page, ""))
	for _, sentence := range append([]string{f.parsed.Verdict.Text}, f.parsed.Verdict.Evidence...) {
		if !strings.Contains(plain, sentence) || !strings.Contains(page, sentence) {
			t.Errorf("text or page lacks %q", sentence)
		}
	}
	if f.parsed.Verdict.Excess == 0 {
		return
	}
	chips := html.UnescapeString(tags.ReplaceAllString(chipX.FindString(f.page), " "))
	figures := figure.FindAllString(chips, -1)
	if len(figures) != 2 || !isRounded(t, figures[0], float64(f.parsed.Verdict.Excess)) || !isRounded(t, figures[1], f.parsed.Verdict.Share) {
		t.Errorf("chips %q, JSON: %d ns, share %v", chips, f.parsed.Verdict.Excess, f.parsed.Verdict.Share)
	}
	if !strings.Contains(plain, figures[0]+", "+figures[1]) {
		t.Errorf("text lacks the verdict's %q", figures)
	}
}

// No number differs between text, page and JSON.
func TestOneSetOfNumbers(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	baseline := baselineOf(r, 20, nil)
	slow := toDetails(func(h *breakdowntest.Hop) { h.Driver += 30_000_000; h.Stack += 400_000 })
	measured := Explain(pageTrace(r, 1, nil, slow), baseline)
	alone := Explain(pageTrace(r, 2, nil, slow), nil)
	contradicting := slowNetwork()
	contradicting.Unattributed = -1_500 * us
	for name, report := range map[string]*Report{
		"by hand": slowNetwork(), "no baseline": noBaseline(), "measured": &measured, "measured alone": &alone, "contradicting times": contradicting,
	} {
		t.Run(name, func(t *testing.T) {
			f := formsOfReport(t, report)
			f.check(t)
		})
	}
	together := compareAnew([]tracestore.Trace{pageTrace(r, 1, nil, slow), pageTrace(r, 2, nil, slow), pageTrace(r, 3, nil, slow)}, baseline)
	missing := slowTail()
	missing.Unattributed = 30_550 * us
	for name, c := range map[string]*Comparison{"comparison by hand": slowTail(), "measured together": &together, "much is missing": missing} {
		t.Run(name, func(t *testing.T) {
			f := formsOf(t, c, c.WriteHTML)
			f.check(t)
		})
	}
	f := formsOf(t, missing, missing.WriteHTML)
	for form, text := range map[string]string{"text": f.text, "page": f.page} {
		if !strings.Contains(text, "30.6 ms of 47.0 ms not attributed (medians of the slow traces)") {
			t.Errorf("%s does not say what is not attributed:\n%s", form, text)
		}
	}
}

// Wherever a layer's slow segments took more or less than the whole layer, the verdict's
// excess is called that of the segments.
func TestExcessOfSegments(t *testing.T) {
	r := slowNetwork()
	r.Verdict.Excess, r.Verdict.Share = 33_000*us, 0.685
	f := formsOfReport(t, r)
	for form, text := range map[string]string{"text": f.text, "page": f.page} {
		if want := "excess of its slow segments: 33.0 ms, 69 % of the trace's time"; !strings.Contains(html.UnescapeString(text), want) {
			t.Errorf("%s lacks %q", form, want)
		}
	}
}

func TestPercents(t *testing.T) {
	for _, c := range []struct {
		shares []float64
		want   []string
	}{
		{[]float64{1}, []string{"100 %"}},
		{[]float64{0.997, 0.003}, []string{">99 %", "<1 %"}},
		{[]float64{0.995, 0.005, 0}, []string{">99 %", "<1 %", "0 %"}},
		// Rounded one by one they would be 101.
		{[]float64{0.336, 0.337, 0.327}, []string{"33 %", "34 %", "33 %"}},
		{[]float64{0.335, 0.335, 0.33}, []string{"34 %", "33 %", "33 %"}},
		{[]float64{0.505, 0.495}, []string{"51 %", "49 %"}},
		{[]float64{1.7, -0.2}, []string{"100 %", ""}},
	} {
		got := percents(c.shares)
		sum := 0
		for _, text := range got {
			n, _ := strconv.Atoi(strings.TrimSuffix(text, " %"))
			sum += n
		}
		if sum > 100 {
			t.Errorf("%v: %q add up to %d %%", c.shares, got, sum)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v: %q, want %q", c.shares, got, c.want)
		}
	}
}

// Two services of one name are two; the namespace of most services is left out.
func TestNamespacesAreShown(t *testing.T) {
	r := slowNetwork()
	r.Layers = []LayerTime{
		{Layer: observe.Application, Location: "reviews", Namespace: "prod", Time: 6_200 * us, Baseline: -1, Share: 0.129},
		{Layer: observe.Application, Location: "reviews", Namespace: "staging", Time: 4_100 * us, Baseline: -1, Share: 0.085},
		{Layer: observe.Application, Location: "details", Namespace: "prod", Time: 640 * us, Baseline: -1, Share: 0.013},
		{Layer: observe.Application, Location: "db", Namespace: "data", Time: 640 * us, Baseline: -1, Share: 0.013},
	}
	r.Unattributed = 0
	r.Verdict = Verdict{Layer: observe.Application, Location: "reviews", Namespace: "staging", Time: 4_100 * us, Confidence: Low}
	r.Hops = r.Hops[:1]
	r.Hops[0].From, r.Hops[0].FromNamespace, r.Hops[0].To, r.Hops[0].ToNamespace = "reviews (sidecar)", "prod", "details", "prod"
	r.Hops[0].Segments = []Segment{segment(-1, breakdown.Segment{Layer: observe.Application, Location: "reviews", Namespace: "staging", Time: us})}
	f := formsOfReport(t, r)
	f.check(t)
	for form, text := range map[string]string{"text": f.text, "page": f.page} {
		for _, want := range []string{"reviews.prod", "reviews.staging", "db.data", "reviews.prod (sidecar) → details"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %s:\n%s", form, want, text)
			}
		}
		if strings.Contains(text, "details.prod") {
			t.Errorf("%s names the common namespace", form)
		}
	}
	table := r.layerTable()
	if blamed := slices.IndexFunc(table.rows, func(r layerRow) bool { return r.Blamed }); blamed != 1 || table.rows[0].Blamed {
		t.Errorf("row %d is blamed, want that of staging", blamed)
	}
	for _, want := range []string{`"namespace":"staging"`, `"from_namespace":"prod"`, `"to_namespace":"prod"`} {
		var b bytes.Buffer
		if err := r.WriteJSON(&b); err != nil || !strings.Contains(b.String(), want) {
			t.Errorf("JSON lacks %s", want)
		}
	}
}

// The same from observations, in which all have a namespace.
func TestNamespacesOfATrace(t *testing.T) {
	w := breakdowntest.New()
	w.FrontPage()
	spaces := map[string]string{"gateway": "prod", "productpage": "prod", "details": "staging"}
	for i := range w.All {
		p := *w.All[i].Point
		p.Workload.Namespace = spaces[p.Workload.Service]
		// Details becomes the productpage of another namespace.
		if p.Workload.Service == "details" {
			p.Workload.Service = "productpage"
		}
		w.All[i].Point = &p
	}
	r := Explain(tracestore.Trace{ID: w.ID, Observations: w.All}, nil)
	f := formsOfReport(t, &r)
	f.check(t)
	for form, text := range map[string]string{"text": f.text, "page": f.page} {
		for _, want := range []string{"productpage.prod", "productpage.staging", "gateway "} {
			if !strings.Contains(tags.ReplaceAllString(text, " "), want) {
				t.Errorf("%s lacks %s:\n%s", form, want, f.text)
			}
		}
		if strings.Contains(text, "gateway.prod") {
			t.Errorf("%s names the common namespace", form)
		}
	}
	found := map[string]int{}
	for _, l := range f.parsed.Layers {
		if isOfService(l.Layer) {
			found[*l.Namespace]++
		}
	}
	if found["prod"] == 0 || found["staging"] == 0 || found[""] != 0 {
		t.Errorf("namespaces of layers in JSON: %v", found)
	}
}

// A pair of nodes is readable though their names have hyphens.
func TestPairsOfNodes(t *testing.T) {
	r := slowNetwork()
	const location = "ip-10-0-3-7-ip-10-0-4-9"
	r.Hops[2].FromNode, r.Hops[2].ToNode = "ip-10-0-4-9", "ip-10-0-3-7"
	r.Layers[0].Location, r.Verdict.Location, r.Hops[2].Segments[2].Location = location, location, location
	r.Verdict.Text = "The relay network of " + location + " took 36.4 ms, 35.9 ms more than the baseline."
	r.Verdict.Evidence = []string{"not the one of " + location + "0"} // another pair
	f := formsOfReport(t, r)
	for form, text := range map[string]string{"text": f.text, "page": html.UnescapeString(f.page)} {
		if !strings.Contains(text, "The relay network of ip-10-0-4-9 → ip-10-0-3-7 took 36.4 ms") || !strings.Contains(text, location+"0") ||
			strings.Count(text, location) != strings.Count(text, location+"0") {
			t.Errorf("%s: pair of nodes:\n%s", form, text)
		}
	}
	r.Hops[3].FromNode, r.Hops[3].ToNode = "ip-10-0-3-7", "ip-10-0-4-9" // the other way too
	if name := r.names().relays[location]; name != "ip-10-0-3-7 ↔ ip-10-0-4-9" {
		t.Errorf("both ways: %s", name)
	}
	r.Hops[2].FromNode = ""
	if name := r.names().relays["?-ip-10-0-3-7"]; name != "beyond ip-10-0-3-7" {
		t.Errorf("one node is unknown: %s", name)
	}
	c := slowTail()
	c.Layers = []LayerDelta{{Layer: observe.RelayNetwork, Location: "node1-node2"}, {Layer: observe.RelayNetwork, Location: "a-b-c"}}
	if got := c.names().relays; got["node1-node2"] != "node1 ↔ node2" || got["a-b-c"] != "" {
		t.Errorf("comparison: %v", got)
	}
}

// The time between nodes is drawn where it passed: before the server's work, after it, or
// half and half if nothing shows which.
func TestDrawnOnTheWay(t *testing.T) {
	const short, long = uint64(50_000), uint64(8_000_000)
	for name, test := range map[string]struct {
		request, response uint64
		acknowledged      func(o *observe.Observation) *observe.Message // by the peer, 100 µs after it left
		before, after     bool                                          // drawn there
		text              string
	}{
		"response": {short, long, func(o *observe.Observation) *observe.Message { return &o.Request }, false, true, "8.05 ms (at least 7.95 ms on the way of the response)"},
		"request":  {long, short, func(o *observe.Observation) *observe.Message { return &o.Response }, true, false, "8.05 ms (at least 7.95 ms on the way of the request)"},
		"unknown":  {short, long, nil, true, true, "relay network 8.05 ms"},
	} {
		t.Run(name, func(t *testing.T) {
			w := breakdowntest.New()
			hop := w.Hop(breakdowntest.Page, observe.Sidecar, breakdowntest.Details, observe.Sidecar)
			hop.Relay = test.request
			hop.Run(func() {
				w.Spend(observe.Application, "details", 4_000_000)
				hop.Relay = test.response
			})
			for i := range w.All {
				o := &w.All[i]
				if test.acknowledged == nil || o.Socket == nil {
					continue
				}
				for k := range w.All {
					left := test.acknowledged(&w.All[k]).Tx.Last
					if w.All[k].Point.Kind == observe.KindPNIC && w.All[k].Point.Node == o.Point.Node && left != 0 {
						test.acknowledged(o).Acknowledged = left + 2*short
					}
				}
			}
			r := Explain(tracestore.Trace{ID: w.ID, Observations: w.All}, nil)
			f := formsOfReport(t, &r)
			f.check(t)
			from, to := r.extent()
			drawn := string(lane(r.Hops, 0, from, to, 100))
			application := strings.Index(drawn, "A")
			before, after := strings.Count(drawn[:application], "R") > 2, strings.Count(drawn[application:], "R") > 2
			if before != test.before || after != test.after {
				t.Errorf("relay network drawn as %s", drawn)
			}
			want := map[bool]int{false: 1, true: 2}[before && after]
			if got := strings.Count(f.page, `<i class="lr" style="left:`) - 1; got != want { // one is a gauge
				t.Errorf("%d pieces on the page, want %d", got, want)
			}
			if !strings.Contains(strings.Join(strings.Fields(f.text), " "), test.text) {
				t.Errorf("text lacks %q:\n%s", test.text, f.text)
			}
		})
	}
}

// What is cut, open or strange is named at its hop, in all forms.
func TestFlagsAreNamed(t *testing.T) {
	r := slowNetwork()
	r.Hops[0].Flags = observe.FlagStillOpen.Names()
	r.Hops[1].Flags = (observe.FlagEvicted | observe.FlagPacketsMissing | observe.FlagSeveralContexts | observe.FlagReset).Names()
	r.Hops[3].Flags = observe.FlagIncomplete.Names()
	f := formsOfReport(t, r)
	plain := strings.Join(strings.Fields(f.text), " ")
	for _, want := range []string{
		"gateway: GET /productpage is still open, 48.2 ms so far",
		"still open, 48.2 ms so far",
		"reported before its end to make room for others",
		"packets did not pass a capture point",
		"several trace contexts with different IDs",
		"RST ended the connection",
		"a response ended before all that it announced had come",
	} {
		if !strings.Contains(plain, want) || !strings.Contains(html.UnescapeString(f.page), want) {
			t.Errorf("text or page lacks %q:\n%s", want, f.text)
		}
	}
	for i, want := range [][]string{{"still_open"}, {"reset", "evicted", "packets_missing", "several_contexts"}, {}, {"incomplete"}} {
		if got := f.parsed.Hops[i].Flags; got == nil || !slices.Equal(got, want) {
			t.Errorf("hop %d has the flags %q in JSON, want %q", i, got, want)
		}
	}
}

// Text is as wide as its terminal, and names are whole where there is room for them.
func TestWidths(t *testing.T) {
	for _, columns := range []int{minWidth, 80, 100, 132} {
		for name, r := range reports() {
			text := string(written(t, r.WriteText, TextOptions{Width: columns}))
			for line := range strings.Lines(text) {
				// A word that is longer than the line has one by itself.
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > columns && strings.Contains(strings.TrimSpace(line), " ") && name != "hostile" {
					t.Errorf("%s in %d columns: a line of %d: %s", name, columns, n, line)
				}
			}
			if name == "no-baseline" && columns >= 80 && !strings.Contains(text, "a-service-with-a-very-long-name-indeed") {
				t.Errorf("%d columns: a long name is cut:\n%s", columns, text)
			}
			if name == "slow-network" && columns >= 80 && !strings.Contains(text, "reviews-v1 (sidecar) → reviews-v1 ") {
				t.Errorf("%d columns: a hop is cut:\n%s", columns, text)
			}
		}
	}
	if got := fit("reviews-v1-7c9f", 9); got != "revi…7c9f" {
		t.Errorf("cut to %q", got)
	}
}

// The flags of observations reach the hop in all forms.
func TestFlagsOfObservations(t *testing.T) {
	w := breakdowntest.New()
	w.FrontPage()
	for i := range w.All {
		if o := &w.All[i]; o.Socket != nil && !o.Socket.Client && o.Point.Workload.Service == "details" {
			o.Flags |= observe.FlagStillOpen | observe.FlagEndGuessed
		}
	}
	r := Explain(tracestore.Trace{ID: w.ID, Observations: w.All}, nil)
	f := formsOfReport(t, &r)
	f.check(t)
	flagged := 0
	for _, h := range f.parsed.Hops {
		if slices.Equal(h.Flags, []string{"still_open", "end_guessed"}) {
			flagged++
			for form, text := range map[string]string{"text": f.text, "page": f.page} {
				if !strings.Contains(text, "still open, "+duration(h.Total)+" so far") {
					t.Errorf("%s does not call %s → %s open", form, h.From, h.To)
				}
			}
		} else if len(h.Flags) > 0 {
			t.Errorf("%s → %s has the flags %q", h.From, h.To, h.Flags)
		}
	}
	if flagged == 0 || !strings.Contains(f.text, "is still open, ") {
		t.Errorf("%d hops have the flags:\n%s", flagged, f.text)
	}
}

// An exchange that is still open without a response is not said to have lasted for 0 ns, and
// what is beyond a node is not "of" it.
func TestWordsForWhatIsMissing(t *testing.T) {
	r := rand.New(rand.NewPCG(18, 18))
	open := pageTrace(r, 1, nil)
	for i := range open.Observations {
		o := &open.Observations[i]
		o.Response, o.Status, o.Flags = observe.Message{}, 0, observe.FlagStillOpen|observe.FlagNoResponse
	}
	oneNode := pageTrace(r, 1, func(o *observe.Observation) bool { return o.Point.Node != "node4" })
	for name, test := range map[string]struct {
		one       tracestore.Trace
		has, lack string
	}{
		"open":     {open, "is still open, without a response so far", "0 ns so far"},
		"one node": {oneNode, "node driver beyond node4 took the longest", "of beyond"},
	} {
		report := Explain(test.one, nil)
		f := formsOfReport(t, &report)
		text := strings.Join(strings.Fields(f.text), " ")
		if !strings.Contains(text, test.has) || strings.Contains(text, test.lack) || strings.Contains(f.page, test.lack) || strings.Contains(report.Verdict.Text, test.lack) {
			t.Errorf("%s: want %q, not %q:\n%s", name, test.has, test.lack, f.text)
		}
	}
}
