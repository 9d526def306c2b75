// SPDX-License-Identifier: Apache-2.0

package compact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
)

// clangVersion compiled the committed module; another version may differ.
const clangVersion = "version 14."

// TestModuleIsCurrent compiles the module again, in another directory, and compares.
func TestModuleIsCurrent(t *testing.T) {
	version, err := exec.Command("clang", "--version").Output()
	if err != nil {
		t.Skipf("clang is not installed (make setup installs it): %v", err)
	}
	if !strings.Contains(string(version), clangVersion) {
		t.Skipf("the committed module is from clang %s, installed is %s", clangVersion, bytes.SplitN(version, []byte("\n"), 2)[0])
	}
	if _, err := exec.LookPath("wasm-ld"); err != nil {
		t.Skipf("lld is not installed (make setup installs it): %v", err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "src"), os.DirFS("src")); err != nil {
		t.Fatal(err)
	}
	for name, source := range map[string]string{"compact.go": "compact.go", "go.mod": "../../go.mod"} {
		data, err := os.ReadFile(source)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	generate := exec.Command("go", "generate", ".")
	generate.Dir = dir
	if out, err := generate.CombinedOutput(); err != nil {
		t.Fatalf("go generate: %v\n%s", err, out)
	}
	built, err := os.ReadFile(filepath.Join(dir, "layertrace.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(built, Module) {
		t.Errorf("layertrace.wasm is outdated, run \"make generate\": %d bytes are committed, %d were built", len(Module), len(built))
	}
}

// TestModuleIsSmall bounds what each VM of each proxy has in memory, and checks that the
// module needs nothing but proxy-wasm: no WASI, no other host call.
func TestModuleIsSmall(t *testing.T) {
	const size, pages = 16 << 10, 2
	if len(Module) > size {
		t.Errorf("the module has %d bytes, want at most %d", len(Module), size)
	}
	i := newInstance(t, &fakeHost{})
	if got := i.module.Memory().Size() / (64 << 10); got > pages {
		t.Errorf("a VM has %d pages of 64 KiB, want at most %d", got, pages)
	}
	for _, f := range i.compiled.ImportedFunctions() {
		if module, name, _ := f.Import(); module != "env" || !strings.HasPrefix(name, "proxy_") {
			t.Errorf("the module imports %s.%s", module, name)
		}
	}
	want := []string{
		"proxy_abi_version_0_2_0", "proxy_on_configure", "proxy_on_log", "proxy_on_memory_allocate", "proxy_on_request_headers",
	}
	var got []string
	for name := range i.compiled.ExportedFunctions() {
		got = append(got, name)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("the module exports %q, want %q: Envoy calls each callback that it finds", got, want)
	}
}

// buildGo builds the filter in Go, the reference, once.
func buildGo(t *testing.T) []byte {
	t.Helper()
	if testing.Short() {
		t.Skip("compiles the module in Go")
	}
	module, err := goModule()
	if err != nil {
		t.Fatal(err)
	}
	return module
}

var goModule = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "layertrace-wasm-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "layertrace.wasm")
	if text, err := exec.Command("go", "run", "../build", "-o", file).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the module in Go: %w\n%s", err, text)
	}
	return os.ReadFile(file)
})

// host is the proxy as the module uses it.
type host interface {
	// configuration returns the plugin configuration, nil if there is none.
	configuration() ([]byte, error)
	// property returns an attribute of the plugin or the stream.
	property(name string) ([]byte, error)
	// requestHeaders returns all request headers in their order, as reordertest.Encode does.
	requestHeaders() ([]byte, error)
	// setRequestHeaders replaces all request headers.
	setRequestHeaders(pairs []byte) error
	// defineCounter creates a counter, or finds the one of that name.
	defineCounter(name string) (id uint32, err error)
	// increment adds one to a counter.
	increment(id uint32)
	// warn writes one line to the proxy's log.
	warn(message string)
}

var errHost = errors.New("host call failed")

// Results of host calls (proxy_status_t of the ABI).
const (
	statusOK              = 0
	statusNotFound        = 1
	statusInternalFailure = 10
)

// instance is a VM with the module.
type instance struct {
	t        testing.TB
	host     host
	compiled wazero.CompiledModule
	module   api.Module
}

// compilations keeps the compiled module for the next VM.
var compilations = wazero.NewCompilationCache()

// newInstance starts a VM whose host calls go to h.
func newInstance(t testing.TB, h host) *instance {
	t.Helper()
	return newInstanceOf(t, Module, h)
}

