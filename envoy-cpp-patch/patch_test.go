// SPDX-License-Identifier: Apache-2.0

package envoypatch

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/e2e/reorder"
)

const guard = "envoy.reloadable_features.trace_context_first"

// TestPatchIsWellFormed checks that git am accepts the patch: git counts the same
// lines as a reader that accepts nothing between or after the hunks.
func TestPatchIsWellFormed(t *testing.T) {
	message, files := readPatch(t)
	for _, want := range []string{"From ", "\nFrom: ", "\nDate: ", "\nSubject: [PATCH] tracing: ", "\nSigned-off-by: ", "\n---\n"} {
		if !strings.Contains("\n"+message, want) {
			t.Errorf("no %q in the message", want)
		}
	}
	patches, err := Patches(".")
	if err != nil {
		t.Fatal(err)
	}
	patch, err := filepath.Abs(patches[0])
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("git", "apply", "--numstat", patch)
	// In a repository git skips files outside the directory.
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(cmd.Dir))
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git apply --numstat: %v\n%s", err, output)
	}
	counted := 0
	for line := range strings.Lines(string(output)) {
		var added, removed int
		var name string
		if _, err := fmt.Sscanf(line, "%d %d %s", &added, &removed, &name); err != nil {
			t.Fatalf("git apply --numstat printed %q", line)
		}
		if file := files[name]; len(file.added) != added || len(file.removed) != removed {
			t.Errorf("%s: git counts +%d -%d, the hunks have +%d -%d", name, added, removed, len(file.added), len(file.removed))
		}
		counted++
	}
	if counted != len(files) {
		t.Errorf("git counts %d files, the patch has %d", counted, len(files))
	}
}

// TestPatchHasAllPieces names what has to be in the patch beside the code that
// compilers and Envoy's tests look after.
func TestPatchHasAllPieces(t *testing.T) {
	_, files := readPatch(t)
	tracers := "test/extensions/tracers/"
	for _, piece := range []struct{ file, text string }{
		{"source/common/runtime/runtime_features.cc", "RUNTIME_GUARD(envoy_reloadable_features_trace_context_first);"},
		{"changelogs/current.yaml", "``" + guard + "`` to ``false``"},
		{"envoy/http/header_map.h", "virtual void insertTraceContext(HeaderString&& key, HeaderString&& value) PURE;"},
		{"envoy/http/header_map.h", "virtual void insertTraceContext(Handle handle, HeaderString&& value) PURE;"},
		{"source/common/tracing/trace_context_impl.cc", guard},
		{"source/common/tracing/trace_context_impl.cc", "insert(*header_map, copyOf(key_), copyOf(value));"},
		{"source/common/tracing/trace_context_impl.cc", "insert(*header_map, Http::HeaderString(key_), copyOf(value));"},
		{"source/common/tracing/trace_context_impl.cc", "insert(*header_map, Http::HeaderString(key_), Http::HeaderString(value));"},
		{"source/common/tracing/http_tracer_impl.h", guard},
		{"source/common/tracing/BUILD", `"//source/common/runtime:runtime_features_lib",`},
		{"test/common/http/BUILD", `srcs = ["header_map_trace_context_test.cc"],`},
		{"test/common/http/header_map_trace_context_test.cc", "AgreesWithTheModel"},
		{"test/common/http/header_map_impl_speed_test.cc", "BENCHMARK(headerMapImplInsertTraceContext)"},
		{"test/common/tracing/trace_context_impl_test.cc", `{{"` + guard + `", "false"}}`},
		{tracers + "zipkin/zipkin_tracer_impl_test.cc", "TraceContextFirst"},
		{tracers + "opentelemetry/opentelemetry_tracer_impl_test.cc", "TraceContextFirst"},
		{tracers + "datadog/span_test.cc", "TraceContextFirst"},
		{tracers + "skywalking/tracer_test.cc", "TraceContextFirst"},
		{tracers + "xray/tracer_test.cc", "TraceContextFirst"},
		{tracers + "fluentd/tracer_impl_test.cc", "TraceContextFirst"},
	} {
		if !strings.Contains(strings.Join(files[piece.file].added, "\n"), piece.text) {
			t.Errorf("the patch adds no %q to %s", piece.text, piece.file)
		}
	}
	for name, file := range files {
		// Tests of the release that assert something else would be changed.
		if strings.HasPrefix(name, "test/") && len(file.removed) > 0 {
			t.Errorf("%s: %d lines removed, while the message says that no test is changed", name, len(file.removed))
		}
		if path.Ext(name) == "" && path.Base(name) != "BUILD" {
			t.Errorf("%s: what is it?", name)
		}
	}
}

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

