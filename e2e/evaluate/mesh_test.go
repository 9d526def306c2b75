// SPDX-License-Identifier: Apache-2.0

package evaluate

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/sandbox"
	"github.com/layertrace/layertrace/e2e/testrun"
)

var (
	interrupted context.Context // ends on Ctrl-C
	testMeter   *meter          // is up while the test runs
)

func TestMain(m *testing.M) {
	testrun.Main(m, &interrupted, func() error {
		if testMeter == nil {
			return nil
		}
		return testMeter.down()
	})
}

// A round in real meshes. What a case is called is what is on the wire and in the
// agents: TCP options in one case and no other, as tcpdump has them; agents that capture
// in two; sockets in the one with layers.
func TestARoundMeasuresWhatItSays(t *testing.T) {
	testrun.Needs(t, "the lab")
	tools, err := provision.Tools(interrupted, testrun.Report)
	if err != nil {
		t.Fatal(err)
	}
	testMeter = &meter{cases: Cases, requests: 30, progress: testrun.Report}
	err = testMeter.bringUp(interrupted, func(mesh string) lab.Options {
		return lab.Options{
			Name: "evaltest" + mesh[:1], Dir: filepath.Join(testrun.Out(t, "test-evaluate"), mesh),
			Tools: tools, Progress: testrun.Report, MaxTraces: 1000,
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	round, err := testMeter.round(interrupted, 1)
	if err != nil {
		t.Fatal(err)
	}
	r := Results{Cases: Cases, Rounds: []Round{round}}
	for _, rate := range Rates {
		for _, c := range Cases {
			runs, err := r.runs(rate, c.Name)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(runs[0].Latencies); n != 30 || runs[0].quantile(0) <= 0 {
				t.Errorf("%s at %g requests/s: %d latencies, the lowest %d µs; want 30 above 0", c.Name, rate, n, runs[0].quantile(0))
			}
			if c.agents == nil && runs[0].AgentsCPU > 0 {
				t.Errorf("%s at %g requests/s: agents took %.1f µs per request", c.Name, rate, runs[0].AgentsCPU)
			}
		}
	}
	for _, c := range Cases {
		options, captured, sockets := look(t, testMeter, c)
		testrun.Report("%s: %d packets with options, %g exchanges at interfaces, %g at sockets", c.Name, options, captured, sockets)
		// A request and a response on each of three hops through node 4, at least.
		if wants := c.Name == withOpts; wants != (options >= 30*6) || !wants && options != 0 {
			t.Errorf("%s: %d packets with TCP options", c.Name, options)
		}
		if wants := c.Name == "agents" || c.Name == "layers"; wants != (captured > 0) {
			t.Errorf("%s: the agents captured %g exchanges", c.Name, captured)
		}
		if wants := c.Name == "layers"; wants != (sockets > 0) {
			t.Errorf("%s: the agents captured %g exchanges at sockets", c.Name, sockets)
		}
	}
}

// look sends 30 requests in a case, as a visit does, and returns how many packets at
// node 4 had the options of the paper, and what the agents captured at interfaces and at sockets.
func look(t *testing.T, m *meter, c Case) (options int, captured, sockets float64) {
	t.Helper()
	l := m.labs[c.mesh()]
	run, err := m.start(interrupted, c)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := stop(run); err != nil {
			t.Error(err)
		}
	}()
	if c.agents != nil && !c.fromStart {
		run.UseAgents(c.setup(l))
		if err := run.StartAgents(interrupted); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "node4.pcap")
	capture, err := l.CapturePackets(interrupted, 4, lab.PNIC, file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.SendOpenLoop(interrupted, lab.OpenLoop{Requests: 30, Rate: 50}); err != nil {
		t.Fatal(err)
	}
	if err := capture.Stop(interrupted); err != nil {
		t.Fatal(err)
	}
	if c.agents != nil {
		captured, sockets = counted(t, l, c)
	}
	return packetsWithOptions(t, file), captured, sockets
}

// counted reads how many exchanges the agents handled, and at sockets. They hold some back
// for a while: when there should be some, it waits for the first.
func counted(t *testing.T, l *lab.Lab, c Case) (captured, sockets float64) {
	t.Helper()
	err := sandbox.Await(interrupted, "the agents to handle exchanges", 20*time.Second, 100*time.Millisecond, func(ctx context.Context) error {
		captured, sockets = 0, 0
		for _, node := range []int{2, 3, 4} {
			metrics, err := l.AgentMetrics(ctx, node)
			if err != nil {
				return err
			}
			interfaces := metrics[`layertrace_exchanges_handled_total{kind="vnic"}`] + metrics[`layertrace_exchanges_handled_total{kind="pnic"}`]
			sockets += metrics[`layertrace_exchanges_handled_total{kind="socket"}`]
			captured += interfaces
		}
		if captured == 0 && !c.fromStart || sockets == 0 && c.Name == "layers" {
			return errors.New("none yet")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return captured, sockets
}

// packetsWithOptions counts the TCP packets with both options of the paper's layout
// (docs/tcp-options.md).
func packetsWithOptions(t *testing.T, file string) (n int) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	packets, err := pcapgo.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for {
		data, _, err := packets.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		packet := gopacket.NewPacket(data, packets.LinkType(), gopacket.Default)
		tcp, ok := packet.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ok {
			continue
		}
		id, at := false, false
		for _, o := range tcp.Options {
			id = id || o.OptionType == 253 && o.OptionLength == 6
			at = at || o.OptionType == 254 && o.OptionLength == 10
		}
		if id && at {
			n++
		}
	}
}
