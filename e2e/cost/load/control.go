// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// control takes CPU time in short runs, for ever.
func control(pause, length time.Duration) error {
	runtime.LockOSThread()
	for {
		time.Sleep(pause)
		if err := compute(length); err != nil {
			return err
		}
	}
}

// compute takes CPU time of the calling thread.
func compute(length time.Duration) error {
	var began, now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &began); err != nil {
		return fmt.Errorf("read the thread's CPU time: %w", err)
	}
	for now.Nano()-began.Nano() < int64(length) {
		if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
			return fmt.Errorf("read the thread's CPU time: %w", err)
		}
	}
	return nil
}
