// SPDX-License-Identifier: Apache-2.0

package breakdown

import (
	"cmp"
	"iter"
	"math/bits"
	"slices"
)

// enclosing finds the intervals that contain another one, those that begin last first. A
// sender chooses how many exchanges a trace has and how they nest, so nothing here may
// compare each with each. It is a list by start with a binary tree of the latest ends over it:
// each interval found costs a number of steps that grows with the logarithm of the list.
type enclosing[T any] struct {
	list []interval[T] // by start; of equal starts, the first added is last
	ends []uint64      // ends[1] is the latest of all, those of i are 2i and 2i+1
	half int           // leaves of ends begin here
}

type interval[T any] struct {
	start, end uint64
	of         T
}

func (e *enclosing[T]) add(start, end uint64, of T) {
	e.list = append(e.list, interval[T]{start, end, of})
}

// prepare builds the tree, after the last add.
func (e *enclosing[T]) prepare() {
	slices.Reverse(e.list)
	slices.SortStableFunc(e.list, func(a, b interval[T]) int { return cmp.Compare(a.start, b.start) })
	e.half = 1 << bits.Len(uint(len(e.list)))
	e.ends = make([]uint64, 2*e.half)
	for i, v := range e.list {
		e.ends[e.half+i] = v.end
	}
	for i := e.half - 1; i > 0; i-- {
		e.ends[i] = max(e.ends[2*i], e.ends[2*i+1])
	}
}

// of returns the intervals that contain [start, end], those that begin last first.
func (e *enclosing[T]) of(start, end uint64) iter.Seq[*interval[T]] {
	return func(yield func(*interval[T]) bool) {
		if e == nil {
			return
		}
		after, _ := slices.BinarySearchFunc(e.list, start, func(v interval[T], start uint64) int {
			if v.start <= start {
				return -1
			}
			return 1
		})
		for i := e.before(after, end); i >= 0; i = e.before(i, end) {
			if !yield(&e.list[i]) {
				return
			}
		}
	}
}

// before returns the last index below i whose interval ends at end or later, -1 if none does.
func (e *enclosing[T]) before(i int, end uint64) int {
	n := e.half + i
	for { // up, to the first subtree on the left that has one
		for n&1 == 0 {
			if n >>= 1; n <= 1 {
				return -1
			}
		}
		if n--; n == 0 {
			return -1
		}
		if e.ends[n] >= end {
			break
		}
	}
	for n < e.half { // down, on the right where possible
		if n = 2*n + 1; e.ends[n] < end {
			n--
		}
	}
	return n - e.half
}
