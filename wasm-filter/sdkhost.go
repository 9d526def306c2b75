// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

// sdkHost is the proxy, by way of the SDK.
type sdkHost struct{}

func (sdkHost) configuration() ([]byte, error) {
	data, err := proxywasm.GetPluginConfiguration()
	if errors.Is(err, types.ErrorStatusNotFound) {
		return nil, nil
	}
	return data, err
}

func (sdkHost) requestHeaders() ([][2]string, error) { return proxywasm.GetHttpRequestHeaders() }

func (sdkHost) setRequestHeaders(headers [][2]string) error {
	return proxywasm.ReplaceHttpRequestHeaders(headers)
}

// defineCounter turns the SDK's panics into errors: a counter is not worth a
// request.
func (sdkHost) defineCounter(name string) (add func(), err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("define counter %s: %v", name, r)
		}
	}()
	counter := proxywasm.DefineCounterMetric(name)
	return func() {
		defer func() { _ = recover() }() // nobody is left to tell
		counter.Increment(1)
	}, nil
}

func (sdkHost) warn(message string) { proxywasm.LogWarn(message) }
