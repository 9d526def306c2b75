// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"os"
	"runtime/debug"
)

// gcPercent lets the heap grow to three times what lives. What lives is a few
// MiB of spans that are gone within a second: Go's default of 100 collects more
// often than so little memory is worth.
const gcPercent = 200

// collectLess sets gcPercent unless the user decided (GOGC).
func collectLess() {
	if _, set := os.LookupEnv("GOGC"); !set {
		debug.SetGCPercent(gcPercent)
	}
}
