// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"errors"
	"fmt"
	"math"
)

// numbers reads the integers of one span. The first error stays, so that the
// reader asks once, at the end.
type numbers struct {
	attributes attributes
	err        error
}

// count returns a number that cannot be negative, or what its absence means.
func (n *numbers) count(key string, absent uint64, most uint64) uint64 {
	v, ok, err := n.attributes.integer(key)
	switch {
	case err != nil:
		n.fail(err)
	case !ok:
		return absent
	case v < 0 || uint64(v) > most:
		n.fail(fmt.Errorf("%s is %d, not from 0 to %d", key, v, most))
	default:
		return uint64(v)
	}
	return 0
}

func (n *numbers) count32(key string, absent uint32) uint32 {
	return uint32(n.count(key, uint64(absent), math.MaxUint32))
}

// time returns an absolute time from an offset to start, or what the offset's
// absence means.
func (n *numbers) time(key string, start int64, absent uint64) uint64 {
	v, ok, err := n.attributes.integer(key)
	switch {
	case err != nil:
		n.fail(err)
	case !ok:
		return absent
	case v > math.MaxInt64-start || v <= -start:
		n.fail(fmt.Errorf("%s is %d, which is no time from %d on", key, v, start))
	default:
		return uint64(start + v)
	}
	return 0
}

// start returns the monotonic time that the offsets count from.
func (n *numbers) start() int64 {
	v, ok, err := n.attributes.integer(keyMonotonic)
	switch {
	case err != nil:
		n.fail(err)
	case !ok:
		n.fail(errors.New(keyMonotonic + " is missing"))
	case v <= 0:
		n.fail(fmt.Errorf("%s is %d, which is no time", keyMonotonic, v))
	}
	return max(v, 1)
}

func (n *numbers) fail(err error) {
	if n.err == nil {
		n.err = err
	}
}
