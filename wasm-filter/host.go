// SPDX-License-Identifier: Apache-2.0

package main

// host is what the filter asks of the proxy.
type host interface {
	// configuration returns the plugin configuration, nil when there is none.
	configuration() ([]byte, error)
	// requestHeaders returns all request headers in their order.
	requestHeaders() ([][2]string, error)
	// setRequestHeaders replaces all request headers.
	setRequestHeaders([][2]string) error
	// defineCounter makes a counter and returns the function that adds one.
	defineCounter(name string) (add func(), err error)
	// warn writes one line to the proxy's log.
	warn(message string)
}
