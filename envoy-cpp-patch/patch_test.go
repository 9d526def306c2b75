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

// TestPatchesAreWellFormed checks that git am accepts each patch: git counts the same
// lines as a reader that accepts nothing between or after the hunks.
func TestPatchesAreWellFormed(t *testing.T) {
	for _, dir := range []string{".", "changelog"} {
		for _, patch := range readPatches(t, dir) {
			t.Run(patch.name, func(t *testing.T) { checkWellFormed(t, patch) })
		}
	}
}

func checkWellFormed(t *testing.T, patch patchFile) {
	t.Helper()
	for _, want := range []string{"From ", "\nFrom: ", "\nDate: ", "\nSubject: [PATCH ", "\nSigned-off-by: ", "\n---\n"} {
		if !strings.Contains("\n"+patch.message, want) {
			t.Errorf("no %q in the message", want)
		}
	}
	absolute, err := filepath.Abs(patch.name)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("git", "apply", "--numstat", absolute)
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
		if file := patch.file(name); len(file.added()) != added || len(file.removed()) != removed {
			t.Errorf("%s: git counts +%d -%d, the hunks have +%d -%d", name, added, removed, len(file.added()), len(file.removed()))
		}
		counted++
	}
	if counted != len(patch.files) {
		t.Errorf("git counts %d files, the patch has %d", counted, len(patch.files))
	}
}

// The parts of Envoy's template for pull requests (PULL_REQUESTS.md).
func TestMessagesFollowEnvoysTemplate(t *testing.T) {
	for _, patch := range readPatches(t, ".")[:2] { // the third is for the image only
		for _, part := range []string{"Commit Message: ", "Additional Description:", "Risk Level: ", "Testing: ", "Docs Changes: ", "Release Notes: ", "Platform Specific Features: "} {
			if !strings.Contains(patch.message, "\n"+part) {
				t.Errorf("%s: no part %q in the message", patch.name, part)
			}
		}
	}
}