// fileDiff is what a patch does to one file.
type fileDiff struct {
	path           string
	created        bool
	added, removed []string // lines without their sign
	before         []string // the lines of all hunks as they have to stand in the tree
}

var (
	diffLine = regexp.MustCompile(`^diff --git a/(\S+) b/(\S+)$`)
	hunkLine = regexp.MustCompile(`^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@`)
)

// parsePatch reads the output of git format-patch, every line of it: message,
// diffs, and nothing after them. Context is at most one line on each side.
func parsePatch(text string) (message string, files []fileDiff, err error) {
	if !strings.HasSuffix(text, "\n") {
		return "", nil, fmt.Errorf("does not end with a line break")
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	at := 0
	for at < len(lines) && !diffLine.MatchString(lines[at]) {
		at++
	}
	message = strings.Join(lines[:at], "\n")
	for at < len(lines) {
		m := diffLine.FindStringSubmatch(lines[at])
		if m == nil || m[1] != m[2] {
			return "", nil, fmt.Errorf("line %d: %q: want a file's diff", at+1, lines[at])
		}
		file := fileDiff{path: m[1]}
		for at++; at < len(lines) && !hunkLine.MatchString(lines[at]); at++ {
			file.created = file.created || strings.HasPrefix(lines[at], "new file mode ")
			if diffLine.MatchString(lines[at]) {
				return "", nil, fmt.Errorf("%s has no hunk", file.path)
			}
		}
		for at < len(lines) && hunkLine.MatchString(lines[at]) {
			if at, err = file.hunk(lines, at); err != nil {
				return "", nil, fmt.Errorf("%s: %w", file.path, err)
			}
		}
		files = append(files, file)
	}
	return message, files, nil
}

// hunk reads the hunk that begins at lines[at] and returns where it ends.
func (f *fileDiff) hunk(lines []string, at int) (int, error) {
	m := hunkLine.FindStringSubmatch(lines[at])
	count := func(s string) int {
		if n, err := strconv.Atoi(s); err == nil {
			return n
		}
		return 1
	}
	context, first := 0, at+1
	before, after := count(m[2]), count(m[4])
	for at++; before > 0 || after > 0; at++ {
		if at == len(lines) {
			return at, fmt.Errorf("the hunk of line %d ends early", first)
		}
		line := lines[at]
		sign, rest := line[:min(1, len(line))], line[min(1, len(line)):]
		switch sign {
		case "+":
			f.added = append(f.added, rest)
			after--
		case "-":
			f.removed, f.before = append(f.removed, rest), append(f.before, rest)
			before--
		case " ":
			f.before = append(f.before, rest)
			before, after, context = before-1, after-1, context+1
		default:
			return at, fmt.Errorf("line %d: %q in a hunk", at+1, line)
		}
		if sign != " " {
			context = 0
		}
		if context > 2 { // after one change and before the next
			return at, fmt.Errorf("line %d: more than one line of context", at+1)
		}
	}
	return at, nil
}

// readPatch returns the one patch and its diffs by path.
func readPatch(t *testing.T) (message string, files map[string]fileDiff) {
	t.Helper()
	patches, err := Patches(".")
	if err != nil {
		t.Fatal(err)
	}
	if len(patches) != 1 {
		t.Fatalf("%d patches; these tests know one", len(patches))
	}
	text, err := os.ReadFile(patches[0])
	if err != nil {
		t.Fatal(err)
	}
	message, list, err := parsePatch(string(text))
	if err != nil {
		t.Fatalf("%s: %v", patches[0], err)
	}
	files = map[string]fileDiff{}
	for _, file := range list {
		files[file.path] = file
	}
	return message, files
}
