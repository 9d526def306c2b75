// SPDX-License-Identifier: Apache-2.0

package iface

import (
	"fmt"
	"path"
	"sort"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const flagLoopback = unix.IFF_LOOPBACK

// Selector says which interfaces matter. A pattern is an interface name, a
// glob as of path.Match, or kind:KIND.
type Selector struct {
	// VNIC and PNIC are the patterns of both kinds; PNIC wins where both match.
	VNIC, PNIC []string
}

// Kind returns the kind of an interface, "" when it is not selected.
func (s Selector) Kind(name, kind string) Kind {
	switch {
	case matchAny(s.PNIC, name, kind):
		return PNIC
	case matchAny(s.VNIC, name, kind):
		return VNIC
	default:
		return ""
	}
}

func matchAny(patterns []string, name, kind string) bool {
	for _, p := range patterns {
		if want, ok := strings.CutPrefix(p, "kind:"); ok {
			if want == kind {
				return true
			}
			continue
		}
		// The configuration refused malformed patterns.
		if ok, err := path.Match(p, name); err == nil && ok {
			return true
		}
	}
	return false
}

// CheckNames returns an error when a plain name among the patterns does not
// exist now. Globs and kinds wait for their interfaces; a plain name that is
// missing at start is a slip of the pen.
func (s Selector) CheckNames() error {
	links, err := list()
	if err != nil {
		return err
	}
	present := map[string]bool{}
	var names []string
	for _, l := range links {
		present[l.Attrs().Name] = true
		names = append(names, l.Attrs().Name)
	}
	sort.Strings(names)
	for _, role := range []struct {
		flag     string
		patterns []string
	}{{"--vnic", s.VNIC}, {"--pnic", s.PNIC}} {
		for _, p := range role.patterns {
			if strings.HasPrefix(p, "kind:") || strings.ContainsAny(p, `*?[\`) || present[p] {
				continue
			}
			return fmt.Errorf("%s: there is no interface %q here; choose one of %s, or a pattern such as %q that waits for it",
				role.flag, p, strings.Join(names, ", "), p+"*")
		}
	}
	return nil
}

// listAttempts bounds the repetitions of a dump that links changed meanwhile.
const listAttempts = 10

// list returns all links; a dump that was interrupted is repeated.
func list() ([]netlink.Link, error) {
	var links []netlink.Link
	var err error
	for range listAttempts {
		if links, err = netlink.LinkList(); err == nil {
			return links, nil
		}
	}
	return nil, fmt.Errorf("list network interfaces: %w", err)
}
