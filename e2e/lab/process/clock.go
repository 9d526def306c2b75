// SPDX-License-Identifier: Apache-2.0

package process

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// shifted returns fn with the calling thread's children in a time namespace
// whose monotonic clock is off. The thread cannot leave it again.
func shifted(offset time.Duration, fn func() error) func() error {
	return func() error {
		if err := unix.Unshare(unix.CLONE_NEWTIME); err != nil {
			return fmt.Errorf("make a time namespace (needs CONFIG_TIME_NS): %w", err)
		}
		path := fmt.Sprintf("/proc/%d/timens_offsets", unix.Gettid())
		if err := os.WriteFile(path, []byte(clockOffset(offset)), 0); err != nil {
			return fmt.Errorf("shift the clock: %w", err)
		}
		return fn()
	}
}

// clockOffset is a line of timens_offsets: the nanoseconds count upwards, also
// from negative seconds.
func clockOffset(offset time.Duration) string {
	seconds, rest := offset/time.Second, offset%time.Second
	if rest < 0 {
		seconds, rest = seconds-1, rest+time.Second
	}
	return fmt.Sprintf("monotonic %d %d\n", seconds, rest)
}
