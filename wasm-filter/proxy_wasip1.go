// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strconv"
	"unsafe"
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

// increment has nobody left to tell of a failure.
func (proxy) increment(id uint32) { incrementMetric(id, 1) }

func (proxy) warn(message string) {
	proxyLog(logWarn, unsafe.StringData(message), uint32(len(message)))
}

// returned is where the proxy puts the results of a call. It is no local
// variable, as that would be garbage of each call.
var returned struct {
	data uint64 // an address, always that of memory
	size uint32
}

// memory is what the proxy writes its answers to, one at a time. The first size
// is enough for the headers of most requests.
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

// received returns what the proxy wrote to memory in a call with this status.
func received(s status) ([]byte, error) {
	if s != statusOK {
		return nil, s
	}
	size := returned.size
	returned.size = 0 // the proxy leaves it alone when it has nothing
	if uint64(size) > uint64(len(memory)) {
		return nil, statusTooLong
	}
	return memory[:size:size], nil
}

// status is the result of a call (proxy_status_t of the ABI).
type status uint32

const (
	statusOK       status = 0
	statusNotFound status = 1
	statusTooLong  status = 1 << 31 // not the proxy's: it wrote elsewhere than to memory
)

func (s status) Error() string { return "the proxy answered with status " + strconv.Itoa(int(s)) }

func asError(s status) error {
	if s != statusOK {
		return s
	}
	return nil
}
