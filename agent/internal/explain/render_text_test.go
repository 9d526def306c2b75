// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "update the golden files")

// golden compares with a file of testdata; -update writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	name = filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(name, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Error(diff)
	}
}

func written(t *testing.T, write func(io.Writer, TextOptions) error, o TextOptions) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestText(t *testing.T) {
	for name, r := range reports() {
		t.Run(name, func(t *testing.T) {
			text := written(t, r.WriteText, TextOptions{})
			golden(t, name+".txt", text)
			checkPlain(t, string(text), defaultWidth)
		})
	}
	t.Run("comparison", func(t *testing.T) {
		text := written(t, slowTail().WriteText, TextOptions{})
		golden(t, "comparison.txt", text)
		checkPlain(t, string(text), defaultWidth)
	})
	t.Run("no traces", func(t *testing.T) {
		text := written(t, (&Comparison{Service: "front"}).WriteText, TextOptions{})
		if !strings.Contains(string(text), "front: no traces were found.") {
			t.Errorf("%s", text)
		}
	})
}

// checkPlain holds text to 100 columns without control characters.
func checkPlain(t *testing.T, text string, columns int) {
	t.Helper()
	if strings.ContainsAny(text, "\x1b\r\u202e") {
		t.Error("control characters got through")
	}
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > columns && strings.Contains(strings.TrimSpace(line), " ") {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

// Colours change nothing but the colour.
func TestColor(t *testing.T) {
	for name, r := range reports() {
		plain, colored := written(t, r.WriteText, TextOptions{}), written(t, r.WriteText, TextOptions{Color: true})
		if !bytes.Contains(colored, []byte("\x1b[1")) {
			t.Errorf("%s: no colours", name)
		}
		if got := uncolored(string(colored)); got != string(plain) {
			t.Errorf("%s: %s", name, cmp.Diff(string(plain), got))
		}
	}
}

func uncolored(text string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(text, "\x1b[")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		_, text, _ = strings.Cut(after, "m")
	}
}

func TestDuration(t *testing.T) {
	for ns, want := range map[int64]string{
		0: "0 ns", 7: "7 ns", 999: "999 ns", 1000: "1.00 µs", 9_994: "9.99 µs", 9_996: "10.0 µs", 99_960: "100 µs", 999_499: "999 µs",
		999_600: "1.00 ms", 48_200_000: "48.2 ms", 1_234_000_000: "1.23 s", 3_600_000_000_000: "3600 s", -1500: "-1.50 µs",
	} {
		if got := duration(ns); got != want {
			t.Errorf("%d: %s, want %s", ns, got, want)
		}
	}
}
