// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// vectorsFile has a vector a line: NAME|EXPECTED|HEADER LINES, with \r\n and \t written
// out.
const vectorsFile = "vectors.txt"

// vector is a request head with the trace context that readers have to find in it.
type vector struct {
	name, headers string
	expected      string
}

// loadVectors reads the vectors of a directory, none if it has no file of them.
func loadVectors(dir string) (vectors []vector, err error) {
	text, err := os.ReadFile(filepath.Join(dir, vectorsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the vectors: %w", err)
	}
	unescape := strings.NewReplacer(`\r`, "\r", `\n`, "\n", `\t`, "\t")
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		parts := strings.SplitN(line, "|", 3)
		if len(parts) != 3 {
			return nil, fmt.Errorf("read the vectors: %q has no three parts", line)
		}
		vectors = append(vectors, vector{name: parts[0], expected: parts[1], headers: unescape.Replace(parts[2])})
	}
	return vectors, nil
}

// port of the n-th vector's client: each vector is a connection.
func vectorPort(n int) uint16 { return uint16(20000 + n) }

// vectorPackets returns one exchange for each vector, one after another.
func vectorPackets(vectors []vector) []packet {
	var all []packet
	for n, v := range vectors {
		c := newConversation(vectorPort(n))
		c.now = time.Duration(n) * time.Millisecond
		c.handshake()
		c.client("GET / HTTP/1.1\r\nHost: a\r\n" + v.headers + "\r\n\r\n")
		c.server("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		c.close()
		all = append(all, c.packets...)
	}
	return all
}

// found is what a reader reports of one vector.
type found struct {
	sampled, unsampled *Line // the exchange, if its context is (not) sampled
}

// byVector sorts the lines of a reader by vector.
func byVector(lines []Line, n int) []found {
	all := make([]found, n)
	for i := range lines {
		at := int(lines[i].Client.Port()) - int(vectorPort(0))
		if at < 0 || at >= n {
			continue
		}
		if lines[i].sampled() {
			all[at].sampled = &lines[i]
		} else if !lines[i].Context.TraceID.IsZero() {
			all[at].unsampled = &lines[i]
		}
	}
	return all
}

// check returns what is wrong with a reader's result, "" if nothing is. A reader that
// reports only sampled contexts, the agent, does not see unsampled.
func (v *vector) check(f found, seesUnsampled bool) string {
	words := strings.Fields(v.expected)
	if i := strings.Index(v.expected, "("); i >= 0 {
		words = strings.Fields(v.expected[:i])
	}
	switch words[0] {
	case "note":
		return ""
	case "restart", "denied":
		if f.sampled != nil {
			return fmt.Sprintf("found %s, want no context", f.sampled.ids())
		}
		return ""
	}
	got := f.sampled
	if len(words) > 3 && words[3] == "0" || len(words) == 1 && got == nil {
		if f.sampled != nil {
			return "found as sampled, want unsampled"
		}
		if !seesUnsampled {
			return ""
		}
		got = f.unsampled
	}
	if got == nil {
		return "no context found, want " + v.expected
	}
	if want := strings.Join(words[1:min(len(words), 3)], " "); !strings.HasPrefix(got.ids(), want) {
		return fmt.Sprintf("found %s, want %s", got.ids(), want)
	}
	return ""
}

// agree returns how two readers differ, "" if they do not.
func agree(a, b found) string {
	one, other := "no context", "no context"
	if a.sampled != nil {
		one = a.sampled.ids()
	}
	if b.sampled != nil {
		other = b.sampled.ids()
	}
	if one == other {
		return ""
	}
	return fmt.Sprintf("decode finds %s, the agent %s", one, other)
}
