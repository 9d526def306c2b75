// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strconv"
	"unsafe"
)

// The boundary to the proxy: the callbacks that the module exports and the host
// calls that it makes (proxy-wasm ABI 0.2.1). The SDK would carry both, at a price
// per request that README.md shows ("Without the SDK").

var filter = vm{host: proxy{}}

// Envoy requires only the callbacks for memory and, if a plugin has a
// configuration, configure. It skips a callback that is not exported, which is the
// cheapest one.

//go:wasmexport proxy_abi_version_0_2_0
func abiVersion() {}

//go:wasmexport proxy_on_configure
func onConfigure(_, _ int32) int32 {
	filter.configure()
	return 1
}

const actionContinue = 0

//go:wasmexport proxy_on_request_headers
func onRequestHeaders(stream uint32, _, _ int32) int32 {
	filter.request(stream)
	return actionContinue
}

// Envoy calls this at the end of a stream in the connection manager, but never for
// an upstream filter.
//
//go:wasmexport proxy_on_log
func onLog(stream uint32) { filter.end(stream) }

//go:wasmimport env proxy_log
func proxyLog(level uint32, message *byte, size uint32) status

//go:wasmimport env proxy_get_buffer_bytes
func getBufferBytes(buffer, start, length uint32, data unsafe.Pointer, size *uint32) status

//go:wasmimport env proxy_get_property
func getProperty(path *byte, pathSize uint32, data unsafe.Pointer, size *uint32) status

//go:wasmimport env proxy_get_header_map_pairs
func getHeaderMapPairs(headers uint32, data unsafe.Pointer, size *uint32) status

//go:wasmimport env proxy_set_header_map_pairs
func setHeaderMapPairs(headers uint32, data *byte, size uint32) status

//go:wasmimport env proxy_define_metric
func defineMetric(kind uint32, name *byte, size uint32, id *uint32) status

//go:wasmimport env proxy_increment_metric
func incrementMetric(id uint32, by int64) status

// Arguments of these calls.
const (
	logWarn                   = 3
	mapRequestHeaders         = 0
	bufferPluginConfiguration = 7
	metricCounter             = 0
)

// proxy is the host of this module.
type proxy struct{}

func (proxy) configuration() ([]byte, error) {
	s := getBufferBytes(bufferPluginConfiguration, 0, 1<<30, unsafe.Pointer(&returned.data), &returned.size)
	if s == statusNotFound {
		return nil, nil
	}
	return received(s)
}

func (proxy) property(name string) ([]byte, error) {
	return received(getProperty(unsafe.StringData(name), uint32(len(name)), unsafe.Pointer(&returned.data), &returned.size))
}

func (proxy) requestHeaders() ([]byte, error) {
	return received(getHeaderMapPairs(mapRequestHeaders, unsafe.Pointer(&returned.data), &returned.size))
}

func (proxy) setRequestHeaders(pairs []byte) error {
	return asError(setHeaderMapPairs(mapRequestHeaders, unsafe.SliceData(pairs), uint32(len(pairs))))
}

func (proxy) defineCounter(name string) (uint32, error) {
	s := defineMetric(metricCounter, unsafe.StringData(name), uint32(len(name)), &returned.size)
	return returned.size, asError(s)
}

// increment ignores errors: Envoy returns one only for an unknown counter.
func (proxy) increment(id uint32) { incrementMetric(id, 1) }

func (proxy) warn(message string) {
	proxyLog(logWarn, unsafe.StringData(message), uint32(len(message)))
}

// returned receives the results of a call. As a local variable it would be
// allocated for each call.
var returned struct {
	data uint64 // an address, always that of memory
	size uint32
}

// memory receives the bytes that a call returns, one result at a time. Its first
// size fits the headers of most requests.
var memory = make([]byte, 16<<10)

// allocate is called by the proxy in the middle of a call that returns bytes.
//
//go:wasmexport proxy_on_memory_allocate
func allocate(size uint32) unsafe.Pointer {
	if uint64(size) > uint64(len(memory)) {
		memory = make([]byte, 2*size)
	}
	return unsafe.Pointer(unsafe.SliceData(memory))
}

// received returns the bytes that the proxy wrote to memory in a call.
func received(s status) ([]byte, error) {
	if s != statusOK {
		return nil, s
	}
	size := returned.size
	returned.size = 0 // the proxy does not write a size of 0
	if uint64(size) > uint64(len(memory)) {
		return nil, statusTooLong
	}
	return memory[:size:size], nil
}

// status is the result of a host call (proxy_status_t of the ABI).
type status uint32

const (
	statusOK       status = 0
	statusNotFound status = 1
	statusTooLong  status = 1 << 31 // not the proxy's: the result is not in memory
)

func (s status) Error() string { return "host call returned status " + strconv.Itoa(int(s)) }

func asError(s status) error {
	if s != statusOK {
		return s
	}
	return nil
}
