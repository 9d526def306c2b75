// SPDX-License-Identifier: Apache-2.0

package printable

import (
	"bytes"
	"testing"
)

func TestWriter(t *testing.T) {
	var out bytes.Buffer
	text := "a\tb\u009b2J\x1b]0;owned\x07\n\u202egnirts \xff é 漢\r\n"
	n, err := Writer{&out}.Write([]byte(text))
	if want := "a\tb\ufffd2J\ufffd]0;owned\ufffd\n\ufffdgnirts \ufffd é 漢\ufffd\n"; out.String() != want || n != len(text) || err != nil {
		t.Errorf("%q, %d, %v, want %q", out.String(), n, err, want)
	}
	if got := Text("a\nb\x1b"); got != "a\ufffdb\ufffd" {
		t.Errorf("one line: %q", got)
	}
}
