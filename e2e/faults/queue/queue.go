// SPDX-License-Identifier: Apache-2.0

// Package queue makes the queue of one interface slow for one kind of message:
// large ones to or from the port of the applications. All else passes as before.
package queue

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Burst is how many bytes the slow queue lets pass at once: one full segment,
// the next has to wait.
const Burst = 1600

// mss is what a segment carries on the lab's interfaces, overhead the headers
// that count in the queue: Ethernet, IPv4, TCP with timestamps.
const (
	mss      = 1500 - 20 - 32
	overhead = 14 + 20 + 32
)

// Wire is how many bytes the queue counts for a message, sent at once.
func Wire(message int) int { return message + (message+mss-1)/mss*overhead }

// Rate is the bytes per second at which a message leaves the queue d after it
// came, when the queue was empty and its bucket full.
func Rate(message int, d time.Duration) uint64 {
	return uint64(float64(Wire(message)-Burst) / d.Seconds())
}

// Delay is the time that Rate is the rate for.
func Delay(message int, rate uint64) time.Duration {
	return time.Duration(float64(Wire(message)-Burst) / float64(rate) * float64(time.Second))
}

// Slow says which queue is slow, and for what.
type Slow struct {
	Space *sandbox.Namespace
	NIC   string
	Match Match
	// Rate in bytes per second.
	Rate uint64
}

var (
	root  = netlink.MakeHandle(1, 0)
	class = netlink.MakeHandle(1, 2)
	leaf  = netlink.MakeHandle(2, 0)
)

// Install makes the queue slow until remove is called. Then packets that are
// still in it are lost.
func (s Slow) Install() (remove func() error, err error) {
	nl, err := s.Space.Netlink()
	if err != nil {
		return nil, err
	}
	defer nl.Close()
	link, err := nl.LinkByName(s.NIC)
	if err != nil {
		return nil, fmt.Errorf("find %s in %s: %w", s.NIC, s.Space.Name, err)
	}
	index := link.Attrs().Index
	remove = func() error { return errors.Join(unmark(s.Space), s.removeQueue(index)) }
	if err := s.addQueue(nl, index); err != nil {
		return nil, errors.Join(err, s.removeQueue(index))
	}
	// Packets are marked for the class when it is there.
	if err := s.Match.mark(s.Space, s.NIC, class); err != nil {
		return nil, errors.Join(err, remove())
	}
	return remove, nil
}

// addQueue replaces the interface's queue. HTB sends at once what belongs to
// none of its classes; TBF, below it, cuts large packets into segments.
func (s Slow) addQueue(nl *netlink.Handle, index int) error {
	htb := netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: index, Handle: root, Parent: netlink.HANDLE_ROOT})
	htb.Defcls = 0
	steps := []struct {
		what string
		do   func() error
	}{
		{"HTB (needs sch_htb)", func() error { return nl.QdiscAdd(htb) }},
		{"a class", func() error {
			const unlimited = 80_000_000_000 // bits per second
			return nl.ClassAdd(netlink.NewHtbClass(
				netlink.ClassAttrs{LinkIndex: index, Handle: class, Parent: root},
				netlink.HtbClassAttrs{Rate: unlimited, Buffer: 1 << 20, Cbuffer: 1 << 20, Quantum: 60_000}))
		}},
		{"TBF (needs sch_tbf)", func() error {
			return nl.QdiscAdd(&netlink.Tbf{
				QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: leaf, Parent: class},
				Rate:       s.Rate, Limit: 1 << 20, Buffer: ticks(Burst, s.Rate),
			})
		}},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return fmt.Errorf("make %s in %s slow: add %s: %w", s.NIC, s.Space.Name, step.what, err)
		}
	}
	return nil
}

// ticks is how long a number of bytes takes, in the kernel's unit of 64 ns.
func ticks(bytes int, rate uint64) uint32 {
	return uint32((uint64(bytes)*uint64(time.Second)/rate + 63) / 64)
}

func (s Slow) removeQueue(index int) error {
	nl, err := s.Space.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	err = nl.QdiscDel(&netlink.Htb{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: root, Parent: netlink.HANDLE_ROOT}})
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("remove the slow queue of %s in %s: %w", s.NIC, s.Space.Name, err)
	}
	return nil
}
