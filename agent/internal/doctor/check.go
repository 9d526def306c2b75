// SPDX-License-Identifier: Apache-2.0

// Package doctor finds out what the agent can do on this machine. It tries
// each feature instead of reading the kernel's version, as distributions move
// features in both directions.
package doctor

import (
	"errors"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// State is the outcome of a check.
type State string

// States of a check. Unknown: the check itself could not be made.
const (
	OK      State = "ok"
	Missing State = "missing"
	Unknown State = "unknown"
)

// Check is the outcome for one feature.
type Check struct {
	// Name of the feature.
	Name string `json:"name"`
	// State says whether it is there.
	State State `json:"state"`
	// Needed: without it nothing can be captured. The three hooks (tcx,
	// clsact, socket-filter) stand in for each other, so none alone is needed.
	Needed bool `json:"needed"`
	// For tells what it is used for, and so what is off without it.
	For string `json:"for"`
	// Detail is what failed, or what was found.
	Detail string `json:"detail,omitempty"`
}

// feature is a check to be made.
type feature struct {
	name   string
	needed bool
	use    string
	since  string // the first kernel with it, for the advice
	try    func() (detail string, err error)
}

// errUnknown marks an error that says nothing about the feature.
var errUnknown = errors.New("could not be tried")

func (f feature) check() Check {
	c := Check{Name: f.name, Needed: f.needed, For: f.use, State: OK}
	detail, err := f.try()
	c.Detail = detail
	if err == nil {
		return c
	}
	c.State, c.Detail = Missing, err.Error()
	if errors.Is(err, errUnknown) {
		c.State = Unknown
	}
	if f.since != "" && (errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EINVAL)) {
		c.Detail += "; Linux has it since " + f.since
	}
	return c
}

// only makes a try of a function without detail.
func only(try func() error) func() (string, error) {
	return func() (string, error) { return "", try() }
}
