// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/layertrace/layertrace/agent/internal/decode"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
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
		{[]string{"--all"}, 1},
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
		{"--format=yaml", "-"}, {"--context-header=x", "-"}, {"--context-header=x=zip", "-"}, {"--no-such", "-"},
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

// TestTable: the output fits the terminal's width, as far as that is sensible, and
// nothing in a path controls the terminal.
func TestTable(t *testing.T) {
	o := observe.Observation{
		Key:     observe.Key{Client: netip.MustParseAddrPort("10.0.0.1:40000"), Server: netip.MustParseAddrPort("10.0.0.2:80")},
		Request: observe.Message{First: 1_700_000_000_000_000_000, Last: 1_700_000_000_000_000_000, Bytes: 100, Packets: 1},
		Method:  "GET", Path: "/\x1b[31m\x9b/" + strings.Repeat("long", 30), Flags: observe.FlagNoResponse,
	}
	answered := o
	answered.Request.First -= 1_000_000_000
	answered.Response = observe.Message{First: answered.Request.First + 5_120_000, Last: answered.Request.First + 2_345_678_900, Bytes: 12_345, Packets: 3}
	answered.Status, answered.Flags, answered.Path = 200, 0, "/a"
	answered.Context.Context = tracecontext.Context{TraceID: tracecontext.TraceID{15: 7}, Format: tracecontext.FormatW3C}
	for _, width := range []int{0, 60, 80, 120, 300} {
		var out bytes.Buffer
		table := &exchangeTable{out: bufio.NewWriter(&out), width: width}
		if err := errors.Join(table.write(o), table.write(answered), table.flush()); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if len(lines) != 3 || !strings.HasPrefix(lines[0], "TIME ") {
			t.Fatalf("width %d:\n%s", width, out.String())
		}
		for _, line := range lines {
			if n := utf8.RuneCountInString(line); width > 0 && n > width {
				t.Errorf("width %d: %d columns: %s", width, n, line)
			}
			if strings.ContainsAny(line, "\x1b\u009b") {
				t.Errorf("a control character in %q", line)
			}
		}
		if width == 0 || width == 300 {
			for _, want := range []string{"10.0.0.1:40000 > 10.0.0.2:80 GET /a ", " 200 5.12ms 2.346s   12k 00000000000000000000000000000007"} {
				if !strings.Contains(lines[1], want) { // the earlier request is first
					t.Errorf("width %d: no %q in %q", width, want, lines[1])
				}
			}
			if !strings.Contains(lines[2], "GET /?[31m??/long") && !strings.Contains(lines[2], "GET /�[31m�/long") || !strings.HasSuffix(lines[2], "no_response") {
				t.Errorf("width %d: %q", width, lines[2])
			}
		}
	}
}

func TestFormats(t *testing.T) {
	capture := captureOf(t, "traceparent")
	run := func(args ...string) string {
		var out bytes.Buffer
		cmd := newDecode()
		cmd.SetArgs(append(args, "-"))
		cmd.SetIn(bytes.NewReader(capture))
		cmd.SetOut(&out)
		cmd.SetErr(io.Discard)
		if err := cmd.Execute(); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	for _, want := range []string{`"time":"2023-11-14T22:13:20.000000000Z"`, `"method":"GET","path":"/x"`, `"flags":["no_response"]`} {
		if got := run(); !strings.Contains(got, want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
	if got := run("--request-paths=false"); !strings.Contains(got, `"method":"GET","path":""`) {
		t.Errorf("without paths: %s", got)
	}
	if got := run("--format=table"); !strings.HasPrefix(got, "TIME ") || strings.Count(got, "\n") != 2 {
		t.Errorf("table: %s", got)
	}
}
