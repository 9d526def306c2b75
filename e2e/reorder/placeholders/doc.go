// SPDX-License-Identifier: Apache-2.0

// Package placeholders holds the test that looks for the Wasm filter's
// placeholders where they must not be: at the upstream of a real Envoy. It has
// no other code.
package placeholders
