// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A second agent is refused, with what to do, until the first has ended.
func TestClaim(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	quiet := slog.New(slog.DiscardHandler)
	first, err := Claim(quiet)
	must(t, err)
	for range 3 {
		_, err = Claim(quiet)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) || !strings.Contains(err.Error(), "stop the other one first") {
			t.Fatalf("a second agent gets %v", err)
		}
	}
	must(t, first.Close())
	again, err := Claim(quiet)
	must(t, err)
	must(t, again.Close())
}

func TestRefused(t *testing.T) {
	for _, test := range []struct {
		holder unix.Ucred
		want   string // "": not refused
	}{
		{unix.Ucred{Pid: 7, Uid: 0}, "process 7"},
		{unix.Ucred{Pid: 0, Uid: 0}, "second DaemonSet"},
		{unix.Ucred{Pid: 7, Uid: 1000}, ""},
	} {
		err := refused(&test.holder, 0)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %q", test.holder, err, test.want)
		}
	}
}

// An agent of any mode removes what a killed one left with clsact, and nothing else.
func TestClaimRemovesWhatIsLeft(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNetwork(t)
	killed, err := Open(Options{Mode: ModeClsact})
	must(t, err)
	must(t, killed.Attach(n.ifindex)) // never detached
	for _, name := range []string{encryptedFilter.name, "cni", "layertrace-not"} {
		addFilter(t, n.ifindex, netlink.HANDLE_MIN_INGRESS, name)
	}
	name := linkName(t, n.ifindex)
	wantLeft := func(want ...string) {
		t.Helper()
		if got, err := LeftBehind(); err != nil || !slices.Equal(got, want) {
			t.Errorf("filters are left at %q, %v; want %q", got, err, want)
		}
	}
	wantLeft(name)
	other, err := net.ListenUnix("unix", &net.UnixAddr{Name: claimName, Net: "unix"})
	must(t, err)
	wantLeft() // they may be those of the agent that runs
	must(t, other.Close())
	var log bytes.Buffer
	claim := func() {
		t.Helper()
		c, err := Claim(slog.New(slog.NewTextHandler(&log, nil)))
		must(t, err)
		must(t, c.Close())
	}
	claim()
	if !strings.Contains(log.String(), "filters=3") || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("the log has %s", &log)
	}
	if names := filterNames(t, n.ifindex); !slices.Equal(names, []string{"cni", "layertrace-not"}) {
		t.Errorf("filters %q are left, want those of others", names)
	}
	wantLeft()
	checkAll(t, captured(t, n, Options{}), OptionOff)
	if seen := finish(t, killed); len(seen) != 0 {
		t.Errorf("the killed agent's filters saw %d exchanges", len(seen))
	}
	log.Reset()
	claim()
	if log.Len() > 0 {
		t.Errorf("nothing was left, and the log has %s", &log)
	}
}

func linkName(t *testing.T, ifindex int) string {
	t.Helper()
	link, err := netlink.LinkByIndex(ifindex)
	must(t, err)
	return link.Attrs().Name
}
