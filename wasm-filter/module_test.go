// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/proxytest"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

// TestModule runs the compiled module in the SDK's emulator of a proxy: the calls
// of the ABI, and the memory that the proxy writes to.
func TestModule(t *testing.T) {
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
		{`{"header":[]}`, stock, `layertrace: plugin configuration: unknown key "header"`},
	} {
		t.Run(test.configuration, func(t *testing.T) {
			proxy := startModule(t, module, test.configuration)
			if diff := cmp.Diff(test.want, sendRequest(t, proxy, stock)); diff != "" {
				t.Errorf("headers behind the filter (-want +got):\n%s", diff)
			}
			warnings := strings.Join(proxy.GetWarnLogs(), "\n")
			if (warnings == "") != (test.warning == "") || !strings.Contains(warnings, test.warning) {
				t.Errorf("log is %q, want %q", warnings, test.warning)
			}
			if test.warning != "" {
				return // passive
			}
			// More than the module's memory for answers, and then little again.
			long := append([][2]string{{":path", "/"}, {"cookie", strings.Repeat("c", 100_000)}}, stock[2:]...)
			got := sendRequest(t, proxy, long)
			if got[2] == long[2] || len(got) != len(long) {
				t.Errorf("a request of 100,000 bytes was not reordered: %.200q", got)
			}
			if diff := cmp.Diff(test.want, sendRequest(t, proxy, stock)); diff != "" {
				t.Errorf("headers behind the filter, later (-want +got):\n%s", diff)
			}
			sendRequest(t, proxy, test.want)
			sendRequest(t, proxy, [][2]string{{":path", "/"}, {"a", ""}})
			for name, want := range map[string]uint64{
				counterMoved: 3, counterInFront: 1, counterAbsent: 1, counterErrors: 0,
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
