// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/proxytest"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

// sdkHost is the SDK's emulator of a proxy, as the filter sees a host.
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
	return encodePairs(headers), err
}

func (sdkHost) setRequestHeaders(pairs []byte) error {
	return proxywasm.ReplaceHttpRequestHeaders(decodePairs(pairs))
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

// sendRequest passes headers through the filter and returns what came out.
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

// encodePairs returns headers in the form that package reorder reads.
func encodePairs(headers [][2]string) []byte {
	out := binary.LittleEndian.AppendUint32(nil, uint32(len(headers)))
	for _, h := range headers {
		out = binary.LittleEndian.AppendUint32(out, uint32(len(h[0])))
		out = binary.LittleEndian.AppendUint32(out, uint32(len(h[1])))
	}
	for _, h := range headers {
		out = append(out, h[0]+"\x00"+h[1]+"\x00"...)
	}
	return out
}

// decodePairs undoes encodePairs.
func decodePairs(pairs []byte) [][2]string {
	headers := make([][2]string, binary.LittleEndian.Uint32(pairs))
	sizes, data := pairs[4:], pairs[4+8*len(headers):]
	for i := range headers {
		for part := range 2 {
			size := binary.LittleEndian.Uint32(sizes)
			headers[i][part] = string(data[:size])
			sizes, data = sizes[4:], data[size+1:]
		}
	}
	return headers
}