// newInstanceOf is newInstance for another module than the compact one.
func newInstanceOf(t testing.TB, module []byte, h host) *instance {
	t.Helper()
	ctx := context.Background()
	i := &instance{t: t, host: h}
	runtime := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCompilationCache(compilations))
	t.Cleanup(func() { _ = runtime.Close(ctx) })
	env := runtime.NewHostModuleBuilder("env")
	for name, call := range map[string]any{
		"proxy_log": func(level, at, size uint32) uint32 {
			const warn = 3
			if level != warn {
				t.Errorf("a line of level %d in the log, want %d", level, warn)
			}
			h.warn(i.text(at, size))
			return statusOK
		},
		"proxy_get_buffer_bytes": func(buffer, start, _, data, size uint32) uint32 {
			const pluginConfiguration = 7
			if buffer != pluginConfiguration || start != 0 {
				t.Errorf("buffer %d from %d, want %d from 0", buffer, start, pluginConfiguration)
			}
			text, err := h.configuration()
			if text == nil && err == nil {
				return statusNotFound
			}
			return i.give(text, err, data, size)
		},
		"proxy_get_property": func(at, length, data, size uint32) uint32 {
			value, err := h.property(i.text(at, length))
			return i.give(value, err, data, size)
		},
		"proxy_get_header_map_pairs": func(_, data, size uint32) uint32 {
			pairs, err := h.requestHeaders()
			return i.give(pairs, err, data, size)
		},
		"proxy_set_header_map_pairs": func(_, at, size uint32) uint32 {
			return asStatus(h.setRequestHeaders([]byte(i.text(at, size))))
		},
		"proxy_define_metric": func(_, at, size, to uint32) uint32 {
			id, err := h.defineCounter(i.text(at, size))
			if err == nil && !i.module.Memory().WriteUint32Le(to, id) {
				t.Errorf("the ID of a counter goes to %d, outside the memory", to)
			}
			return asStatus(err)
		},
		"proxy_increment_metric": func(id uint32, by uint64) uint32 {
			if by != 1 {
				t.Errorf("a counter grows by %d, want 1", by)
			}
			h.increment(id)
			return statusOK
		},
	} {
		env.NewFunctionBuilder().WithFunc(call).Export(name)
	}
	if _, err := env.Instantiate(ctx); err != nil {
		t.Fatal(err)
	}
	_, err := wasi_snapshot_preview1.Instantiate(ctx, runtime) // Go's runtime imports it
	if err != nil {
		t.Fatal(err)
	}
	if i.compiled, err = runtime.CompileModule(ctx, module); err != nil {
		t.Fatal(err)
	}
	start := wazero.NewModuleConfig().WithStartFunctions("_initialize") // of Go's runtime
	if i.module, err = runtime.InstantiateModule(ctx, i.compiled, start); err != nil {
		t.Fatal(err)
	}
	return i
}

func asStatus(err error) uint32 {
	if err != nil {
		return statusInternalFailure
	}
	return statusOK
}

// text returns bytes of the module's memory.
func (i *instance) text(at, size uint32) string {
	data, ok := i.module.Memory().Read(at, size)
	if !ok {
		i.t.Errorf("%d bytes at %d are outside the memory", size, at)
	}
	return string(data)
}

// give passes a result to the module: into memory that the module allocates, whose address
// and size it writes to where the module wants them. Like Envoy it allocates nothing for
// an empty result.
func (i *instance) give(result []byte, err error, data, size uint32) uint32 {
	if err != nil {
		return statusInternalFailure
	}
	memory := i.module.Memory()
	var at uint32
	if len(result) > 0 {
		if at = uint32(i.call("proxy_on_memory_allocate", uint64(len(result)))); at == 0 {
			return statusInternalFailure
		}
	}
	if !memory.Write(at, result) || !memory.WriteUint32Le(data, at) || !memory.WriteUint32Le(size, uint32(len(result))) {
		i.t.Errorf("a result of %d bytes for %d is outside the memory", len(result), at)
	}
	return statusOK
}

func (i *instance) call(name string, args ...uint64) uint64 {
	results, err := i.module.ExportedFunction(name).Call(context.Background(), args...)
	if err != nil {
		i.t.Fatalf("%s: %v", name, err)
	}
	if len(results) == 0 {
		return 0
	}
	return results[0]
}

// configure starts a plugin, or restarts it with a new configuration.
func (i *instance) configure() {
	if i.call("proxy_on_configure", 1, 0) != 1 {
		i.t.Error("the filter refused its configuration: the proxy would reject requests")
	}
}

// request handles the request of the current stream.
func (i *instance) request(stream uint32) {
	if action := i.call("proxy_on_request_headers", uint64(stream), 0, 1); action != 0 {
		i.t.Errorf("the filter answered %d, want 0: continue", action)
	}
}

// end handles the end of the current stream.
func (i *instance) end(stream uint32) { i.call("proxy_on_log", uint64(stream)) }
