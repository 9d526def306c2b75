// SPDX-License-Identifier: Apache-2.0

// Package wire holds the tests that look at the filter's effect where it counts:
// at the bytes that a real Envoy writes to its upstream. It has no other code.
package wire
