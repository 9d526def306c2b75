// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/measure"
	"github.com/layertrace/layertrace/internal/observe"
)

// captured is the node at whose physical interface tcpdump captures.
const captured = 4

// For each layout of the TCP option: the agents miss nothing, every exchange has its
// connection's ID, the bytes on the wire are those of docs/tcp-options.md, and
// `layertrace decode` reads from the packets what the agent reported.
func TestTCPOption(t *testing.T) {
	for _, layout := range []struct {
		name string
		id   int // bytes
		read func(segment) (option, error)
	}{
		{"off", 0, readNone}, {"compact", 8, readCompact}, {"paper", 4, readPaper},
	} {
		t.Run(layout.name, func(t *testing.T) {
			l := theLab(t)
			setup := measure.Reordered(lab.OpenTelemetry)
			setup.Name, setup.TCPOption = "option-"+layout.name, layout.name
			run := start(t, l, setup)
			file := filepath.Join(t.TempDir(), "node.pcap")
			capture, err := l.CapturePackets(interrupted, captured, lab.PNIC, file)
			if err != nil {
				t.Fatal(err)
			}
			send(t, l, lab.Load{Requests: 300})
			if err := run.Drain(interrupted); err != nil {
				t.Fatal(err)
			}
			hops := stop(t, run)
			if err := capture.Stop(interrupted); err != nil {
				t.Fatal(err)
			}
			points, err := measure.Compare(l, run, hops)
			if err != nil {
				t.Fatal(err)
			}
			exact(t, points)
			ids := checkWire(t, file, layout.read)
			checkConnectionIDs(t, l, run, layout.id, ids)
			checkDecode(t, l, run, file)
		})
	}
}

// checkWire reads the option from every packet that should have it, and returns the
// connection IDs by client and server.
func checkWire(t *testing.T, file string, read func(segment) (option, error)) map[string]string {
	t.Helper()
	ids, starts := map[string]string{}, 0
	owner := map[string]string{}
	type start struct {
		from, to netip.AddrPort
		seq      uint32
	}
	seen := map[start]bool{}
	for _, s := range readSegments(t, file) {
		// Retransmissions, which occur on a busy machine that acknowledges
		// late, have no option (docs/tcp-options.md).
		if again := (start{s.from, s.to, s.seq}); s.syn || len(s.payload) > 0 {
			if seen[again] && len(s.experimental()) == 0 {
				continue
			}
			seen[again] = true
		}
		o, err := read(s)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		if !s.beginsMessage() && !s.syn {
			continue
		}
		starts++
		connection, id := s.connection(), hex.EncodeToString(o.id)
		if before, known := ids[connection]; known && before != id {
			t.Fatalf("%s: connection ID %q, was %q", s, id, before)
		}
		if other, taken := owner[id]; taken && other != connection && id != "" {
			t.Fatalf("connections %s and %s have the same ID %q", connection, other, id)
		}
		ids[connection], owner[id] = id, connection
	}
	t.Logf("%d SYNs and first segments on %d connections", starts, len(ids))
	if starts < 6*300 { // three requests and three responses per front page
		t.Errorf("only %d SYNs and first segments captured", starts)
	}
	return ids
}

// checkConnectionIDs checks that every reported exchange has an ID of the right size,
// which at the captured interface is the one on the wire.
func checkConnectionIDs(t *testing.T, l *lab.Lab, run *lab.Run, size int, wire map[string]string) {
	t.Helper()
	for _, node := range lab.Nodes {
		if node == lab.ClientNode {
			continue
		}
		exchanges, err := measure.NodeExchanges(run, node)
		if err != nil {
			t.Fatal(err)
		}
		names, err := l.InterfaceNames(node)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range exchanges {
			what := fmt.Sprintf("%s %s: %v -> %v", lab.NodeName(node), names[x.Interface], x.Client, x.Server)
			if len(x.ConnectionID) != size {
				t.Fatalf("%s: connection ID %q, want %d bytes", what, x.ConnectionIDHex(), size)
			}
			id, onWire := wire[x.Client.String()+"-"+x.Server.String()]
			if node == captured && names[x.Interface] == lab.PNIC && (!onWire || id != x.ConnectionIDHex()) {
				t.Fatalf("%s: connection ID %q, on the wire %q", what, x.ConnectionIDHex(), id)
			}
		}
	}
}

// common is what the agent, in the kernel, and decode, from packets, must report alike
// of an exchange. Times are of different clocks, and offloading merges packets
// differently.
type common struct {
	traceID, spanID, client, server, connectionID string
	requestBytes, responseBytes                   uint64
	status                                        int
	headerOffset                                  uint32
}

func commonOf(x observe.Observation) common {
	return common{
		x.Context.TraceID.String(), x.Context.SpanID.String(), x.Client.String(), x.Server.String(), x.ConnectionIDHex(),
		x.Request.Bytes, x.Response.Bytes, x.Status, x.Context.HeaderOffset,
	}
}

