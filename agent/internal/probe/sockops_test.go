// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/layertrace/layertrace/agent/internal/decode"
	"github.com/layertrace/layertrace/internal/observe"
)

// TestOptionsOnTheWire decodes what tcpdump captured: the bytes of each layout
// are those of the design, and with "off" there are no options.
func TestOptionsOnTheWire(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNetwork(t)
	for _, layout := range []OptionLayout{OptionOff, OptionCompact, OptionPaper} {
		t.Run(string(layout), func(t *testing.T) {
			file, stop := tcpdump(t)
			opts := Options{TCPOption: layout, TCPOptionPorts: []uint16{serverPort}}
			if layout != OptionOff {
				opts.TCPOptionCgroups = []string{n.group}
			}
			got := captured(t, n, opts)
			stop()
			checkAll(t, got, layout)
			checkWire(t, file, got, layout)
			checkDecoded(t, file, got)
		})
	}
}

// TestPortsOfOptions: a connection to another port gets no options.
func TestPortsOfOptions(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNetwork(t)
	got := captured(t, n, Options{TCPOption: OptionCompact, TCPOptionPorts: []uint16{1}, TCPOptionCgroups: []string{n.group}})
	checkAll(t, got, OptionOff)
}

// tcpdump writes the packets at the client's interface to a file.
func tcpdump(t *testing.T) (file string, stop func()) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "wire.pcap")
	cmd := exec.Command("tcpdump", "-i", "vethc", "-s", "0", "-B", "16384", "-U", "--immediate-mode", "-Z", "root", "-w", file, "tcp")
	stderr, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewReader(stderr)
	for line := ""; !strings.Contains(line, "listening"); {
		line, err = lines.ReadString('\n')
		must(t, err)
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	return file, func() {
		// On an interrupt, tcpdump flushes its buffer and exits.
		must(t, cmd.Process.Signal(os.Interrupt))
		must(t, cmd.Wait())
	}
}

// checkWire reads the options with gopacket's decoder, which is independent of
// ours.
func checkWire(t *testing.T, file string, got []observe.Observation, layout OptionLayout) {
	t.Helper()
	f, err := os.Open(file)
	must(t, err)
	defer f.Close()
	r, err := pcapgo.NewReader(f)
	must(t, err)
	var syn, heads, responses, others int
	for {
		data, _, err := r.ReadPacketData()
		if err == io.EOF {
			break
		}
		must(t, err)
		tcp, ok := gopacket.NewPacket(data, r.LinkType(), gopacket.Default).Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ok || (tcp.SrcPort != layers.TCPPort(got[0].Client.Port()) && tcp.DstPort != layers.TCPPort(got[0].Client.Port())) {
			continue
		}
		id := optionID(t, tcp, layout)
		mine := id == hex.EncodeToString(got[0].ConnectionID) && id != ""
		switch {
		case tcp.SYN && !tcp.ACK:
			syn += count1(mine)
		case bytes.HasPrefix(tcp.Payload, []byte("POST ")):
			heads += count1(mine)
		case bytes.HasPrefix(tcp.Payload, []byte("HTTP/1.1 ")):
			responses += count1(mine)
		default:
			others += count1(id != "")
		}
	}
	want := [4]int{1, requests, requests, 0}
	if layout == OptionOff {
		want = [4]int{}
	}
	if seen := [4]int{syn, heads, responses, others}; seen != want {
		t.Errorf("options on SYN, requests, responses, other segments: %v, want %v", seen, want)
	}
}

// checkDecoded compares with the result of `layertrace decode` for the same
// packets.
func checkDecoded(t *testing.T, file string, got []observe.Observation) {
	t.Helper()
	f, err := os.Open(file)
	must(t, err)
	defer f.Close()
	var decoded []observe.Observation
	d := decode.New(decode.Options{}, func(x observe.Observation) { decoded = append(decoded, x) })
	must(t, decode.ReadFile(f, d.Packet))
	d.Flush()
	if len(decoded) != len(got) {
		t.Fatalf("%d exchanges decoded, the probe has %d", len(decoded), len(got))
	}
	for i, want := range got {
		x := decoded[i]
		// The clocks differ (Unix and monotonic time), durations hardly do.
		took, wantTook := time.Duration(x.Response.Last-x.Request.First), time.Duration(want.Response.Last-want.Request.First)
		if (took - wantTook).Abs() > 10*time.Millisecond {
			t.Errorf("exchange %d: decoded %v, the probe has %v", i, took, wantTook)
		}
		for _, y := range []*observe.Observation{&x, &want} {
			y.Interface, y.Direction = 0, observe.DirectionUnknown
			y.Request.First, y.Request.Last, y.Response.First, y.Response.Last = 0, 0, 0, 0
			y.Wall = 0
		}
		if want.Method == "" { // unknown to this probe
			x.Method, x.Path = "", ""
		}
		if !reflect.DeepEqual(x, want) {
			t.Errorf("exchange %d: decoded\n%+v, the probe has\n%+v", i, x, want)
		}
	}
}

func count1(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// optionID returns the connection ID in hex, or "", and checks the layout.
func optionID(t *testing.T, tcp *layers.TCP, layout OptionLayout) (id string) {
	t.Helper()
	for _, o := range tcp.Options {
		switch {
		case o.OptionType == 254 && layout == OptionCompact:
			if o.OptionLength != 16 || !bytes.HasPrefix(o.OptionData, []byte("LT")) {
				t.Errorf("compact option: length %d, data %x", o.OptionLength, o.OptionData)
			}
			id = hex.EncodeToString(o.OptionData[2:10])
		case o.OptionType == 253 && layout == OptionPaper:
			if o.OptionLength != 6 {
				t.Errorf("paper's ID option: length %d", o.OptionLength)
			}
			id = hex.EncodeToString(o.OptionData)
		case o.OptionType == 254 && layout == OptionPaper:
			if o.OptionLength != 10 || id == "" {
				t.Errorf("paper's time option: length %d, ID before it %q", o.OptionLength, id)
			}
		case o.OptionType >= 253:
			t.Errorf("option of kind %d with layout %s", o.OptionType, layout)
		}
	}
	return id
}