// TestPatchesHaveAllPieces names what has to be in the patches beside the code that
// compilers and Envoy's tests look after.
func TestPatchesHaveAllPieces(t *testing.T) {
	list := readPatches(t, ".")
	if len(list) != 3 {
		t.Fatalf("%d patches; these tests know three", len(list))
	}
	fix, front, image := list[0], list[1], list[2]
	tracers := "test/extensions/tracers/"
	for _, piece := range []struct {
		patch      patchFile
		file, text string
	}{
		{fix, "source/common/http/header_map_impl.cc", "  HeaderString ref_key(key);"},
		{fix, "test/common/http/header_map_impl_test.cc", "SetToPartOfOwnValue"},
		{front, "source/common/runtime/runtime_features.cc", "FALSE_RUNTIME_GUARD(envoy_reloadable_features_trace_context_first);"},
		{front, "envoy/http/header_map.h", "virtual uint32_t setInFront(HeaderString&& key, HeaderString&& value, uint32_t lead) PURE;"},
		{front, "envoy/http/header_map.h", "virtual uint32_t moveInFront(const LowerCaseString& key, uint32_t lead) PURE;"},
		{front, "source/common/tracing/trace_context_impl.cc", "trace_context.setInFront(copyOf(key_.get()), copyOf(value));"},
		{front, "source/common/tracing/trace_context_impl.cc", "trace_context.setInFront(Http::HeaderString(key_), copyOf(value));"},
		{front, "source/common/tracing/trace_context_impl.cc", "trace_context.setInFront(Http::HeaderString(key_), Http::HeaderString(value));"},
		{front, "source/common/tracing/http_tracer_impl.cc", "Runtime::traceContextFirst()"},
		{front, "source/common/tracing/http_tracer_impl.cc", "moveInFront(Http::Headers::get().GrpcTimeout, lead_)"},
		{front, "source/common/tracing/BUILD", `"//source/common/runtime:runtime_features_lib",`},
		{front, "test/common/http/BUILD", `srcs = ["header_map_in_front_test.cc"],`},
		{front, "test/common/http/header_map_in_front_test.cc", "AgreesWithTheModel"},
		{front, "test/common/http/header_map_impl_fuzz.proto", "SetInFront set_in_front = 14;"},
		{front, "test/common/http/header_map_impl_fuzz_test.cc", "Action::kMoveInFront"},
		{front, "test/common/http/header_map_impl_speed_test.cc", "BENCHMARK(headerMapImplSetInFront)"},
		{front, "test/common/tracing/trace_context_impl_test.cc", `{{"` + guard + `", value}}`},
		{front, tracers + "opentelemetry/trace_context_order_integration_test.cc", "FirstBytes"},
		{front, tracers + "zipkin/zipkin_tracer_impl_test.cc", "TraceContextFirst"},
		{front, tracers + "opentelemetry/opentelemetry_tracer_impl_test.cc", "TraceContextFirst"},
		{front, tracers + "datadog/span_test.cc", "TraceContextFirst"},
		{front, tracers + "skywalking/tracer_test.cc", "TraceContextFirst"},
		{front, tracers + "xray/tracer_test.cc", "TraceContextFirst"},
		{front, tracers + "fluentd/tracer_impl_test.cc", "TraceContextFirst"},
		{image, "source/common/runtime/runtime_features.cc", "\nRUNTIME_GUARD(envoy_reloadable_features_trace_context_first);"},
	} {
		if !strings.Contains("\n"+strings.Join(piece.patch.file(piece.file).added(), "\n"), piece.text) {
			t.Errorf("%s adds no %q to %s", piece.patch.name, piece.text, piece.file)
		}
	}
	for _, patch := range list {
		for _, file := range patch.files {
			// Tests of the release that assert something else would be changed.
			if strings.HasPrefix(file.path, "test/") && len(file.removed()) > 0 {
				t.Errorf("%s: %d lines removed, while no test of the release is to be changed", file.path, len(file.removed()))
			}
			if path.Ext(file.path) == "" && path.Base(file.path) != "BUILD" && !strings.Contains(file.path, "_corpus/") {
				t.Errorf("%s: what is it?", file.path)
			}
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
	front := readPatches(t, ".")[1]
	for tracer, file := range map[string]string{
		"zipkin":        "test/extensions/tracers/zipkin/zipkin_tracer_impl_test.cc",
		"opentelemetry": "test/extensions/tracers/opentelemetry/opentelemetry_tracer_impl_test.cc",
	} {
		cases, err := wireCases(front.file(file).added())
		if err != nil {
			t.Fatalf("%s: %v", tracer, err)
		}
		goldens, err := reorder.LoadCases(os.DirFS("../e2e/testdata/wire"), tracer)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"root", "continued", "not-sampled", "other-tracers-headers", "grpc"} {
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

// patchFile is a patch: the output of git format-patch.
type patchFile struct {
	name, message string
	files         []fileDiff
}

// file returns what the patch does to a file, nothing if it does not name it.
func (p patchFile) file(name string) fileDiff {
	at := slices.IndexFunc(p.files, func(f fileDiff) bool { return f.path == name })
	if at < 0 {
		return fileDiff{}
	}
	return p.files[at]
}

// fileDiff is what a patch does to one file.
type fileDiff struct {
	path    string
	created bool
	hunks   []hunk
}

// hunk has lines without their sign: those added and removed, and all of the hunk as
// they are before and after it.
type hunk struct{ added, removed, before, after []string }

func (f fileDiff) added() (lines []string) {
	for _, h := range f.hunks {
		lines = append(lines, h.added...)
	}
	return lines
}

func (f fileDiff) removed() (lines []string) {
	for _, h := range f.hunks {
		lines = append(lines, h.removed...)
	}
	return lines
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
			var h hunk
			if h, at, err = parseHunk(lines, at); err != nil {
				return "", nil, fmt.Errorf("%s: %w", file.path, err)
			}
			file.hunks = append(file.hunks, h)
		}
		files = append(files, file)
	}
	return message, files, nil
}

// parseHunk reads the hunk that begins at lines[at] and returns where it ends.
func parseHunk(lines []string, at int) (h hunk, end int, err error) {
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
			return h, at, fmt.Errorf("the hunk of line %d ends early", first)
		}
		line := lines[at]
		sign, rest := line[:min(1, len(line))], line[min(1, len(line)):]
		switch sign {
		case "+":
			h.added, h.after = append(h.added, rest), append(h.after, rest)
			after--
		case "-":
			h.removed, h.before = append(h.removed, rest), append(h.before, rest)
			before--
		case " ":
			h.before, h.after = append(h.before, rest), append(h.after, rest)
			before, after, context = before-1, after-1, context+1
		default:
			return h, at, fmt.Errorf("line %d: %q in a hunk", at+1, line)
		}
		if sign != " " {
			context = 0
		}
		if context > 2 { // after one change and before the next
			return h, at, fmt.Errorf("line %d: more than one line of context", at+1)
		}
	}
	return h, at, nil
}

// readPatches returns the patches of a directory, in their order.
func readPatches(t *testing.T, dir string) (list []patchFile) {
	t.Helper()
	names, err := Patches(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		message, files, err := parsePatch(string(text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		list = append(list, patchFile{name, message, files})
	}
	return list
}
