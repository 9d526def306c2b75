// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/proxytest"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"

	"github.com/layertrace/layertrace/wasm-filter/reorder/reordertest"
)

// TestModule runs the compiled module in the SDK's emulator of a proxy: the calls
// of the ABI, and the memory that the proxy writes to.
func TestModule(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the module")
	}
	file := filepath.Join(t.TempDir(), "filter.wasm")
	build := exec.Command("go", "build", "-tags=emulator", "-buildmode=c-shared", "-o", file, ".")
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build.Args, err, text)
	}
	module, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		configuration string
		want          [][2]string
		warning       string
	}{
		{"", front, ""},
		{`{"headers":["x-own"],"placement":"connection-manager","placeholders":"zipkin"}`, own, ""},
		{`{"header":[]}`, stock, `layertrace: read plugin configuration: unknown key "header"`},
	} {
		t.Run(test.configuration, func(t *testing.T) {
			proxy := startModule(t, module, test.configuration)
			if diff := cmp.Diff(test.want, sendRequest(t, proxy, stock)); diff != "" {
				t.Errorf("headers after the filter (-want +got):\n%s", diff)
			}
			warnings := strings.Join(proxy.GetWarnLogs(), "\n")
			if (warnings == "") != (test.warning == "") || !strings.Contains(warnings, test.warning) {
				t.Errorf("log is %q, want %q", warnings, test.warning)
			}
			if test.warning != "" {
				return // passive
			}
			// More than the module's memory for results, then little again.
			long := append([][2]string{{":path", "/"}, {"cookie", strings.Repeat("c", 100_000)}}, stock[2:]...)
			got := sendRequest(t, proxy, long)
			if got[2] == long[2] || len(got) != len(long) {
				t.Errorf("a request of 100,000 bytes was not reordered: %.200q", got)
			}
			if diff := cmp.Diff(test.want, sendRequest(t, proxy, stock)); diff != "" {
				t.Errorf("headers after the filter, later (-want +got):\n%s", diff)
			}
			sendRequest(t, proxy, test.want)
			sendRequest(t, proxy, [][2]string{{":path", "/"}, {"a", ""}})
			for name, want := range map[string]uint64{
				counterReordered: 3, counterFirst: 1, counterNoContext: 1, counterErrors: 0,
			} {
				if got := readCounter(t, proxy, name); got != want {
					t.Errorf("%s is %d, want %d", name, got, want)
				}
			}
		})
	}
}

func startModule(t *testing.T, module []byte, configuration string) proxytest.HostEmulator {
	t.Helper()
	vm, err := proxytest.NewWasmVMContext(module)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = vm.Close() })
	option := proxytest.NewEmulatorOption().WithVMContext(vm)
	if configuration != "" {
		option = option.WithPluginConfiguration([]byte(configuration))
	}
	proxy, reset := proxytest.NewHostEmulator(option)
	t.Cleanup(reset)
	if status := proxy.StartPlugin(); status != types.OnPluginStartStatusOK {
		t.Fatalf("start of the plugin: status %v, want OK", status)
	}
	return proxy
}

// sdkHost is the SDK's emulator of a proxy, as a host of the filter.
type sdkHost struct{}

func (sdkHost) configuration() ([]byte, error) {
	data, err := proxywasm.GetPluginConfiguration()
	if errors.Is(err, types.ErrorStatusNotFound) {
		return nil, nil
	}
	return data, err
}

func (sdkHost) property(name string) ([]byte, error) { return proxywasm.GetProperty([]string{name}) }

func (sdkHost) requestHeaders() ([]byte, error) {
	headers, err := proxywasm.GetHttpRequestHeaders()
	return reordertest.Encode(headers), err
}

func (sdkHost) setRequestHeaders(pairs []byte) error {
	return proxywasm.ReplaceHttpRequestHeaders(reordertest.Decode(pairs))
}

var sdkCounters = map[uint32]proxywasm.MetricCounter{}

func (sdkHost) defineCounter(name string) (uint32, error) {
	c := proxywasm.DefineCounterMetric(name)
	sdkCounters[uint32(c)] = c
	return uint32(c), nil
}

func (sdkHost) increment(id uint32) { sdkCounters[id].Increment(1) }

func (sdkHost) warn(message string) { proxywasm.LogWarn(message) }

// sdkPlugin and sdkStream pass the emulator's callbacks to a vm.
type sdkPlugin struct {
	types.DefaultPluginContext
	vm vm
}

func (p *sdkPlugin) OnPluginStart(int) types.OnPluginStartStatus {
	p.vm.configure()
	return types.OnPluginStartStatusOK
}

func (p *sdkPlugin) NewHttpContext(id uint32) types.HttpContext { return &sdkStream{plugin: p, id: id} }

type sdkStream struct {
	types.DefaultHttpContext
	plugin *sdkPlugin
	id     uint32
}

func (s *sdkStream) OnHttpRequestHeaders(int, bool) types.Action {
	s.plugin.vm.request(s.id)
	return types.ActionContinue
}

func (s *sdkStream) OnHttpStreamDone() { s.plugin.vm.end(s.id) }

// start runs the filter in the SDK's emulator of a proxy.
func start(t *testing.T, configuration string) proxytest.HostEmulator {
	t.Helper()
	option := proxytest.NewEmulatorOption().
		WithPluginContext(func(uint32) types.PluginContext { return &sdkPlugin{vm: vm{host: sdkHost{}}} })
	if configuration != "" {
		option = option.WithPluginConfiguration([]byte(configuration))
	}
	proxy, reset := proxytest.NewHostEmulator(option)
	t.Cleanup(reset)
	if status := proxy.StartPlugin(); status != types.OnPluginStartStatusOK {
		t.Fatalf("start of the plugin: status %v, want OK", status)
	}
	return proxy
}

// sendRequest passes headers through the filter and returns the result.
func sendRequest(t *testing.T, proxy proxytest.HostEmulator, headers [][2]string) [][2]string {
	t.Helper()
	id := proxy.InitializeHttpContext()
	if action := proxy.CallOnRequestHeaders(id, headers, true); action != types.ActionContinue {
		t.Errorf("the filter answered %v, want Continue", action)
	}
	out := proxy.GetCurrentRequestHeaders(id)
	proxy.CompleteHttpContext(id)
	return out
}
