// SPDX-License-Identifier: Apache-2.0

package main

import "unsafe"

// The calls of the proxy-wasm ABI 0.2.1 that the filter makes, and their
// numbers. The SDK has them too, but keeps them to itself: it offers each of
// them only as a copy into new strings, and brings fmt and os with it.

const (
	logWarn                   = 3
	mapRequestHeaders         = 0
	bufferPluginConfiguration = 7
	metricCounter             = 0
)

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
