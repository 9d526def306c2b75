// SPDX-License-Identifier: Apache-2.0

package span

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The offset turns a monotonic time of now into the wall time of now.
func TestOffsetOfTheRealClocks(t *testing.T) {
	c, err := NewClock()
	if err != nil {
		t.Fatal(err)
	}
	var ts unix.Timespec
	before := time.Now()
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	after := time.Now()
	got := c.Offset().Wall(uint64(ts.Nano()))
	// The bracket of the reading plus that of the measurement.
	const slack = time.Millisecond
	if got.Before(before.Add(-slack)) || got.After(after.Add(slack)) {
		t.Errorf("wall time %v is not between %v and %v", got, before, after)
	}
}

func TestTheNarrowestSampleCounts(t *testing.T) {
	readings := [][3]int64{{100, 10_000, 1100}, {2000, 12_010, 2020}, {3000, 19_000, 4000}}
	i := 0
	offset, width, err := measure(func() (int64, int64, int64, error) {
		r := readings[i%len(readings)]
		i++
		return r[0], r[1], r[2], nil
	})
	if err != nil || offset != 10_000 || width != 20 {
		t.Errorf("offset %d, width %d, %v", offset, width, err)
	}
}

// Noise leaves the offset alone, a step of the wall clock changes it.
func TestUpdate(t *testing.T) {
	reading := func(offset, width int64) readFunc {
		return func() (int64, int64, int64, error) { return 1000, 1000 + width/2 + offset, 1000 + width, nil }
	}
	c := &Clock{}
	c.offset.Store(int64(time.Hour))
	for _, test := range []struct {
		name          string
		offset, width int64
		want          int64
	}{
		{"noise", int64(time.Hour) + 5_000, 200, int64(time.Hour)},
		{"wide bracket", int64(time.Hour) + 900_000, 1_000_000, int64(time.Hour)},
		{"step", int64(time.Hour) + 50_000, 200, int64(time.Hour) + 50_000},
		{"step back", int64(time.Hour) - int64(time.Second), 200, int64(time.Hour) - int64(time.Second)},
	} {
		if err := c.update(reading(test.offset, test.width)); err != nil {
			t.Fatal(err)
		}
		if got := int64(c.Offset()); got != test.want {
			t.Errorf("%s: offset %d, want %d", test.name, got, test.want)
		}
	}
	fail := errors.New("no clock")
	if err := c.update(func() (int64, int64, int64, error) { return 0, 0, 0, fail }); !errors.Is(err, fail) {
		t.Errorf("got %v", err)
	}
}
