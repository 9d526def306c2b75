// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// claimName is the abstract address that an agent listens on. Such addresses belong to a
// network namespace, as interfaces do, and are free again when the process ends, however it
// ends: so there is one agent for the interfaces of a namespace, also from containers of pods
// in the node's network, and nothing to clean up.
const claimName = "@layertrace-agent"

// Claim makes this process the agent of its network namespace until the result is closed. Two
// would report everything twice, and take each other's clsact filters off. What a killed agent
// left there is removed, unless another user's process has the address, which may be one.
func Claim(log *slog.Logger) (io.Closer, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: claimName, Net: "unix"})
	if errors.Is(err, unix.EADDRINUSE) {
		holder, err := holderOf(claimName)
		if err == nil {
			err = refused(holder, os.Getuid())
		}
		if err != nil {
			return nil, err
		}
		log.Warn("another user's process has the address of agents: going on without it, so that a second agent would not be noticed", "pid", holder.Pid, "uid", holder.Uid)
		return io.NopCloser(nil), nil
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", claimName, err)
	}
	if err := removeLeft(log); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	go func() { // the kernel knows who listens: nothing is said
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	return l, nil
}

// holderOf returns the process that listens on an abstract address.
func holderOf(name string) (*unix.Ucred, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("ask for the agent that runs here: %w; start this one again", err)
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("ask for the agent that runs here: %w", err)
	}
	var holder *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		holder, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, fmt.Errorf("ask for the agent that runs here: %w", err)
	}
	if failed != nil {
		return nil, fmt.Errorf("ask for the agent that runs here: %w", failed)
	}
	return holder, nil
}

// refused returns the error of a second agent. Any user may take the address; a process of
// another one is no agent, and keeps none from running.
func refused(holder *unix.Ucred, uid int) error {
	switch {
	case int(holder.Uid) != uid:
		return nil
	case holder.Pid == 0: // in another PID namespace
		return errors.New("another agent captures in this network namespace, in a container that this one cannot see: a node has one agent; stop the other one first (such as a second DaemonSet)")
	default:
		return fmt.Errorf("another agent captures in this network namespace (process %d): a node has one agent; stop the other one first", holder.Pid)
	}
}

// LeftBehind returns the interfaces of this network namespace at which the filters of an agent
// run that was killed: none while an agent is here.
func LeftBehind() (names []string, err error) {
	if _, err := holderOf(claimName); err == nil {
		return nil, nil
	}
	links, err := listLinks()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		for _, f := range []filter{captureFilter, encryptedFilter} {
			ours, err := (&clsact{ifindex: l.Attrs().Index, filter: f}).filters()
			if err != nil && !isGone(err) {
				return nil, fmt.Errorf("look for the filters of an earlier agent at %s: %w", l.Attrs().Name, err)
			}
			if name := l.Attrs().Name; len(ours) > 0 && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// listAttempts is how often interfaces are listed that change meanwhile.
const listAttempts = 10

// listLinks lists the interfaces of this network namespace. Of those that come and go all the
// time, some may be missing.
func listLinks() (links []netlink.Link, err error) {
	for range listAttempts {
		if links, err = netlink.LinkList(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list the interfaces: %w", err)
	}
	return links, nil
}

// removeLeft removes what a killed agent left at the interfaces of this network namespace, in
// whatever mode it captured: the clsact filters with our names. All else ends with its
// process. The caller has claimed the namespace.
func removeLeft(log *slog.Logger) error {
	links, err := listLinks()
	if err != nil {
		return err
	}
	for _, l := range links {
		removed := 0
		for _, f := range []filter{captureFilter, encryptedFilter} {
			c := &clsact{ifindex: l.Attrs().Index, filter: f}
			n, err := c.removeFilters()
			if err != nil && !isGone(err) {
				return fmt.Errorf("remove the filters of an earlier agent from %s: %w", l.Attrs().Name, err)
			}
			removed += n
		}
		if removed > 0 {
			log.Info("removed the filters of an agent that was killed", "interface", l.Attrs().Name, "filters", removed)
		}
	}
	return nil
}
