// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/layertrace/layertrace/internal/observe"
)

var update = flag.Bool("update", false, "write the golden files")

// samples are requests with all that a line can have.
func samples() []Request {
	one := testRequest()
	stack := testRequest()
	stack.Layers = stack.Layers[1:]
	stack.Layers[0].Share, stack.Duration, stack.Status = 0.996, 412*time.Microsecond, 200
	untraced := testRequest()
	untraced.Marks = MarkNoContext
	all := testRequest()
	all.Marks, all.Status = MarkCut|MarkGuessed|MarkNoContext, 502
	unanswered := testRequest()
	unanswered.Status, unanswered.Layers, unanswered.NotKnown, unanswered.Marks, unanswered.Duration = 0, nil, "no response was seen", MarkCut, 0
	merged := testRequest()
	merged.Layers = []LayerTime{{Layers: []observe.Layer{observe.ProtocolStack, observe.Application}, Time: 293 * time.Millisecond, Share: 1}}
	long := testRequest()
	long.Client, long.Server = "a-client-with-a-very-long-name", "a-server-with-long-names.example:5000"
	long.Method, long.Path = "OPTIONS", "/a/path/that/goes/on/and/on/and/on/and/on/and/on"
	long.Layers[0].Location = "a-server-with-long-names.example"
	unended := testRequest()
	unended.Layers, unended.NotKnown, unended.Marks, unended.Duration = nil, "its end was not seen", MarkCut, 12*time.Second
	elsewhere := testRequest()
	elsewhere.Server, elsewhere.Layers = "192.0.2.7:80", []LayerTime{{
		Layers: []observe.Layer{observe.RelayNetwork, observe.VirtualNetwork, observe.ProtocolStack, observe.Application, observe.NodeDriver}, Beyond: true, Time: 290 * time.Millisecond, Share: 0.99,
	}}
	bare := Request{Time: began, Client: "?", Server: "?", NotKnown: "the connection was reset", Marks: MarkGuessed, Flags: []string{"reset"}}
	return []Request{one, stack, untraced, all, unanswered, unended, merged, long, elsewhere, bare}
}

// The lines in a terminal of 80 and 120 columns and in a pipe, and as JSON.
func TestLines(t *testing.T) {
	for _, c := range []struct {
		name  string
		width int
		json  bool
	}{{"80", 80, false}, {"120", 120, false}, {"pipe", 0, false}, {"json", 0, true}} {
		t.Run(c.name, func(t *testing.T) {
			var b bytes.Buffer
			columns := columnsOf(c.width)
			if !c.json {
				fmt.Fprintln(&b, columns.header())
			}
			for _, r := range samples() {
				line := []byte(columns.line(&r))
				if c.json {
					var err error
					if line, err = jsonLine(&r); err != nil {
						t.Fatal(err)
					}
				}
				fmt.Fprintf(&b, "%s\n", line)
			}
			golden := filepath.Join("testdata", "lines-"+c.name+".txt")
			if *update {
				if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b.Bytes(), want) {
				t.Errorf("got\n%s\nwant (-update writes it)\n%s", b.Bytes(), want)
			}
		})
	}
}

// A line fits into every width from 60 on, and its share is always there.
func TestLineFits(t *testing.T) {
	for width := minWidth; width <= 240; width++ {
		columns := columnsOf(width)
		for _, r := range samples() {
			line := columns.line(&r)
			if n := utf8.RuneCountInString(line); n > width {
				t.Errorf("%d columns: %d characters: %s", width, n, line)
			}
			if len(r.Layers) > 0 && !strings.Contains(line, " %") {
				t.Errorf("%d columns: no share: %s", width, line)
			}
		}
		if n := utf8.RuneCountInString(columns.header()); n > width {
			t.Errorf("%d columns: a header of %d characters", width, n)
		}
	}
	if narrow := columnsOf(20); narrow != columnsOf(minWidth) {
		t.Errorf("columns of 20 characters: %+v", narrow)
	}
}

func TestBetween(t *testing.T) {
	for _, c := range []struct {
		client, server string
		width          int
		want           string
	}{
		{"curl", "nginx", 0, "curl → nginx"},
		{"curl", "nginx", 12, "curl → nginx"},
		{"curl", "nginx-proxy", 12, "curl → ngin…"},
		{"a-long-client", "shop", 12, "a-lo… → shop"},
		{"a-long-client", "a-long-server", 13, "a-lo… → a-lo…"},
	} {
		if got := between(c.client, c.server, c.width); got != c.want {
			t.Errorf("%s, %s in %d: %q, want %q", c.client, c.server, c.width, got, c.want)
		}
	}
}

func TestFolded(t *testing.T) {
	for _, c := range []struct {
		text  string
		width int
		want  string
	}{
		{"-- a few words", 0, "-- a few words"},
		{"-- a few words", 14, "-- a few words"},
		{"-- a few words", 13, "-- a few\n   words"},
		{"-- a few words", 8, "-- a few\n   words"},
		{"-- unbreakable", 5, "--\n   unbreakable"},
		{"-- → → →", 6, "-- → →\n   →"},
	} {
		if got := folded(c.text, c.width); got != c.want {
			t.Errorf("%q in %d: %q, want %q", c.text, c.width, got, c.want)
		}
	}
}
