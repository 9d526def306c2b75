// SPDX-License-Identifier: Apache-2.0

// Package doctor finds out what the agent can do on this machine. It tries
// each feature instead of comparing kernel versions, as distributions backport
// and disable features.
package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/agent/internal/unseen"
	"github.com/layertrace/layertrace/internal/printable"
	"github.com/layertrace/layertrace/internal/screen"
)

// Report is the state of this machine.
type Report struct {
	// Kernel is release and architecture, for information only.
	Kernel string `json:"kernel"`
	// Capture: the agent can capture here, with hook Mode.
	Capture bool   `json:"capture"`
	Mode    string `json:"mode,omitempty"`
	// Reason is why the agent cannot capture.
	Reason string  `json:"reason,omitempty"`
	Checks []Check `json:"checks"`
	// Unseen is traffic here that an agent does not read, or may not get.
	Unseen []unseen.Sight `json:"unseen"`
	// UnseenProblem is why Unseen may not be all.
	UnseenProblem string `json:"unseen_problem,omitempty"`
	// Left are interfaces where the filters of an agent run that was killed.
	Left []string `json:"left,omitempty"`
}

// Check is the outcome for one feature.
type Check struct {
	// Name of the feature.
	Name  string `json:"name"`
	State State  `json:"state"`
	// Needed: the agent cannot capture without it. The three hooks (tcx,
	// clsact, socket-filter) replace each other, so none of them is needed.
	Needed bool `json:"needed"`
	// For is what uses the feature, and so what is off without it.
	For string `json:"for"`
	// Detail is what failed, or what was found.
	Detail string `json:"detail,omitempty"`
}

// State is the outcome of a check.
type State string

// States of a check. Unknown: the check itself was not possible.
const (
	OK      State = "ok"
	Missing State = "missing"
	Unknown State = "unknown"
)

// untried is the detail of checks that need privileges.
const untried = "needs privileges"

// Examine makes all checks, and asks the agent that serves metrics at address, if one
// does, for what it does not read. Without privileges most checks would only report
// "not permitted" and are skipped.
func Examine(ctx context.Context, address string) Report {
	r := Report{Kernel: kernel()}
	privileged := true
	for _, f := range allFeatures() {
		if !privileged && f.name != "btf" && f.name != "cgroup2" {
			r.Checks = append(r.Checks, Check{Name: f.name, State: Unknown, Needed: f.needed, For: f.use, Detail: untried})
			continue
		}
		c := f.check()
		if c.Name == namePrivileges && c.State != OK {
			privileged = false
		}
		r.Checks = append(r.Checks, c)
	}
	r.conclude()
	r.lookAround(ctx, address)
	return r
}

// feature is a check to make.
type feature struct {
	name   string
	needed bool
	use    string
	since  string // the first kernel that has it, for the advice
	try    func() (detail string, err error)
}

// errUnknown marks an error that does not depend on the feature.
var errUnknown = errors.New("cannot be tried")

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

// conclude derives from the checks whether and how the agent can capture.
func (r *Report) conclude() {
	state := map[string]State{}
	for _, c := range r.Checks {
		state[c.Name] = c.State
		if c.Needed && c.State != OK && r.Reason == "" {
			r.Reason = fmt.Sprintf("%s: %s", c.Name, c.Detail)
		}
	}
	for _, mode := range []string{nameTCX, nameClsact, nameSocketFilter} {
		if state[mode] == OK && r.Mode == "" {
			r.Mode = mode
		}
	}
	if r.Mode == "" && r.Reason == "" {
		r.Reason = "none of tcx, clsact and socket-filter works"
	}
	r.Capture = r.Reason == ""
	if !r.Capture {
		r.Mode = ""
	}
}

// WriteText writes the report in a width in columns, 0 for any: the verdict, what is off or
// not read, and the table of features.
func (r Report) WriteText(out io.Writer, width int) error {
	var b bytes.Buffer
	switch {
	case !r.Capture:
		b.WriteString(screen.Wrap("", "The agent cannot capture here. "+r.Reason, width))
	case r.Mode == nameSocketFilter: // which auto never selects
		b.WriteString(screen.Wrap("", fmt.Sprintf("The agent can capture here, with --mode %s.", r.Mode), width))
	default:
		b.WriteString(screen.Wrap("", fmt.Sprintf("The agent can capture here (--mode auto selects %s).", r.Mode), width))
	}
	there, used := 0, 0
	for _, c := range r.Checks {
		if c.For == "" {
			continue
		}
		used++
		if c.State == OK {
			there++
		}
	}
	b.WriteString(screen.Wrap("", fmt.Sprintf("Kernel %s has %d of the %d features that layertrace uses.", r.Kernel, there, used), width))
	for _, c := range r.Checks {
		if c.State != OK && !c.Needed && c.For != "" && c.Detail != untried {
			b.WriteString(screen.Wrap("- ", fmt.Sprintf("off without %s: %s", c.Name, c.For), width))
		}
	}
	r.writeUnseen(&b, width)
	table := screen.NewTable("FEATURE", "STATE", "USED FOR", "DETAIL")
	table.Remarks = true
	for _, c := range r.Checks {
		table.Row(c.Name, string(c.State), c.For, c.Detail)
	}
	b.WriteString("\n" + table.Text(width))
	// Interfaces have the names that pods gave them.
	_, err := printable.Writer{To: out}.Write(b.Bytes())
	return err
}

// WriteJSON writes the report as one JSON object.
func (r Report) WriteJSON(out io.Writer) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
}
