// SPDX-License-Identifier: Apache-2.0

package envoypatch

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

const guard = "envoy.reloadable_features.trace_context_first"

// TestPatchIsWellFormed holds the patch to what git am takes: git counts the
// same lines as a reader that accepts nothing between or behind the hunks.
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
	// In a repository git leaves out what is not below the directory.
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
