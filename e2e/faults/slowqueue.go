// SPDX-License-Identifier: Apache-2.0

// Package queue makes the queue of one interface slow for one kind of message:
// large ones to or from the port of the applications. All else passes as before.
package faults

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// podQueue makes the queue of a pod's interface slow. What is in front of it
// cannot be watched, but its first packet passes at once and all of them came
// together: what it took from the last is the time between first and last.
func (in *Injector) podQueue(ctx context.Context, c Case, r Request) (time.Duration, error) {
	pod, err := lab.PodByName(c.Pod)
	if err != nil {
		return 0, err
	}
	slow := slowQueue{Namespace: in.lab.PodNamespace(pod.Name), NIC: "eth0"}
	node := in.lab.NodeNamespace(pod.Node)
	behind, err := in.slow(ctx, slow, c, r, site{node, pod.VNIC})
	if err != nil {
		return 0, err
	}
	m, err := behind[0].message(r.TraceID, c.Transfer)
	if err != nil {
		return 0, err
	}
	began, ok1 := behind[0].began(m)
	passed, ok2 := behind[0].passed(m)
	if !ok1 || !ok2 {
		return 0, ErrMissed
	}
	return passed.Sub(began), nil
}

// driverQueue makes the queue of a node's physical interface slow.
func (in *Injector) driverQueue(ctx context.Context, c Case, r Request) (time.Duration, error) {
	from, err := lab.PodByName(c.Transfer.From())
	if err != nil {
		return 0, err
	}
	node := in.lab.NodeNamespace(c.Node)
	slow := slowQueue{Namespace: node, NIC: lab.PNIC}
	seen, err := in.slow(ctx, slow, c, r, site{node, from.VNIC}, site{node, lab.PNIC})
	if err != nil {
		return 0, err
	}
	return timeBetween(seen[0], seen[1], r.TraceID, c.Transfer)
}

// bridgeQueue makes the queue of a node's bridge slow, for what the node routes
// to its pods.
func (in *Injector) bridgeQueue(ctx context.Context, c Case, r Request) (time.Duration, error) {
	to, err := lab.PodByName(c.Transfer.To())
	if err != nil {
		return 0, err
	}
	node := in.lab.NodeNamespace(c.Node)
	slow := slowQueue{Namespace: node, NIC: lab.NodeBridge}
	seen, err := in.slow(ctx, slow, c, r, site{node, lab.PNIC}, site{node, to.VNIC})
	if err != nil {
		return 0, err
	}
	return timeBetween(seen[0], seen[1], r.TraceID, c.Transfer)
}

// slow sends a request whose message on the case's transfer is long, with one queue
// slow for it, and returns what passed the spots.
func (in *Injector) slow(ctx context.Context, s slowQueue, c Case, r Request, spots ...site) (seen []*recording, err error) {
	s.Match = queueMatch{Port: lab.AppPort, Response: c.Transfer.Response, Longer: minPaddedPacket(c.Transfer)}
	// A message that comes in pieces waits less: the queue is at work before
	// its last piece is there.
	s.Rate = queueRate(paddedLength, c.Magnitude+200*time.Microsecond)
	remove, err := s.install()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	return captureAt(spots, func([]*recording) error { return in.sendPadded(ctx, c.Transfer, r) })
}

// between is how long after the first spot a message had passed the second.
func timeBetween(before, behind *recording, traceID string, transfer Transfer) (time.Duration, error) {
	m, err := before.message(traceID, transfer)
	if err != nil {
		return 0, err
	}
	return heldFor(before, behind, m)
}

func heldFor(before, behind *recording, m message) (time.Duration, error) {
	came, ok1 := before.passed(m)
	went, ok2 := behind.passed(m)
	if !ok1 || !ok2 {
		return 0, fmt.Errorf("%w: it was not seen on both sides", ErrMissed)
	}
	return went.Sub(came), nil
}

// Burst is how many bytes the slow queue lets pass at once: one full segment,
// the next has to wait.
const queueBurst = 1600

// mss is what a segment carries on the lab's interfaces, overhead the headers
// that count in the queue: Ethernet, IPv4, TCP with timestamps.
const (
	mss         = 1500 - 20 - 32
	headerBytes = 14 + 20 + 32
)

// Wire is how many bytes the queue counts for a message, sent at once.
func wireBytes(message int) int { return message + (message+mss-1)/mss*headerBytes }

// Rate is the bytes per second at which a message leaves the queue d after it
// came, when the queue was empty and its bucket full.
func queueRate(message int, d time.Duration) uint64 {
	return uint64(float64(wireBytes(message)-queueBurst) / d.Seconds())
}

// Delay is the time that Rate is the rate for.
func queueDelay(message int, rate uint64) time.Duration {
	return time.Duration(float64(wireBytes(message)-queueBurst) / float64(rate) * float64(time.Second))
}

// Slow says which queue is slow, and for what.
type slowQueue struct {
	Namespace *sandbox.Namespace
	NIC       string
	Match     queueMatch
	// Rate in bytes per second.
	Rate uint64
}

