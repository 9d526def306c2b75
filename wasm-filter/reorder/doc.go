// SPDX-License-Identifier: Apache-2.0

// Package reorder holds the one idea of the filter: which headers carry a trace
// context, and where they should stand. It knows nothing of proxies, so that it
// can be tested natively.
package reorder
