// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/layertrace/layertrace/agent/internal/decode"
	"github.com/layertrace/layertrace/internal/observe"
)

// captureOf returns a pcap file with one request to port 80 that has its trace
// context in the header.
func captureOf(t *testing.T, header string) []byte {
	t.Helper()
	packet := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(packet, gopacket.SerializeOptions{FixLengths: true},
		&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: []byte{10, 0, 0, 1}, DstIP: []byte{10, 0, 0, 2}},
		&layers.TCP{SrcPort: 40000, DstPort: 80, Seq: 1, ACK: true},
		gopacket.Payload("GET /x HTTP/1.1\r\nHost: a\r\n"+header+": 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	w := pcapgo.NewWriter(&file)
	info := gopacket.CaptureInfo{Timestamp: time.Unix(1700000000, 0), CaptureLength: len(packet.Bytes()), Length: len(packet.Bytes())}
	if err := errors.Join(w.WriteFileHeader(65535, layers.LinkTypeRaw), w.WritePacket(info, packet.Bytes())); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

func runDecode(t *testing.T, stdin []byte, args ...string) (out []observe.Observation, summary string, err error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := newDecode()
	cmd.SetArgs(args)
	cmd.SetIn(bytes.NewReader(stdin))
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true // as the root command does
	err = cmd.Execute()
	for line := range strings.Lines(stdout.String()) {
		var o observe.Observation
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		out = append(out, o)
	}
	return out, stderr.String(), err
}

func TestCommandOptions(t *testing.T) {
	capture := captureOf(t, "X-My-Header")
	file := filepath.Join(t.TempDir(), "capture")
	if err := os.WriteFile(file, capture, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args      []string
		exchanges int
	}{
		{nil, 0},
		{[]string{"--context-header", "X-My-Header=w3c"}, 1},
		{[]string{"--context-header", "X-My-Header=w3c", "--ports", "1,80"}, 1},
		{[]string{"--context-header", "X-My-Header=w3c", "--ports", "1"}, 0},
		{[]string{"--context-header", "X-My-Header=w3c", "--prefix-window", "60"}, 0},
		{[]string{"--context-header", "X-My-Header=w3c", "--prefix-window", "60", "--deep"}, 1},
		{[]string{"--context-header", "X-My-Header=w3c", "--deep-window", "60", "--deep"}, 0},
	} {
		fromFile, summary, err := runDecode(t, nil, append(test.args, file)...)
		if err != nil || len(fromFile) != test.exchanges {
			t.Errorf("%q: %d exchanges, %v", test.args, len(fromFile), err)
		}
		if !strings.Contains(summary, "packets: 1 (packets read)\n") || strings.Contains(summary, "exchanges: 1 (") != (test.exchanges == 1) {
			t.Errorf("%q: summary:\n%s", test.args, summary)
		}
		if fromStdin, _, err := runDecode(t, capture, append(test.args, "-")...); err != nil || len(fromStdin) != test.exchanges {
			t.Errorf("%q from stdin: %d exchanges, %v", test.args, len(fromStdin), err)
		}
	}
}

func TestBadInput(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "text": "GET / HTTP/1.1\r\n\r\n and so on for a while", "short": "\n\r"} {
		if _, _, err := runDecode(t, []byte(content), "-"); !errors.Is(err, decode.ErrNotCapture) {
			t.Errorf("%s file: %v", name, err)
		}
	}
	if _, _, err := runDecode(t, nil, filepath.Join(t.TempDir(), "none.pcap")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such file: %v", err)
	}
	capture := captureOf(t, "traceparent")
	for _, args := range [][]string{
		{}, {"a", "b"}, {"--ports=0", "-"}, {"--ports=65536", "-"}, {"--prefix-window=0", "-"}, {"--deep-window=-1", "-"},
		{"--context-header=x", "-"}, {"--context-header=x=zip", "-"}, {"--no-such", "-"},
		{"--context-header=a=w3c", "--context-header=b=w3c", "--context-header=c=w3c", "--context-header=d=w3c", "--context-header=e=w3c", "-"},
	} {
		if _, _, err := runDecode(t, capture, args...); err == nil {
			t.Errorf("%q was accepted", args)
		}
	}
	// Exchanges before the break are printed.
	if out, _, err := runDecode(t, append(capture, capture[24:40]...), "-"); err == nil || len(out) != 1 {
		t.Errorf("a broken file: %d exchanges, %v", len(out), err)
	}
}