var (
	htbRoot  = netlink.MakeHandle(1, 0)
	htbClass = netlink.MakeHandle(1, 2)
	tbfLeaf  = netlink.MakeHandle(2, 0)
)

// Install makes the queue slow until remove is called. Then packets that are
// still in it are lost.
func (s slowQueue) install() (remove func() error, err error) {
	nl, err := s.Namespace.Netlink()
	if err != nil {
		return nil, err
	}
	defer nl.Close()
	link, err := nl.LinkByName(s.NIC)
	if err != nil {
		return nil, fmt.Errorf("find %s in %s: %w", s.NIC, s.Namespace.Name, err)
	}
	index := link.Attrs().Index
	remove = func() error { return errors.Join(unmark(s.Namespace), s.removeQueue(index)) }
	if err := s.addQueue(nl, index); err != nil {
		return nil, errors.Join(err, s.removeQueue(index))
	}
	// Packets are marked for the class when it is there.
	if err := s.Match.mark(s.Namespace, s.NIC, htbClass); err != nil {
		return nil, errors.Join(err, remove())
	}
	return remove, nil
}

// addQueue replaces the interface's queue. HTB sends at once what belongs to
// none of its classes; TBF, below it, cuts large packets into segments.
func (s slowQueue) addQueue(nl *netlink.Handle, index int) error {
	htb := netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: index, Handle: htbRoot, Parent: netlink.HANDLE_ROOT})
	htb.Defcls = 0
	steps := []struct {
		what string
		do   func() error
	}{
		{"HTB (needs sch_htb)", func() error { return nl.QdiscAdd(htb) }},
		{"a class", func() error {
			const unlimited = 80_000_000_000 // bits per second
			return nl.ClassAdd(netlink.NewHtbClass(
				netlink.ClassAttrs{LinkIndex: index, Handle: htbClass, Parent: htbRoot},
				netlink.HtbClassAttrs{Rate: unlimited, Buffer: 1 << 20, Cbuffer: 1 << 20, Quantum: 60_000}))
		}},
		{"TBF (needs sch_tbf)", func() error {
			return nl.QdiscAdd(&netlink.Tbf{
				QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: tbfLeaf, Parent: htbClass},
				Rate:       s.Rate, Limit: 1 << 20, Buffer: tbfTicks(queueBurst, s.Rate),
			})
		}},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return fmt.Errorf("make %s in %s slow: add %s: %w", s.NIC, s.Namespace.Name, step.what, err)
		}
	}
	return nil
}

// ticks is how long a number of bytes takes, in the kernel's unit of 64 ns.
func tbfTicks(bytes int, rate uint64) uint32 {
	return uint32((uint64(bytes)*uint64(time.Second)/rate + 63) / 64)
}

func (s slowQueue) removeQueue(index int) error {
	nl, err := s.Namespace.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	err = nl.QdiscDel(&netlink.Htb{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: htbRoot, Parent: netlink.HANDLE_ROOT}})
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("remove the slow queue of %s in %s: %w", s.NIC, s.Namespace.Name, err)
	}
	return nil
}

// Match says which packets are slow.
type queueMatch struct {
	// Port is the server's; Response chooses what comes from it, otherwise what
	// goes to it.
	Port     uint16
	Response bool
	// Longer is the length that an IPv4 packet, before it is cut into segments,
	// must have and one byte more.
	Longer int
}

var markTable = &nftables.Table{Name: "layertrace-faults", Family: nftables.TableFamilyIPv4}

// mark gives the packets that leave by nic a priority that names the class. It
// comes last: addresses and ports are those on the wire.
func (m queueMatch) mark(space *sandbox.Namespace, nic string, class uint32) error {
	conn, err := nftables.New(nftables.WithNetNSFd(space.FD()))
	if err != nil {
		return fmt.Errorf("open nftables in %s: %w", space.Name, err)
	}
	conn.AddTable(markTable)
	chain := conn.AddChain(&nftables.Chain{
		Name: "mark", Table: markTable, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityRef(300),
	})
	conn.AddRule(&nftables.Rule{Table: markTable, Chain: chain, Exprs: m.rule(nic, class)})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("mark packets in %s (needs nf_tables): %w", space.Name, err)
	}
	return nil
}

func (m queueMatch) rule(nic string, class uint32) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, nic)
	port := uint32(2)
	if m.Response {
		port = 0
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: port, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(m.Port)},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpGt, Register: 1, Data: binaryutil.BigEndian.PutUint16(uint16(m.Longer))},
		&expr.Counter{},
		&expr.Immediate{Register: 1, Data: binary.NativeEndian.AppendUint32(nil, class)},
		&expr.Meta{Key: expr.MetaKeyPRIORITY, Register: 1, SourceRegister: true},
	}
}

// unmark removes what mark made.
func unmark(space *sandbox.Namespace) error {
	conn, err := nftables.New(nftables.WithNetNSFd(space.FD()))
	if err != nil {
		return fmt.Errorf("open nftables in %s: %w", space.Name, err)
	}
	conn.DelTable(markTable)
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("stop marking packets in %s: %w", space.Name, err)
	}
	return nil
}
