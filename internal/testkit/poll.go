// SPDX-License-Identifier: Apache-2.0

// Package testkit has what tests of several packages need: a receiver of spans,
// network namespaces, and a way to wait.
package testkit

import (
	"testing"
	"time"
)

const (
	pollTimeout = 20 * time.Second
	pollPause   = 5 * time.Millisecond
)

// Eventually polls until the condition holds, and fails the test when it does not
// in time. what completes "timed out waiting until".
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(pollTimeout)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting until %s", what)
		}
		time.Sleep(pollPause)
	}
}
