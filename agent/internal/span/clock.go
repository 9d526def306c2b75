// SPDX-License-Identifier: Apache-2.0

package span

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// clockInterval is the time between two measurements of the offset.
	clockInterval = 5 * time.Second
	// clockSamples is the number of samples per measurement. The narrowest counts.
	clockSamples = 8
	// minClockStep is the smallest difference that counts as a step of the wall
	// clock: wider than any sample on a machine that is not stalled.
	minClockStep = int64(20 * time.Microsecond)
)

// ClockOffset is the wall time (Unix ns) at monotonic time 0. Use one offset for
// all times that belong together, so that their differences stay exact.
type ClockOffset int64

// Wall returns the wall time of a CLOCK_MONOTONIC time in ns.
func (o ClockOffset) Wall(monotonic uint64) time.Time {
	return time.Unix(0, int64(o)+int64(monotonic))
}

// unixNano is Wall as Unix time in ns.
func (o ClockOffset) unixNano(monotonic uint64) int64 { return int64(o) + int64(monotonic) }

// Clock measures the offset between CLOCK_REALTIME and CLOCK_MONOTONIC.
//
// NTP slews both clocks alike, so the offset changes only when the wall clock is
// stepped. A new measurement therefore replaces the old one only when the two
// contradict each other; otherwise their noise would shift the spans of one hop
// against each other.
type Clock struct {
	offset atomic.Int64
}

// NewClock measures the offset once.
func NewClock() (*Clock, error) {
	c := &Clock{}
	offset, _, err := measure(readClocks)
	if err != nil {
		return nil, err
	}
	c.offset.Store(offset)
	return c, nil
}

// Offset returns the offset of the last measurement.
func (c *Clock) Offset() ClockOffset { return ClockOffset(c.offset.Load()) }

// Measure measures the offset now and returns it: a step of the wall clock counts at once.
// If the clocks cannot be read, it is that of the last measurement.
func (c *Clock) Measure() ClockOffset {
	_ = c.update(readClocks)
	return c.Offset()
}

// Monotonic returns the present CLOCK_MONOTONIC in ns, 0 if it cannot be read.
func Monotonic() uint64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return 0
	}
	return uint64(ts.Nano())
}

// Run measures again every few seconds until ctx is done.
func (c *Clock) Run(ctx context.Context) error {
	ticker := time.NewTicker(clockInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := c.update(readClocks); err != nil {
				return err
			}
		}
	}
}

func (c *Clock) update(read readFunc) error {
	offset, width, err := measure(read)
	if err != nil {
		return err
	}
	if diff := offset - c.offset.Load(); max(diff, -diff) > max(width, minClockStep) {
		c.offset.Store(offset)
	}
	return nil
}

// readFunc reads the monotonic clock, the wall clock, and the monotonic clock
// again, in ns.
type readFunc func() (before, wall, after int64, err error)

// measure returns wall minus monotonic time of the sample whose two monotonic
// readings are closest, and the distance of these.
func measure(read readFunc) (offset, width int64, err error) {
	width = math.MaxInt64
	for range clockSamples {
		before, wall, after, err := read()
		if err != nil {
			return 0, 0, err
		}
		if w := after - before; w < width {
			width, offset = w, wall-(before+w/2)
		}
	}
	return offset, width, nil
}

func readClocks() (before, wall, after int64, err error) {
	for _, c := range []struct {
		id int32
		ns *int64
	}{{unix.CLOCK_MONOTONIC, &before}, {unix.CLOCK_REALTIME, &wall}, {unix.CLOCK_MONOTONIC, &after}} {
		var ts unix.Timespec
		if err := unix.ClockGettime(c.id, &ts); err != nil {
			return 0, 0, 0, fmt.Errorf("read clock %d: %w", c.id, err)
		}
		*c.ns = ts.Nano()
	}
	return before, wall, after, nil
}
