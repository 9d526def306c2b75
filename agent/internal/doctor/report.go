// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// Report is the state of this machine.
type Report struct {
	// Kernel is release and architecture, for people: nothing depends on it.
	Kernel string `json:"kernel"`
	// Capture: the agent can capture here, by the hook Mode.
	Capture bool   `json:"capture"`
	Mode    string `json:"mode,omitempty"`
	// Reason says why not.
	Reason string  `json:"reason,omitempty"`
	Checks []Check `json:"checks"`
}

// untried is the detail of checks that only a privileged process can make.
const untried = "needs privileges to be tried"

// Examine makes all checks. Without privileges most of them would only say
// "not permitted", so it ends behind the first two then.
func Examine() Report {
	r := Report{Kernel: kernel()}
	privileged := true
	for _, f := range list() {
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
	return r
}

// conclude says from the checks whether and how the agent can capture.
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

// WriteText writes a table for people.
func (r Report) WriteText(out io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "kernel %s\n\n", r.Kernel)
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "FEATURE\tSTATE\tUSED FOR\tDETAIL")
	for _, c := range r.Checks {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", c.Name, c.State, c.For, c.Detail)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(&b)
	for _, c := range r.Checks {
		if c.State != OK && !c.Needed && c.For != "" && c.Detail != untried {
			fmt.Fprintf(&b, "off without %s: %s\n", c.Name, c.For)
		}
	}
	switch {
	case !r.Capture:
		fmt.Fprintf(&b, "The agent cannot capture here. %s\n", r.Reason)
	case r.Mode == nameSocketFilter: // which auto never chooses
		fmt.Fprintf(&b, "The agent can capture here, with --mode %s.\n", r.Mode)
	default:
		fmt.Fprintf(&b, "The agent can capture here (--mode auto chooses %s).\n", r.Mode)
	}
	_, err := out.Write(b.Bytes())
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
