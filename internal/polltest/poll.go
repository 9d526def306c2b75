// SPDX-License-Identifier: Apache-2.0

// Package polltest waits in tests for what happens in the background.
package polltest

import (
	"testing"
	"time"
)

const (
	timeout = 20 * time.Second
	pause   = 5 * time.Millisecond
)

// Eventually polls until the condition holds, and fails the test when it does not
// in time. what completes "timed out waiting until".
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting until %s", what)
		}
		time.Sleep(pause)
	}
}
