// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/testrun"
)

var interrupted context.Context

func TestMain(m *testing.M) { testrun.Main(m, &interrupted, func() error { return nil }) }

// programs builds the program of clients and sink, and the agent.
func programs(t *testing.T) (load, agent string) {
	t.Helper()
	bin := t.TempDir()
	load, agent = filepath.Join(bin, "load"), filepath.Join(bin, "layertrace")
	for program, source := range map[string]string{load: "./e2e/cost/load", agent: "./agent/cmd/layertrace"} {
		if err := provision.RunGo(interrupted, testrun.Checkout(t), testrun.Report, "build", "-o", program, source); err != nil {
			t.Fatal(err)
		}
	}
	return load, agent
}

// up returns a testbed, and the agent that is built from the checkout.
func up(t *testing.T) (*Testbed, []Binary) {
	t.Helper()
	testrun.Needs(t, "a client and a server with a node between them")
	load, agent := programs(t)
	testbed, err := Up(interrupted, Options{
		Name: "test-cost", Dir: testrun.Out(t, "test-cost"), Load: load, Clients: 1, Workers: 2, Progress: testrun.Report,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := testbed.Down(); err != nil {
			t.Error(err)
		}
	})
	return testbed, []Binary{{"layertrace", agent}}
}

// Each tool sees each request at each point, or reports that it does not: at a low rate only
// a busy machine loses packets. ngrep and tshark do not report all that they lose.
func TestToolsSeeWhatWasSent(t *testing.T) {
	testbed, binaries := up(t)
	tools, err := Tools([]string{"none", "otlp", "otlp-http", "layers", "sampled", "tcpdump", "ngrep", "tshark", "control"}, binaries)
	if err != nil {
		t.Fatal(err)
	}
	var samples []Sample
	err = testbed.Compare(interrupted, Comparison{
		Tools: tools, Loads: []string{"200"}, Pairs: 1, Duration: time.Second, Progress: testrun.Report,
		Done: func(s Sample) error { samples = append(samples, s); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	rows := Rows(samples)
	var names []string
	for _, r := range rows {
		names = append(names, r.Tool)
		// 2 s at 200 per second; the sampled ones at two interfaces, with layers at two
		// sockets as well.
		requests := 400
		switch r.Tool {
		case "layertrace sampled":
			requests = 4
		case "layertrace layers":
			requests = 800
		case "control":
			requests = 0 // it does not look
		}
		if r.Runs != 1 || r.Expected != 2*requests {
			t.Errorf("%s: %d runs, %d requests expected, want 1 and %d", r.Tool, r.Runs, r.Expected, 2*requests)
		}
		if r.Seen != r.Expected && (r.ReportedLost == nil || *r.ReportedLost == 0) && r.Tool != "ngrep" && r.Tool != "tshark" {
			t.Errorf("%s: saw %d of %d requests, and reports no loss", r.Tool, r.Seen, r.Expected)
		}
		if r.Seen > r.Expected || r.Lost != r.Expected-r.Seen {
			t.Errorf("%s: saw %d of %d requests, lost %d", r.Tool, r.Seen, r.Expected, r.Lost)
		}
		if spans := strings.Contains(r.Tool, "otlp") || strings.Contains(r.Tool, "sampled") || strings.Contains(r.Tool, "layers"); spans != (r.Spans > 0) {
			t.Errorf("%s: %d spans at the sink", r.Tool, r.Spans)
		}
		if r.CPU <= 0 || r.Ends <= 0 || r.RSS == 0 || r.WakeUps <= 0 || r.LongestRun <= 0 || (r.BPF > 0) != strings.HasPrefix(r.Tool, "layertrace") {
			t.Errorf("%s: a figure is missing: %+v", r.Tool, r)
		}
	}
	for _, tool := range tools {
		if !slices.Contains(names, tool.Name) {
			t.Errorf("no row of %s", tool.Name)
		}
	}
	if offs := len(samples) - len(tools); offs != len(tools)/2+1 {
		t.Errorf("%d runs without a tool, want one beside each of %d tools", offs, len(tools))
	}
}

// As many as the connections carry: more than any fixed rate of the tests, and all of
// them counted.
func TestSaturation(t *testing.T) {
	testbed, binaries := up(t)
	tools, err := Tools([]string{"none"}, binaries)
	if err != nil {
		t.Fatal(err)
	}
	s, err := testbed.Measure(interrupted, &tools[0], Load{Name: Saturation, Connections: 20, Duration: time.Second, Sampled: 100})
	if err != nil {
		t.Fatal(err)
	}
	if s.Requests < 500 || s.Sampled != s.Requests || s.Expected != 2*s.Requests {
		t.Errorf("%d requests, %d sampled, %d expected", s.Requests, s.Sampled, s.Expected)
	}
	if s.Seen+*s.ReportedLost != s.Expected {
		t.Errorf("saw %d of %d requests and reports %d as lost", s.Seen, s.Expected, *s.ReportedLost)
	}
}

// Each size is measured, with all requests seen by an agent that knows what has grown.
func TestGrowth(t *testing.T) {
	testrun.Needs(t, "a node that grows")
	load, agent := programs(t)
	results, err := MeasureGrowth(interrupted, GrowthOptions{
		Testbed: Options{Name: "test-growth", Dir: testrun.Out(t, "test-growth"), Load: load, Progress: testrun.Report},
		Sizes:   Sizes{Interfaces: {5}, Connections: {300}, Pods: {40}, SpansPerTrace: {40}},
		Agent:   agent, Duration: time.Second, Times: 1, Progress: testrun.Report,
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 4 {
		t.Fatalf("%d results, want 4", len(results))
	}
	for _, g := range results {
		if g.Requests < 2000 || g.Off.Requests != g.Requests || g.Expected < 2*g.Requests {
			t.Errorf("%s: %d requests, %d without an agent, %d expected", g.Of, g.Requests, g.Off.Requests, g.Expected)
		}
		if g.Seen > g.Expected || g.Seen < g.Expected && *g.ReportedLost == 0 {
			t.Errorf("%s: saw %d of %d requests, and reports %d as lost", g.Of, g.Seen, g.Expected, *g.ReportedLost)
		}
		if g.StartCPU <= 0 || g.ToolCPU <= 0 || g.RSS == 0 || g.BPF == 0 {
			t.Errorf("%s: a figure is missing: %+v", g.Of, g.Sample)
		}
	}
}

func TestSlopes(t *testing.T) {
	var results []Growth
	for _, n := range []int{10, 100, 1000} {
		for _, noise := range []int64{0, 1000, 5_000_000} { // the median is that of the middle one
			g := Growth{Of: Interfaces, N: n, Sample: Sample{Sent: Sent{Requests: 1000}, ToolCPU: 1_000_000 + noise, RSS: uint64(n) << 20, BPF: 1 << 20, EndsCPU: 1_000_000}}
			g.StartCPU = int64(n)*int64(n)*1e6 + noise
			g.Off = Sample{Sent: Sent{Requests: 1000}, EndsCPU: 1_000_000}
			results = append(results, g)
			g.Of, g.ToolCPU = SpansPerTrace, int64(n)*1_000_000
			results = append(results, g)
		}
	}
	exponents, fast := map[string]string{}, map[string]bool{}
	for _, s := range Slopes(results) {
		key := s.Of + " " + s.Figure
		exponents[key], fast[key] = fmt.Sprintf("%.1f", s.Exponent), s.TooFast()
	}
	for key, want := range map[string]struct {
		exponent string
		fast     bool
	}{
		"interfaces start": {"2.0", true}, "interfaces agent": {"0.0", false}, "interfaces memory": {"1.0", false}, "interfaces ends": {"0.0", false},
		"spans-per-trace agent": {"1.0", true}, "spans-per-trace memory": {"1.0", false},
	} {
		if exponents[key] != want.exponent || fast[key] != want.fast {
			t.Errorf("%s: n^%s, too fast: %v; want n^%s, %v", key, exponents[key], fast[key], want.exponent, want.fast)
		}
	}
}

func TestParseSizes(t *testing.T) {
	sizes, err := ParseSizes([]string{"pods=10,20", "connections"})
	if err != nil || !slices.Equal(sizes[Pods], []int{10, 20}) || !slices.Equal(sizes[Connections], DefaultSizes()[Connections]) || len(sizes) != 2 {
		t.Errorf("%v (%v)", sizes, err)
	}
	if all, err := ParseSizes(nil); err != nil || len(all) != 4 {
		t.Errorf("%v (%v), want all", all, err)
	}
	for _, wrong := range []string{"nodes=1", "pods=1", "pods=a", "pods="} {
		if _, err := ParseSizes([]string{wrong}); err == nil {
			t.Errorf("%s: no error", wrong)
		}
	}
}

// A process that works without pause keeps its CPU, one that sleeps wakes up.
func TestSchedule(t *testing.T) {
	testbed, _ := up(t)
	watch, err := watchSchedule(testbed.tool)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := watch.close(); err != nil {
			t.Error(err)
		}
	}()
	for name, script := range map[string]string{
		"sleeper": "for i in $(seq 50); do sleep 0.01; done",
		"worker":  "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done",
	} {
		process, err := testbed.start(name, "/bin/sh", testbed.node, testbed.tool, "-c", script)
		if err != nil {
			t.Fatal(err)
		}
		if err := process.Wait(interrupted); err != nil {
			t.Fatal(err)
		}
	}
	s, elapsed, err := watch.read()
	if err != nil {
		t.Fatal(err)
	}
	// 50 sleeps, and as many waits of the shell for them.
	if s.WakeUps < 100 || s.LongestRun <= 0 || s.LongestRun > elapsed {
		t.Errorf("%d wake-ups, longest run %v in %v", s.WakeUps, s.LongestRun, elapsed)
	}
	cpu, err := testbed.tool.CPU()
	if err != nil {
		t.Fatal(err)
	}
	if s.LongestRun > cpu {
		t.Errorf("a run of %v, but only %v of CPU time", s.LongestRun, cpu)
	}
}

func TestRowsComparesWithTheNeighbour(t *testing.T) {
	lost := 3
	at := func(tool, load string, p99 float64) Sample {
		s := Sample{Tool: tool, Load: load, Sent: Sent{Requests: 1000, P50: 10, P99: p99, P999: 1000, Rate: 100}, ToolCPU: 5_000_000, MachineCPU: 20_000_000}
		if tool != Off {
			s.Expected, s.Seen = 2000, 1990
		}
		if tool == "b" {
			s.ReportedLost = &lost
		}
		return s
	}
	rows := Rows([]Sample{
		at(Off, "1", 100), at("a", "1", 150), at("b", "1", 300), at(Off, "1", 200),
		at(Off, "2", 1000), at("a", "2", 1100),
		at(Off, "1", 100), at("b", "1", 200), at("a", "1", 100), at(Off, "1", 50),
		at(Off, "1", 100), at("b", "1", 180), at("a", "1", 400), at(Off, "1", 100),
	})
	var got []string
	for _, r := range rows {
		got = append(got, fmt.Sprintf("%s %s: %d runs, ratio %.2f, cpu %.1f, machine %.1f, %d of %d, lost %d, reports %v, interval %v",
			r.Tool, r.Load, r.Runs, r.P99Ratio, r.CPU, r.Machine, r.Seen, r.Expected, r.Lost, r.ReportedLost != nil, r.P99Range != nil))
	}
	want := []string{
		"a 1: 3 runs, ratio 2.00, cpu 5.0, machine 20.0, 5970 of 6000, lost 30, reports false, interval true",
		"b 1: 3 runs, ratio 1.80, cpu 5.0, machine 20.0, 5970 of 6000, lost 30, reports true, interval true",
		"a 2: 1 runs, ratio 1.10, cpu 5.0, machine 20.0, 1990 of 2000, lost 10, reports false, interval false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	text, err := json.Marshal(rows[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"tool", "load", "cpu_us_per_request", "machine_us_per_request", "seen", "lost", "rss_bytes", "p99_ratio"} {
		if !strings.Contains(string(text), fmt.Sprintf("%q:", key)) {
			t.Errorf("no %q in %s", key, text)
		}
	}
}

// The interval of a median lies within the values, has the median in it, and is narrower
// with more of the same.
func TestBootstrap(t *testing.T) {
	few := []float64{0.8, 0.9, 1, 1.1, 1.2}
	var many []float64
	for range 20 {
		many = append(many, few...)
	}
	a, b := bootstrap(few), bootstrap(many)
	if a[0] < 0.8 || a[0] > 1 || a[1] < 1 || a[1] > 1.2 {
		t.Errorf("%v", *a)
	}
	if b[0] > 1 || b[1] < 1 || b[1]-b[0] >= a[1]-a[0] {
		t.Errorf("%v of 100 values, %v of 5", *b, *a)
	}
	if bootstrap(few[:2]) != nil {
		t.Error("an interval of two values")
	}
}

// A search ends between the highest rate that is carried and the lowest that is not.
func TestBracket(t *testing.T) {
	for _, c := range []struct{ limit, low, high float64 }{
		{30_000, 28_000, 32_000}, {500, 0, 1100}, {1e9, 59_000, 64_000},
	} {
		b := bracket{high: 64_000, least: 1000}
		for range 6 {
			rate := b.next()
			b.note(rate, rate <= c.limit)
		}
		if b.low < c.low || b.high > c.high || b.low > c.limit || b.high <= c.limit && b.high < 64_000 {
			t.Errorf("a limit of %v is between %.0f and %.0f", c.limit, b.low, b.high)
		}
	}
}

func TestCarried(t *testing.T) {
	none, some := 0, 1
	for _, c := range []struct {
		sample Sample
		want   bool
	}{
		{Sample{Expected: 10, Seen: 10, ReportedLost: &none, Sent: Sent{Rate: 99}}, true},
		{Sample{Expected: 10, Seen: 10, Sent: Sent{Rate: 99}}, true},
		{Sample{Expected: 10, Seen: 9, Sent: Sent{Rate: 99}}, false},
		{Sample{Expected: 10, Seen: 10, ReportedLost: &some, Sent: Sent{Rate: 99}}, false},
		{Sample{Expected: 10, Seen: 10, ReportedLost: &none, Sent: Sent{Rate: 90}}, false},
	} {
		if got := carried(c.sample, 100); got != c.want {
			t.Errorf("%+v: %t", c.sample, got)
		}
	}
}

// Both tools are measured at the same first rate, and each then goes its own way.
func TestSearch(t *testing.T) {
	testbed, binaries := up(t)
	tools, err := Tools([]string{"none", "tcpdump"}, binaries)
	if err != nil {
		t.Fatal(err)
	}
	runs := map[string]int{}
	highest, err := testbed.Search(interrupted, Search{
		Tools: tools, Low: 100, High: 400, Steps: 2, Times: 1, Duration: time.Second, Progress: testrun.Report,
		Done: func(rate float64, carried bool, s Sample) error {
			if runs[s.Tool]++; runs[s.Tool] == 1 && rate != 200 {
				t.Errorf("%s: first measured at %v", s.Tool, rate)
			}
			if carried && s.Seen != s.Expected {
				t.Errorf("%s: %v are carried with %d of %d seen", s.Tool, rate, s.Seen, s.Expected)
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, h := range highest {
		if h.Tool != tools[i].Name || runs[h.Tool] != 2 || len(h.Rates) != 1 || h.Rate != h.Rates[0] || h.Rate >= h.Above[0] {
			t.Errorf("%+v after %d runs", h, runs[h.Tool])
		}
	}
}

func TestUnknownNames(t *testing.T) {
	if _, err := Tools([]string{"wireshark"}, nil); err == nil || !strings.Contains(err.Error(), "tshark") {
		t.Errorf("%v, want an error that names the tools", err)
	}
	for _, name := range []string{"0", "-1", "fast", ""} {
		if err := ParseLoads([]string{name}); err == nil {
			t.Errorf("load %q: no error", name)
		}
	}
	if err := ParseLoads([]string{"1000", "0.5", Half, Saturation}); err != nil {
		t.Error(err)
	}
}

func TestLinesWith(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(path, []byte("a b\na\nb\nb a\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if n, err := linesWith(path, "a", "b"); n != 2 || err != nil {
		t.Errorf("%d lines (%v), want 2", n, err)
	}
}

// Only what begins with the clients' request counts, also with TCP options before it.
func TestRequestsInCapture(t *testing.T) {
	path := filepath.Join(t.TempDir(), "capture.pcap")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	writer := pcapgo.NewWriter(file)
	if err := writer.WriteFileHeader(65535, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	const request = "GET / HTTP/1.1\r\nhost: server\r\n\r\n"
	for payload, times := range map[string]int{request: 3, "": 4, "HTTP/1.1 200 OK\r\n\r\n" + request: 2, "GET /other HTTP/1.1\r\n\r\n": 1} {
		for i := range times {
			tcp := layers.TCP{SrcPort: 40000, DstPort: 8080, ACK: true}
			if i == 1 {
				tcp.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)}}
			}
			packet := gopacket.NewSerializeBuffer()
			err := gopacket.SerializeLayers(packet, gopacket.SerializeOptions{FixLengths: true},
				&layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4},
				&layers.IPv4{Version: 4, Protocol: layers.IPProtocolTCP, SrcIP: []byte{10, 0, 0, 1}, DstIP: []byte{10, 0, 0, 2}},
				&tcp, gopacket.Payload(payload))
			if err != nil {
				t.Fatal(err)
			}
			size := len(packet.Bytes())
			if err := writer.WritePacket(gopacket.CaptureInfo{CaptureLength: size, Length: size}, packet.Bytes()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := requestsInCapture(path); n != 3 || err != nil {
		t.Errorf("%d requests (%v), want 3", n, err)
	}
}
