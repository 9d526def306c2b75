// SPDX-License-Identifier: Apache-2.0

package main

// host is what the filter asks of the proxy. Bytes that it returns are valid
// until it is asked for the next.
type host interface {
	// configuration returns the plugin configuration, nil when there is none.
	configuration() ([]byte, error)
	// property returns an attribute of the plugin or the stream.
	property(name string) ([]byte, error)
	// requestHeaders returns all request headers in their order, as package
	// reorder reads them.
	requestHeaders() ([]byte, error)
	// setRequestHeaders replaces all request headers.
	setRequestHeaders(pairs []byte) error
	// defineCounter makes a counter, or finds the one of that name.
	defineCounter(name string) (id uint32, err error)
	// increment adds one to a counter.
	increment(id uint32)
	// warn writes one line to the proxy's log.
	warn(message string)
}