// checkDecode compares what `layertrace decode` reads from the captured packets with
// the agent's reports on the same interface.
func checkDecode(t *testing.T, l *lab.Lab, run *lab.Run, file string) {
	t.Helper()
	names, err := l.InterfaceNames(captured)
	if err != nil {
		t.Fatal(err)
	}
	all, err := measure.NodeExchanges(run, captured)
	if err != nil {
		t.Fatal(err)
	}
	reported := map[common]int{}
	total := 0
	for _, x := range all {
		if names[x.Interface] == lab.PNIC {
			reported[commonOf(x)]++
			total++
		}
	}
	decoded := decode(t, file)
	if len(decoded) != total {
		t.Errorf("decode read %d exchanges, the agent reported %d", len(decoded), total)
	}
	for _, x := range decoded {
		if reported[commonOf(x)]--; reported[commonOf(x)] < 0 {
			t.Fatalf("decode read %+v, which the agent did not report", commonOf(x))
		}
	}
}

func decode(t *testing.T, file string) (exchanges []observe.Observation) {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(interrupted, theTools(t).Agent, "decode", file)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("decode: %v\n%s", err, &stderr)
	}
	for lines := json.NewDecoder(bytes.NewReader(out)); ; {
		var x observe.Observation
		if err := lines.Decode(&x); errors.Is(err, io.EOF) {
			return exchanges
		} else if err != nil {
			t.Fatal(err)
		}
		exchanges = append(exchanges, x)
	}
}

// segment is a captured TCP segment.
type segment struct {
	from, to netip.AddrPort
	seq      uint32
	syn      bool // without ACK
	payload  []byte
	options  []layers.TCPOption
}

// option is layertrace's TCP option.
type option struct{ id, time []byte }

func (s segment) String() string {
	return fmt.Sprintf("segment %v -> %v, SYN %v, %d bytes", s.from, s.to, s.syn, len(s.payload))
}

func (s segment) isRequest() bool { return bytes.HasPrefix(s.payload, []byte("GET ")) }

// beginsMessage reports whether the segment is the first of a request or a
// response.
func (s segment) beginsMessage() bool {
	return s.isRequest() || bytes.HasPrefix(s.payload, []byte("HTTP/1.1 "))
}

// connection identifies the connection by client and server.
func (s segment) connection() string {
	if s.syn || s.isRequest() {
		return s.from.String() + "-" + s.to.String()
	}
	return s.to.String() + "-" + s.from.String()
}

func readSegments(t *testing.T, file string) (segments []segment) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	reader, err := pcapgo.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for {
		data, _, err := reader.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return segments
		}
		if err != nil {
			t.Fatal(err)
		}
		packet := gopacket.NewPacket(data, reader.LinkType(), gopacket.Default)
		ip, isIP := packet.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
		tcp, isTCP := packet.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !isIP || !isTCP {
			t.Fatalf("not TCP over IPv4: %v", packet)
		}
		from, _ := netip.AddrFromSlice(ip.SrcIP.To4())
		to, _ := netip.AddrFromSlice(ip.DstIP.To4())
		segments = append(segments, segment{
			from: netip.AddrPortFrom(from, uint16(tcp.SrcPort)), to: netip.AddrPortFrom(to, uint16(tcp.DstPort)),
			seq: tcp.Seq, syn: tcp.SYN && !tcp.ACK, payload: tcp.Payload, options: tcp.Options,
		})
	}
}

// experimental returns the options of kinds 253 and 254.
func (s segment) experimental() (found []layers.TCPOption) {
	for _, o := range s.options {
		if o.OptionType == 253 || o.OptionType == 254 {
			found = append(found, o)
		}
	}
	return found
}

// expected fails unless the segment has an option exactly when it must: receivers do
// not merge segments with different options.
func (s segment) expected(found int) error {
	if want := s.syn || s.beginsMessage(); want != (found > 0) {
		return fmt.Errorf("%d experimental options, want any: %v", found, want)
	}
	return nil
}

func readNone(s segment) (option, error) {
	if found := s.experimental(); len(found) > 0 {
		return option{}, fmt.Errorf("options %v", found)
	}
	return option{}, nil
}

// readCompact reads kind 254, length 16, ExID, 8 bytes of ID, 4 of time.
func readCompact(s segment) (option, error) {
	found := s.experimental()
	if err := s.expected(len(found)); err != nil || len(found) == 0 {
		return option{}, err
	}
	o := found[0]
	if len(found) != 1 || o.OptionType != 254 || o.OptionLength != 16 || binary.BigEndian.Uint16(o.OptionData) != 0x4c54 {
		return option{}, fmt.Errorf("options %v", found)
	}
	return option{id: o.OptionData[2:10], time: o.OptionData[10:]}, nil
}

// readPaper reads kind 253, length 6, 4 bytes of ID, and kind 254, length 10,
// 8 bytes of time.
func readPaper(s segment) (option, error) {
	found := s.experimental()
	if err := s.expected(len(found)); err != nil || len(found) == 0 {
		return option{}, err
	}
	if len(found) != 2 || found[0].OptionType != 253 || found[0].OptionLength != 6 ||
		found[1].OptionType != 254 || found[1].OptionLength != 10 {
		return option{}, fmt.Errorf("options %v", found)
	}
	return option{id: found[0].OptionData, time: found[1].OptionData}, nil
}
