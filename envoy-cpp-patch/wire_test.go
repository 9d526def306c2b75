// SPDX-License-Identifier: Apache-2.0

package envoypatch

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/e2e/reorder"
)

// wireCase is a case of a tracer's test in the patch: the headers that come
// from downstream and the names of those that go upstream, in order.
type wireCase struct {
	received []reorder.Field
	sent     []string
}

var (
	caseName = regexp.MustCompile(`^ {6}// ([a-z-]+)$`)
	pair     = regexp.MustCompile(`\{"((?:[^"\\]|\\.)*)", "((?:[^"\\]|\\.)*)"\}`)
	quoted   = regexp.MustCompile(`"([^"]*)"`)
)

// wireCases reads the table of cases out of a test that the patch adds. Each
// begins with its name as a comment, then {{{NAME, VALUE}, ...}, {NAME, ...}}.
func wireCases(added []string) (map[string]wireCase, error) {
	text := map[string]string{}
	name := ""
	for _, line := range added {
		if m := caseName.FindStringSubmatch(line); m != nil {
			name = m[1]
		} else if line == "  };" {
			name = ""
		} else if name != "" {
			text[name] += strings.TrimSpace(line) + " "
		}
	}
	cases := map[string]wireCase{}
	for name, text := range text {
		received, sent, ok := strings.Cut(text, "}}, {")
		if !ok {
			return nil, fmt.Errorf("case %s: %q is no pair of lists", name, text)
		}
		var c wireCase
		for _, m := range pair.FindAllStringSubmatch(received+"}", -1) {
			c.received = append(c.received, reorder.Field{Name: m[1], Value: m[2]})
		}
		for _, m := range quoted.FindAllStringSubmatch(sent, -1) {
			c.sent = append(c.sent, m[1])
		}
		cases[name] = c
	}
	return cases, nil
}

// TestWireOrder holds the orders that the tracers' tests in the patch assert to
// the golden files, to which the Wasm filter and the Lua script are held on a
// real Envoy.
func TestWireOrder(t *testing.T) {
	_, files := readPatch(t)
	for tracer, file := range map[string]string{
		"zipkin":        "test/extensions/tracers/zipkin/zipkin_tracer_impl_test.cc",
		"opentelemetry": "test/extensions/tracers/opentelemetry/opentelemetry_tracer_impl_test.cc",
	} {
		cases, err := wireCases(files[file].added)
		if err != nil {
			t.Fatalf("%s: %v", tracer, err)
		}
		goldens, err := reorder.LoadCases(os.DirFS("../e2e/testdata/wire"), tracer)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"root", "continued", "not-sampled", "other-tracers-headers"} {
			at := slices.IndexFunc(goldens, func(c reorder.Case) bool { return c.Name == name })
			if at < 0 {
				t.Errorf("%s: no golden file %s.txtar", tracer, name)
				continue
			}
			c, ok := cases[name]
			if !ok {
				t.Errorf("%s: the patch's test has no case %s", tracer, name)
				continue
			}
			compareWithGolden(t, tracer+"/"+name, c, goldens[at])
		}
	}
}

func compareWithGolden(t *testing.T, name string, c wireCase, want reorder.Case) {
	t.Helper()
	// What the client sends stands in the same order and with the same values
	// in what Envoy's tracer gets.
	var fromClient []reorder.Field
	for _, field := range c.received {
		if slices.Contains(want.Client, field) {
			fromClient = append(fromClient, field)
		}
	}
	if !slices.Equal(fromClient, want.Client) {
		t.Errorf("%s: received from the client\n  %v\nthe golden file has\n  %v", name, fromClient, want.Client)
	}
	for protocol, sent := range map[reorder.Protocol][]string{
		reorder.HTTP2: c.sent,
		// The pseudo headers are request line and host there.
		reorder.HTTP1: append([]string{"host"}, slices.DeleteFunc(slices.Clone(c.sent), func(name string) bool {
			return strings.HasPrefix(name, ":")
		})...),
	} {
		attempts := want.Want("patch", protocol)
		if len(attempts) == 0 {
			t.Errorf("%s: the golden file says nothing of patch and %s", name, protocol)
		}
		for _, attempt := range attempts {
			var names []string
			for _, field := range attempt.Fields {
				names = append(names, field.Name)
			}
			if !slices.Equal(sent, names) {
				t.Errorf("%s, %s: the patch's test asserts\n  %v\nthe golden file has\n  %v", name, protocol, sent, names)
			}
		}
	}
}
