// SPDX-License-Identifier: Apache-2.0

package decode

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

	"github.com/layertrace/layertrace/internal/observe"
)

var captured = time.Unix(1700000000, 123456789)

// rawGet is a get in a packet without Ethernet.
func rawGet(t testing.TB) []byte {
	return serialize(t, ip4(layers.IPProtocolTCP), port(), gopacket.Payload(get))
}

func pcapFile(t testing.TB, nanoseconds bool) []byte {
	t.Helper()
	var file bytes.Buffer
	w := pcapgo.NewWriter(&file)
	if nanoseconds {
		w = pcapgo.NewWriterNanos(&file)
	}
	if err := w.WriteFileHeader(65535, layers.LinkTypeRaw); err != nil {
		t.Fatal(err)
	}
	data := rawGet(t)
	if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: captured, CaptureLength: len(data), Length: len(data)}, data); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// pcapngFile has two interfaces of different link types; the second one saw
// the packet.
func pcapngFile(t testing.TB) []byte {
	t.Helper()
	var file bytes.Buffer
	w, err := pcapgo.NewNgWriter(&file, layers.LinkTypeEthernet)
	if err != nil {
		t.Fatal(err)
	}
	second := pcapgo.NgInterface{LinkType: layers.LinkTypeRaw, TimestampResolution: 9}
	id, err := w.AddInterface(second)
	if err != nil {
		t.Fatal(err)
	}
	data := rawGet(t)
	info := gopacket.CaptureInfo{Timestamp: captured, CaptureLength: len(data), Length: len(data), InterfaceIndex: id}
	if err := w.WritePacket(info, data); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// decodeFile runs the command on a file with this content.
func decodeFile(t *testing.T, content []byte, args ...string) (out []observe.Observation, summary string, err error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "capture")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return runCommand(t, nil, append(args, name)...)
}

func runCommand(t *testing.T, stdin []byte, args ...string) (out []observe.Observation, summary string, err error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := Command()
	cmd.SetArgs(args)
	cmd.SetIn(bytes.NewReader(stdin))
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	cmd.SilenceErrors = true // as the main command prints them
	err = cmd.Execute()
	for line := range strings.Lines(stdout.String()) {
		var x observe.Observation
		if err := json.Unmarshal([]byte(line), &x); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		out = append(out, x)
	}
	return out, stderr.String(), err
}

func TestFileFormats(t *testing.T) {
	micros := captured.Truncate(time.Microsecond)
	for name, c := range map[string]struct {
		content []byte
		time    time.Time
	}{
		"pcap":    {pcapFile(t, false), micros},
		"pcap ns": {pcapFile(t, true), captured},
		"pcapng":  {pcapngFile(t), captured},
	} {
		t.Run(name, func(t *testing.T) {
			fromFile, summary, err := decodeFile(t, c.content)
			if err != nil {
				t.Fatal(err)
			}
			fromStdin, _, err := runCommand(t, c.content, "-")
			if err != nil {
				t.Fatal(err)
			}
			for _, got := range [][]observe.Observation{fromFile, fromStdin} {
				if len(got) != 1 || got[0].Request.First != uint64(c.time.UnixNano()) || got[0].Context.TraceID.String() != hex32 {
					t.Errorf("got %+v", got)
				}
			}
			for _, line := range []string{"packets: 1 (", "exchanges: 1 (", "found: 1 ("} {
				if !strings.Contains(summary, line) {
					t.Errorf("no %q in the summary:\n%s", line, summary)
				}
			}
		})
	}
}

// TestBrokenFiles: each prefix of a capture gives one clear line, or nothing
// but the packets when it ends between two of them.
func TestBrokenFiles(t *testing.T) {
	second := pcapFile(t, false)[24:]
	for name, c := range map[string]struct {
		content []byte
		packet1 int // length of the file up to the end of the first packet
	}{
		"pcap":   {append(pcapFile(t, false), second...), 24 + len(second)},
		"pcapng": {pcapngFile(t), len(pcapngFile(t))},
	} {
		t.Run(name, func(t *testing.T) {
			for n := range c.content {
				out, _, err := decodeFile(t, c.content[:n])
				endsBetween := n == 24 || n == c.packet1
				if name == "pcap" && endsBetween != (err == nil) {
					t.Errorf("%d bytes: error %v", n, err)
				}
				if err != nil && strings.Contains(err.Error(), "\n") {
					t.Errorf("%d bytes: more than one line: %v", n, err)
				}
				if want := n >= c.packet1; want != (len(out) == 1) {
					t.Errorf("%d bytes: %d exchanges", n, len(out))
				}
			}
		})
	}
}

func TestBadInput(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "text": "GET / HTTP/1.1\r\n\r\n and so on for a while", "short": "\n\r"} {
		if _, _, err := decodeFile(t, []byte(content)); !errors.Is(err, ErrNotCapture) {
			t.Errorf("%s file: %v", name, err)
		}
	}
	if _, _, err := runCommand(t, nil, filepath.Join(t.TempDir(), "none.pcap")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such file: %v", err)
	}
	for _, args := range [][]string{
		{}, {"a", "b"}, {"--ports=0", "-"}, {"--ports=65536", "-"}, {"--prefix-window=0", "-"}, {"--deep-window=-1", "-"},
		{"--context-header=x", "-"}, {"--context-header=x=zip", "-"}, {"--no-such", "-"},
		{"--context-header=a=w3c", "--context-header=b=w3c", "--context-header=c=w3c", "--context-header=d=w3c", "--context-header=e=w3c", "-"},
	} {
		if _, _, err := runCommand(t, pcapFile(t, false), args...); err == nil {
			t.Errorf("%q was accepted", args)
		}
	}
}

func TestCommandOptions(t *testing.T) {
	renamed := bytes.Replace(pcapFile(t, false), []byte("traceparent"), []byte("x-my-header"), 1)
	for _, c := range []struct {
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
		out, _, err := decodeFile(t, renamed, c.args...)
		if err != nil || len(out) != c.exchanges {
			t.Errorf("%q: %d exchanges, %v", c.args, len(out), err)
		}
	}
}
